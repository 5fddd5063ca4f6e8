"""Sweeps that stop what is clearly behind, and those that have only so much time."""

import math
import time

import pytest
import small_jobs
import torch

from normwise.comparison import compare, summarize
from normwise.comparison.report.page import build_page
from normwise.comparison.report.words import partial
from normwise.comparison.storage import read_sweep
from normwise.comparison.verdicts.sequential import level_of, looks_of, stops_among

OWN = {"metric": "score", "direction": "max", "batch_sizes": [2, 4]}
LEVEL = {"batch": 5.0, "group": 5.0, "layer": 3.0, "none": 1.0}


def noise(run):
    return 0.1 * math.sin(37.0 * run.seed + 11.0 * run.batch_size + 3.0 * len(run.name))


def two_are_behind(run):
    """Of these two lie far behind, and two are alike."""
    return {"score": LEVEL[run.name] + noise(run)}


def one_is_ahead(run):
    return {"score": 9.0 * (run.name == "batch") + noise(run)}


def seeds_of(rows, norm, size):
    return [row["seed"] for row in rows if (row["norm"], row["batch_size"]) == (norm, size)]


def test_what_is_clearly_behind_is_not_run_on():
    rows = compare(train=two_are_behind, norms=list(LEVEL), **OWN, seeds=6, until_clear=True)
    for size in (2, 4):
        assert seeds_of(rows, "batch", size) == seeds_of(rows, "group", size) == list(range(6))
        assert len(seeds_of(rows, "none", size)) < 6
        assert len(seeds_of(rows, "layer", size)) < 6
    summary = summarize(rows, looks_of(6))
    for verdict in summary.verdicts:
        assert set(verdict.tied) == {"batch", "group"}
        assert verdict.behind == ("layer", "none")
    assert any(sentence.startswith("Stopped at batch size 2 after") for sentence in summary.evidence)


def test_the_report_of_a_sweep_that_stopped_is_not_unfinished(tmp_path):
    asked = {"train": two_are_behind, "norms": list(LEVEL), **OWN, "out": tmp_path}
    compare(**asked, seeds=6, until_clear=True)
    rows, about = read_sweep(tmp_path)
    assert len(rows) < 48
    assert partial(rows, about) is None
    assert (
        partial(rows[:-1], about) == f"Unfinished: {len(rows) - 1} of 48 runs are in. The same command does the rest."
    )
    page = build_page(rows, about)
    assert "Stopped at batch size 2 after" in page


def test_a_decided_batch_size_is_not_run_on():
    rows = compare(train=one_is_ahead, norms=["batch", "group", "none"], **OWN, seeds=9, until_clear=True)
    assert len(rows) < 2 * 3 * 9 / 2
    summary = summarize(rows, looks_of(9))
    assert all(verdict.clear and verdict.leader == "batch" for verdict in summary.verdicts)
    assert summary.headline.startswith("BatchNorm")


def test_a_resumed_sweep_stops_where_an_undisturbed_one_does(tmp_path):
    asked = {"train": two_are_behind, "norms": list(LEVEL), **OWN, "until_clear": True}
    undisturbed = compare(**asked, seeds=5)
    compare(**(asked | {"batch_sizes": [4], "norms": ["none", "batch"]}), seeds=2, out=tmp_path)
    rows = compare(**asked, seeds=5, out=tmp_path)
    assert [(row["key"], row["value"]) for row in rows] == [(row["key"], row["value"]) for row in undisturbed]


@pytest.fixture
def one_thread():
    """As many as each of two processes has on two processors."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_several_processes_stop_the_same(tmp_path, one_thread, monkeypatch):
    monkeypatch.setattr("normwise.comparison.sweeping.jobs._processors", lambda: 2)
    asked = {"train": two_are_behind, "norms": list(LEVEL), **OWN, "until_clear": True, "seeds": 4}
    expected = {(row["key"], row["value"]) for row in compare(**asked)}
    assert {(row["key"], row["value"]) for row in compare(**asked, jobs=2, out=tmp_path)} == expected


def test_looks_wait_for_a_whole_seed():
    rows = [
        {
            "norm": norm,
            "batch_size": 2,
            "seed": seed,
            "train": "mine:train",
            "metric": "score",
            "direction": "max",
            "value": LEVEL[norm] + seed / 9,
        }
        | {"status": "finished", "step_ms": None, "peak_memory_bytes": None}
        for seed in range(3)
        for norm in LEVEL
    ]
    places = [(norm, 2) for norm in LEVEL]
    assert not stops_among(rows[:7], places, 5).places
    assert set(stops_among(rows[:8], places, 5).places) == {("layer", 2), ("none", 2)}


def test_the_error_rate_is_shared_out_over_the_looks():
    assert looks_of(2) == 1
    assert looks_of(6) == 5
    assert (1 - level_of(5)) * 5 == 1 - level_of(1)


def test_no_run_begins_that_would_end_after_the_budget(tmp_path, monkeypatch):
    monkeypatch.setenv("SMALL_JOBS_FOLDER", str(tmp_path))
    asked = {"train": small_jobs.slow_score, "norms": ["batch", "none"], **OWN, "seeds": 3, "out": tmp_path / "out"}
    begin = time.monotonic()
    rows = compare(**asked, budget=2.5)
    assert time.monotonic() - begin < 30
    assert 1 <= len(rows) < 12
    assert len(compare(**asked)) == 12
