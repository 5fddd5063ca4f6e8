"""Sweeps that several processes do together."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small_jobs

from normwise.comparison import InputError, RunFinished, RunStarted, SweepStarted, compare
from normwise.comparison.storage import read_rows, read_sweep

SMALL = {"model": "small_problems:net", "data": "small_problems:blobs", "norms": ["batch", "group"], "epochs": 1}
OWN = {"metric": "score", "direction": "max", "norms": ["batch", "group", "none"], "batch_sizes": [4], "seeds": 2}
TIMES = ("step_ms", "seconds", "started")


def untimed(rows):
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def test_rows_of_several_processes_are_those_of_one(tmp_path):
    sweep = SMALL | {"batch_sizes": [8, 16], "seeds": 2}
    events = []
    rows = compare(**sweep, jobs=2, out=tmp_path, on_event=events.append)
    assert untimed(rows) == untimed(compare(**sweep))
    assert all(row["step_ms"] > 0 for row in rows)
    assert isinstance(events[0], SweepStarted)
    finished = [event for event in events if isinstance(event, RunFinished)]
    assert [event.done for event in finished] == list(range(1, 9))
    assert {event.run for event in finished} == {event.run for event in events if isinstance(event, RunStarted)}
    assert {row["key"] for row in read_sweep(tmp_path)[0]} == {row["key"] for row in rows}
    assert untimed(compare(**sweep, jobs=2, out=tmp_path)) == untimed(rows)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_the_run_of_a_killed_worker_is_repeated_and_one_that_kills_each_time_has_failed(tmp_path, monkeypatch):
    monkeypatch.setenv("SMALL_JOBS_FOLDER", str(tmp_path))
    undisturbed = compare(train=small_jobs.score, **OWN)
    rows = compare(train=small_jobs.deadly_score, **OWN, jobs=2)
    assert (tmp_path / "killed once").exists()
    for row, expected in zip(rows, undisturbed, strict=True):
        if (row["norm"], row["seed"]) == ("none", 1):
            assert row["status"] == "failed"
            assert row["message"] == "Its process ended 3 times, the last time with exit code -9."
        else:
            assert (row["status"], row["value"]) == ("finished", expected["value"])


HEAD = """
import sys
from normwise.comparison import compare
import small_jobs
if __name__ == "__main__":
    compare(train=small_jobs.slow_score, metric="score", direction="max", norms=["batch", "none"], batch_sizes=[4],
            seeds=3, jobs=2, out=sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_killed_head_takes_its_workers_along_and_the_sweep_resumes(tmp_path, monkeypatch):
    script, out = tmp_path / "head.py", tmp_path / "out"
    script.write_text(HEAD)
    monkeypatch.setenv("SMALL_JOBS_FOLDER", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*sys.path, str(Path(__file__).parents[1])]))
    head = subprocess.Popen([sys.executable, str(script), str(out)])
    pids = tmp_path / "pids"
    while not out.exists() or not read_rows(out):
        assert head.poll() is None
        time.sleep(0.1)
    head.kill()
    head.wait()
    workers = {int(pid) for pid in pids.read_text().split()}
    deadline = time.monotonic() + 30
    while any(map(_alive, workers)):
        assert time.monotonic() < deadline, "a worker has outlived its head"
        time.sleep(0.1)
    before = len(read_rows(out))
    sweep = {"metric": "score", "direction": "max", "norms": ["batch", "none"], "batch_sizes": [4], "seeds": 3}
    rows = compare(train=small_jobs.slow_score, **sweep, out=out)
    assert before < 6
    assert untimed(rows) == untimed(compare(train=small_jobs.slow_score, **sweep))


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_parts_of_a_sweep_in_folders_of_their_own_are_reported_as_one(tmp_path, command):
    whole = compare(train=small_jobs.score, **OWN)
    folders = [tmp_path / f"part{k}" for k in (1, 2, 3, 4)]
    parts = [compare(train=small_jobs.score, **OWN, shard=f"{k}/4", out=out) for k, out in enumerate(folders, start=1)]
    assert [len(rows) for rows in parts] == [2, 2, 1, 1]
    assert sorted(row["key"] for rows in parts for row in rows) == sorted(row["key"] for row in whole)
    asked = ("report", *map(str, folders[:3]), "--out", "merged", "--json", "rows.json")
    code, output, errors = command(*asked)
    assert (code, errors) == (0, "")
    assert "Unfinished: 5 of 6 runs are in." in output
    assert command("report", *map(str, folders), "--out", "merged", "--json", "rows.json")[0] == 0
    assert untimed(json.loads((tmp_path / "rows.json").read_text())) == untimed(whole)
    assert "Which normalizer for score?" in (tmp_path / "merged" / "report.html").read_text()


def test_several_folders_of_other_sweeps_are_no_report(tmp_path, command):
    for out, norms in (("a", ["batch"]), ("b", ["none"])):
        compare(train=small_jobs.score, **(OWN | {"norms": norms}), out=tmp_path / out)
    code, _, errors = command("report", "a", "b", "--out", "c")
    assert code == 2
    assert "b holds another comparison than a" in errors


def local(run):
    return {"score": 1.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"jobs": 0}, "jobs must be how many processes do runs at a time, at least 1; received 0"),
        ({"jobs": "two"}, "received 'two'"),
        ({"jobs": 2, "train": lambda run: {}}, "must be able to import train="),
        ({"jobs": 2, "norms": ["batch", lambda channels: None]}, "norms=.* define it at the top of a module"),
        ({"budget": "soon"}, "budget must be a time such as '30m', '2h' or '90s', received 'soon'"),
        ({"budget": 0}, "received 0"),
        ({"shard": "3"}, "shard must be a part of how many, from '1/16' to '16/16', received '3'"),
        ({"shard": "0/4"}, "received '0/4'"),
        ({"shard": "5/4"}, "received '5/4'"),
    ],
)
def test_what_is_asked_wrongly_is_said_before_anything_starts(changes, message):
    if "train" in changes:
        changes = changes | {"train": lambda run: {"score": 1.0}}
    with pytest.raises(InputError, match=message):
        compare(**({"train": local} | OWN | changes))


def test_the_tables_are_in_the_order_that_was_asked(tmp_path, command, monkeypatch):
    monkeypatch.setattr("sys.path", [*sys.path, str(Path(__file__).parents[1])])
    asked = ("--norms", "none,group,batch", "--batch-sizes", "4", "--seeds", "2", "--out", "out", "--json", "rows.json")
    code, output, _ = command("compare", "--train", "small_jobs:score", "--metric", "score:max", *asked, "--jobs", "2")
    assert code == 0
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["norm"] for row in rows] == ["none", "group", "batch"] * 2
    table = output.partition("\nbatch size")[2].splitlines()[1:4]
    assert [line.split()[0] for line in table] == ["No", "GroupNorm", "BatchNorm"]


def test_halves_of_our_own_loop_are_reported_as_the_whole(tmp_path, command, monkeypatch):
    monkeypatch.setattr("sys.path", [*sys.path, str(Path(__file__).parents[1])])
    sweep = SMALL | {"batch_sizes": [8, 16], "seeds": 2}
    for k in (1, 2):
        assert len(compare(**sweep, shard=f"{k}/2", out=tmp_path / f"part{k}")) == 4
    assert command("report", "part1", "part2", "--out", "whole", "--json", "rows.json")[0] == 0
    assert untimed(json.loads((tmp_path / "rows.json").read_text())) == untimed(compare(**sweep))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_one_of_four_workers_is_killed_from_outside(tmp_path, monkeypatch):
    monkeypatch.setenv("SMALL_JOBS_FOLDER", str(tmp_path))
    sweep = {"metric": "score", "direction": "max", "norms": ["batch", "none", "group"], "batch_sizes": [4], "seeds": 4}
    killed = []

    def kill_one(event):
        pids = (tmp_path / "pids").read_text().split() if (tmp_path / "pids").exists() else []
        if isinstance(event, RunStarted) and not killed and len(set(pids)) == 4:
            killed.append(int(pids[-1]))
            os.kill(killed[0], signal.SIGKILL)

    rows = compare(train=small_jobs.slow_score, **sweep, jobs=4, out=tmp_path / "out", on_event=kill_one)
    begun = list(map(int, (tmp_path / "pids").read_text().split()))
    assert len(set(begun)) >= 4
    assert killed
    assert len(begun) == len(rows) + 1, "the run of the killed worker is begun again"
    assert untimed(rows) == untimed(compare(train=small_jobs.slow_score, **sweep))
    assert untimed(read_sweep(tmp_path / "out")[0]) == untimed(rows)
