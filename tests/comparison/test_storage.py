import errno
import itertools
import json
import os
import subprocess
import sys

import pytest

from normwise import files
from normwise.comparison import RunFinished, compare
from normwise.comparison.settings import InputError
from normwise.comparison.storage import RESULTS, Store, read_rows

ROWS = [{"key": "a", "value": 1.5}, {"key": "b", "value": None}]


@pytest.fixture
def folder(tmp_path):
    with Store(tmp_path / "deep" / "out") as store:
        for row in ROWS:
            store.append(row)
    return tmp_path / "deep" / "out"


def test_rows_come_back(folder):
    assert read_rows(folder) == ROWS
    with Store(folder) as store:
        assert store.rows() == {"a": ROWS[0], "b": ROWS[1]}
    assert read_rows(folder / "missing") == []


@pytest.mark.parametrize("torn", [b'{"key": "c", "va', b'{"key": "c", "value": 1}', b"{", b"\xc3"])
def test_a_torn_last_line_is_dropped_and_the_rest_stays(folder, torn):
    with (folder / RESULTS).open("ab") as file:
        file.write(torn)
    assert read_rows(folder) == ROWS
    with Store(folder) as store:
        store.append({"key": "d"})
    assert read_rows(folder) == [*ROWS, {"key": "d"}]


def test_a_file_of_one_torn_line(tmp_path):
    (tmp_path / RESULTS).write_bytes(b'{"key"')
    with Store(tmp_path) as store:
        assert store.rows() == {}


def test_values_that_json_lacks_are_refused_before_anything_is_written(folder):
    with Store(folder) as store, pytest.raises(ValueError, match="Out of range float values"):
        store.append({"key": "c", "value": float("nan")})
    assert read_rows(folder) == ROWS


@pytest.mark.parametrize("line", ["not json", "[1, 2]", "3", '{"no": "key"}'])
def test_a_foreign_line_is_named(folder, line):
    with (folder / RESULTS).open("a") as file:
        file.write(line + "\n")
    with Store(folder) as store, pytest.raises(InputError, match="line 3 is not a result of a run; remove the line"):
        store.rows()


def test_settings_are_replaced_as_a_whole(folder):
    with Store(folder) as store:
        store.begin({"a": 1}, ["k"])
        store.begin({"b": [2]}, ["a", "b"])
    assert json.loads((folder / "settings.json").read_text()) == {"b": [2], "keys": ["a", "b"], "retried": []}
    shown = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    assert shown == ["results.jsonl", "settings.json"]


OTHER = """
import pathlib, sys
from normwise.comparison.storage import InputError, Store
with Store(pathlib.Path(sys.argv[1])) as store:
    for keys in (["a", "b", "c"], ["a", "b"]):
        try:
            store.begin({}, keys)
        except InputError as error:
            print(error, flush=True)
    store.append({"key": "from the other"})
    with store.claim(0) as first, store.claim(1) as second:
        print(first, second, flush=True)
        input()
        with store.claim(0) as first:
            print(first, flush=True)
            input()
"""


def test_two_processes_fill_a_folder_together_and_lose_what_they_claim_when_they_die(folder):
    pipes = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
    with Store(folder) as store:
        store.begin({"mine": 1}, ["a", "b"])
        with store.claim(0) as mine:
            assert mine
            other = subprocess.Popen([sys.executable, "-c", OTHER, str(folder)], text=True, **pipes)
            refused, claimed = other.stdout.readline(), other.stdout.readline()
            with store.claim(1) as free:
                assert not free
        other.stdin.write("go on\n")
        other.stdin.flush()
        assert other.stdout.readline() == "True\n"
        other.kill()
        other.communicate(timeout=60)
        for place in (0, 1):
            with store.claim(place) as free:
                assert free
        store.append({"key": "mine"})
        assert set(store.rows()) == {"a", "b", "from the other", "mine"}
    assert "Another process is doing another comparison in" in refused
    assert "choose another output folder" in refused
    assert claimed == "False True\n"
    assert json.loads((folder / "settings.json").read_text())["mine"] == 1
    assert read_rows(folder) == [*ROWS, {"key": "mine"}, {"key": "from the other"}]
    assert sorted(path.name for path in folder.glob("results*")) == ["results-1.jsonl", "results.jsonl"]


def test_of_several_tries_of_a_run_the_last_counts_and_a_failed_one_only_alone(tmp_path):
    tries = [("failed", 1), ("finished", 2), ("failed", 3)]
    with Store(tmp_path) as store:
        for status, hour in tries:
            store.append({"key": "k", "status": status, "started": f"2026-01-01T0{hour}:00"})
            store.append({"key": "other", "status": "failed", "started": f"2026-01-01T0{hour}:00"})
        assert {key: row["started"][12] for key, row in store.rows().items()} == {"k": "2", "other": "3"}
        assert store.begin({}, ["k", "other"]) == {"other 2026-01-01T03:00"}


def test_the_lock_is_free_after_an_error(folder):
    with pytest.raises(KeyboardInterrupt), Store(folder):
        raise KeyboardInterrupt
    with Store(folder):
        pass


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be written .*; choose another"), Store(tmp_path / "file" / "out"):
        pass


@pytest.mark.parametrize("full_at", [1, 2, 3])
def test_a_full_disk_ends_the_sweep_with_what_is_kept_and_it_goes_on_later(tmp_path, monkeypatch, full_at):
    """Settings come first, then a row each: the disk is full at the first, second or third write."""
    sweep = {"norms": ["none", "group"], "batch_sizes": [2], "seeds": 1, "metric": "loss", "direction": "min"}

    def train(run):
        return {"loss": float(len(run.name))}

    written, to_disk = itertools.count(1), files._to_disk

    def until_full(file):
        if next(written) >= full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        to_disk(file)

    with monkeypatch.context() as disk:
        disk.setattr(files, "_to_disk", until_full)
        with pytest.raises(
            InputError, match=r"nothing more can be written there \(No space left on device\); the runs"
        ):
            compare(train=train, **sweep, out=tmp_path)
    kept = len(read_rows(tmp_path))
    assert kept >= full_at - 2
    events = []
    rows = compare(train=train, **sweep, out=tmp_path, on_event=events.append)
    assert [row["value"] for row in rows] == [4.0, 5.0]
    assert sum(isinstance(event, RunFinished) for event in events) == 2 - kept
