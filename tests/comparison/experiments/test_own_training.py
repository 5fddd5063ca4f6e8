"""`compare(train=...)`: any task, in the caller's own loop."""

import json
import math
import re
import sys
from functools import partial

import numpy as np
import pytest
import small_problems
import torch
from torch import nn

from normwise.comparison import EpochFinished, InputError, SweepStarted, compare, summarize
from normwise.comparison.report.page import build_page
from normwise.comparison.storage import read_rows, read_sweep
from normwise.layers import BatchNorm1d, GroupNorm, LayerNorm

SWEEP = {"norms": ["batch", "layer", "none"], "batch_sizes": [8, 16], "seeds": 2, "metric": "rmse", "direction": "min"}
LEVEL = {"batch": 1.0, "layer": 2.0, "none": 3.0}
TIMES = ("step_ms", "seconds", "started")


def regression(run):
    """Three steps of a small net; reports a loss and returns what came out."""
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(1))
    net = nn.Sequential(nn.Linear(4, 8), run.norm(8, rank=1), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for epoch in range(3):
        optimizer.zero_grad()
        loss = (net(x[: run.batch_size]) - x[: run.batch_size, :1]).square().mean()
        loss.backward()
        optimizer.step()
        run.report(epoch + 1, train_loss=loss, noise=math.nan)
    net.eval()
    return {"rmse": (net(x) - x[:, :1]).square().mean().sqrt(), "seed": run.seed}


def planned(run):
    return {"rmse": LEVEL[run.name] + 0.01 * ((run.seed * 7 + run.batch_size) % 3)}


@pytest.fixture(scope="module")
def rows():
    return compare(train=regression, **SWEEP)


def test_a_row_has_what_the_function_returned_and_reported(rows):
    assert len(rows) == 12
    row = rows[0]
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert (row["status"], row["metric"], row["direction"], row["train"]) == ("finished", "rmse", "min", "regression")
    assert row["value"] == row["metrics"]["rmse"] > 0
    assert row["metrics"]["seed"] == row["seed"]
    assert [point["epoch"] for point in row["curve"]] == [1, 2, 3]
    assert row["curve"][0]["train_loss"] > 0
    assert row["curve"][0]["noise"] is None


def test_the_same_call_gives_the_same_rows_whatever_the_caller_does(rows):
    torch.manual_seed(99)
    with torch.no_grad():
        again = compare(train=regression, **SWEEP)

    def untimed(rows):
        return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]

    assert untimed(again) == untimed(rows)


def test_runs_of_one_seed_begin_alike():
    first = {}

    def train(run):
        torch.nn.Sequential(run.norm(4))
        first.setdefault(run.seed, set()).add((float(torch.rand(())), float(np.random.rand())))
        return {"score": 1.0}

    compare(
        train=train, norms=["batch", "group", "switchable"], batch_sizes=[4], seeds=2, metric="score", direction="max"
    )
    assert [len(drawn) for drawn in first.values()] == [1, 1]
    assert first[0] != first[1]


@pytest.mark.parametrize(("direction", "winner", "worst"), [("min", "BatchNorm", "none"), ("max", "no norm", "batch")])
def test_the_direction_says_who_wins(direction, winner, worst):
    summary = summarize(compare(train=planned, **(SWEEP | {"direction": direction, "seeds": 4})))
    assert summary.headline.lower().startswith(winner.lower())
    for verdict in summary.verdicts:
        assert verdict.clear
        assert verdict.behind[-1] == worst
        assert verdict.means["layer"] == pytest.approx(2.01, abs=0.01)
    assert "points" not in " ".join(summary.evidence)
    assert "%" not in " ".join(summary.evidence)


def test_a_run_that_raises_is_recorded_and_the_sweep_goes_on(tmp_path):
    def train(run):
        if run.name == "layer" and run.seed == 1:
            raise KeyError("no such column")
        return planned(run)

    rows = compare(train=train, out=tmp_path, **(SWEEP | {"seeds": 3}))
    failed = [row for row in rows if row["status"] == "failed"]
    assert [(row["norm"], row["seed"]) for row in failed] == [("layer", 1)] * 2
    for row in failed:
        assert row["value"] is None
        assert "no such column" in row["message"]
        assert 'raise KeyError("no such column")' in row["traceback"]
    summary = summarize(rows)
    assert all(verdict.leader == "batch" and verdict.unreliable == ("layer",) for verdict in summary.verdicts)
    assert "LayerNorm failed, see the report, in 1 of 3 runs at batch size 16 and 1 of 3" in " ".join(summary.evidence)
    page = build_page(*read_sweep(tmp_path))
    assert "raise KeyError(&quot;no such column&quot;)" in page


def test_a_function_that_exits_has_failed_and_does_not_end_the_sweep():
    """argparse does so where it finds options that are not its own."""

    def train(run):
        if run.name == "layer":
            sys.exit(2)
        return planned(run)

    rows = compare(train=train, **(SWEEP | {"seeds": 1, "batch_sizes": [8]}))
    assert [row["status"] for row in rows] == ["finished", "failed", "finished"]
    assert rows[1]["message"] == "SystemExit: 2."


def test_failed_runs_are_tried_again_and_finished_ones_are_not(tmp_path):
    calls, broken = [], [True]

    def train(run):
        calls.append(run.name)
        if run.name == "none" and broken[0]:
            raise RuntimeError("disk full")
        return planned(run)

    sweep = SWEEP | {"seeds": 1, "batch_sizes": [8]}
    compare(train=train, out=tmp_path, **sweep)
    broken[0] = False
    rows = compare(train=train, out=tmp_path, **sweep)
    assert calls == ["batch", "layer", "none", "none"]
    assert [row["status"] for row in rows] == ["finished"] * 3
    assert [row["status"] for row in read_sweep(tmp_path)[0]] == ["finished"] * 3


class Scaled:
    """A training function that holds a number."""

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, run):
        return {"rmse": self.scale * LEVEL[run.name]}


def scaled(scale, run):
    return Scaled(scale)(run)


@pytest.mark.parametrize("make", [Scaled, lambda scale: partial(scaled, scale)])
def test_runs_of_a_function_that_holds_other_numbers_are_not_taken_for_its_own(make, tmp_path):
    sweep = SWEEP | {"seeds": 1, "batch_sizes": [8], "out": tmp_path}
    values = [[row["value"] for row in compare(train=make(scale), **sweep)] for scale in (1.0, 2.0, 1.0)]
    assert values == [[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [1.0, 2.0, 3.0]]
    assert len(read_rows(tmp_path)) == 6


def test_a_metric_that_is_not_finite_is_a_diverged_run():
    def train(run):
        return {"rmse": math.inf if run.name == "none" else 1.0 + 0.1 * run.seed, "other": math.nan}

    rows = compare(train=train, **SWEEP)
    lost = [row for row in rows if row["norm"] == "none"]
    assert {row["status"] for row in lost} == {"diverged"}
    assert {row["message"] for row in lost} == {"rmse is inf."}
    assert rows[0]["metrics"]["other"] is None
    summary = summarize(rows)
    assert all("none" in verdict.unreliable for verdict in summary.verdicts)


def test_nothing_finite_at_all_is_said():
    summary = summarize(compare(train=lambda run: {"rmse": math.nan}, **SWEEP))
    assert summary.headline == "No run has a finite rmse: the report says why."
    assert "Batch size 8: no run has a finite rmse." in summary.evidence


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "must return a dict with the key 'rmse', it returned NoneType"),
        ({"loss": 1.0}, "must return a dict with the key 'rmse', it returned the keys 'loss'"),
        ({}, "it returned the keys of an empty dict"),
        ({"rmse": "low"}, "and a number there, it is str"),
        ({"rmse": torch.ones(2)}, "and a number there, it is Tensor"),
    ],
)
def test_what_the_function_must_return(returned, message):
    rows = compare(train=lambda run: returned, **(SWEEP | {"seeds": 1}))
    assert {row["status"] for row in rows} == {"failed"}
    assert message in rows[0]["message"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": None}, "train= needs metric="),
        ({"metric": " "}, "train= needs metric="),
        ({"direction": None}, "metric='rmse' needs a direction: 'max' where more is better, 'min' where less is"),
        ({"direction": "down"}, "received 'down'"),
        ({"train": 3}, "is not a function"),
        ({"train": lambda: None}, "must take one argument, the run"),
        ({"train": lambda run, more: None}, "must take one argument, the run"),
        ({"train": "small_problems:missing"}, "has no 'missing'"),
        ({"model": "resnet20"}, "model: with train= the function has its own model, data and training"),
        ({"data": "x.npz", "optimizer": "adamw"}, "data, optimizer: with train= the function has its own"),
        ({"norms": ["sync", "spade"]}, "Name other normalizers"),
        (
            {"train": None},
            "metric='rmse': classification has accuracy; write one of these, or return any other from train=",
        ),
    ],
)
def test_what_is_asked_wrongly_is_said_before_the_first_run(changes, message):
    with pytest.raises(InputError, match=message):
        compare(**(SWEEP | {"train": planned} | changes))


def test_contestants_without_a_place_are_left_out_with_a_note():
    events = []
    compare(train=planned, **(SWEEP | {"norms": ["batch", "sync", "spade"]}), on_event=events.append)
    started = next(event for event in events if isinstance(event, SweepStarted))
    assert [note.partition(" is left out")[0] for note in started.about["left_out"]] == ["SyncBatchNorm", "SPADE"]


def test_reports_reach_the_listener():
    def train(run):
        run.report(1, train_loss=0.5, rmse=2.0)
        run.report(2, rmse=torch.tensor(1.5))
        return {"rmse": 1.0}

    events = []
    compare(
        train=train,
        **(SWEEP | {"norms": ["batch"], "batch_sizes": [8], "seeds": 1, "epochs": 4}),
        on_event=events.append,
    )
    told = [event for event in events if isinstance(event, EpochFinished)]
    assert [(event.epoch, event.train_loss, event.value) for event in told] == [(1, 0.5, 2.0), (2, None, 1.5)]
    assert [event.work_done for event in told] == [0.25, 0.5]


def test_what_a_run_gives():
    seen = []

    def train(run):
        seen.append((repr(run), run.epochs, run.learning_rate, run.device))
        assert isinstance(run.norm(6, rank=1), BatchNorm1d)
        with pytest.raises(ValueError, match="epoch must be an integer of at least 1, received 0"):
            run.report(0)
        return {"rmse": 1.0}

    one = SWEEP | {"norms": ["batch"], "batch_sizes": [2], "seeds": 1, "epochs": 9}
    assert compare(train=train, **one)[0]["status"] == "finished"
    compare(train=train, **one, learning_rate=0.02)
    assert seen == [("TrainingRun('batch', batch_size=2, seed=0)", 9, rate, "cpu") for rate in (None, 0.02)]


def test_replace_takes_the_rank_from_the_classes_or_from_an_example():
    made = {}

    def train(run):
        volume = nn.Sequential(nn.Conv3d(1, 4, 1), nn.GroupNorm(2, 4))
        images = small_problems.fixed_net()
        features = nn.Sequential(nn.Linear(4, 4), nn.GroupNorm(2, 4))
        run.replace(volume)
        assert run.replace(images) is images
        run.replace(features, example=torch.randn(2, 4))
        made[run.name] = [type(net[1]).__name__ for net in (volume, images, features)]
        return {"rmse": 1.0}

    compare(train=train, **(SWEEP | {"seeds": 1, "batch_sizes": [2]}))
    assert made == {
        "batch": ["BatchNorm3d", "BatchNorm2d", "BatchNorm1d"],
        "layer": ["GroupNorm"] * 3,
        "none": ["Identity"] * 3,
    }


def test_replace_puts_token_norms_in_the_place_of_token_norms():
    def train(run):
        layer = run.replace(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
        return {"rmse": float(isinstance(layer.norm1, LayerNorm)) + 2 * float(type(layer.norm2).__name__ == "RMSNorm")}

    rows = compare(
        train=train, **(SWEEP | {"norms": ["token-layer", "token-rms", "group"], "seeds": 1, "batch_sizes": [2]})
    )
    assert [row["value"] for row in rows] == [1.0, 2.0, None]
    assert "has no BatchNorm, InstanceNorm or GroupNorm layer, which 'group' could replace" in rows[2]["message"]


MODULE = """
def score(run):
    run.report(1, score=0.5)
    return {"score": len(run.name) + 0.01 * run.seed}
"""


def test_the_command_trains_by_a_function_and_its_report_repeats_it(tmp_path, command):
    (tmp_path / "mine.py").write_text(MODULE)
    asked = ("--norms", "batch,layer,none", "--batch-sizes", "2,4", "--seeds", "2", "--epochs", "3", "--out", "out")
    code, output, errors = command("compare", "--train", "mine:score", "--metric", "score:max", *asked)
    assert (code, errors) == (0, "")
    assert "[1/12] BatchNorm, batch size 4, seed 0: score 5 in " in output
    assert "BatchNorm" in output.partition("Step time")[0]
    assert "costs at batch size" not in output
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Which normalizer for mine:score?" in page
    assert "--train mine:score --metric score:max" in re.sub("&#x27;|</?span>", "", page)
    code, again, _ = command("compare", "--train", "mine:score", "--metric", "score:max", *asked)
    assert "12 of 12 runs were finished before" in again


def test_own_normalizers_are_contestants():
    def quarter(channels):
        return GroupNorm(4, channels)

    rows = compare(
        train=lambda run: {"rmse": float(run.norm(8).num_groups)}, **(SWEEP | {"norms": [quarter, "layer"], "seeds": 1})
    )
    assert {(row["norm"], row["value"]) for row in rows} == {("quarter", 4.0), ("layer", 1.0)}
