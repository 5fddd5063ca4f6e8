import json
import random

import numpy as np
import pytest
import small_problems
import torch
from torch import nn

import normwise
from normwise.comparison import (
    EpochFinished,
    InputError,
    Run,
    RunFinished,
    RunSkipped,
    RunStarted,
    SweepStarted,
    compare,
)
from normwise.comparison.request import threads_for
from normwise.layers import GroupNorm

SMALL = {
    "model": "small_problems:net",
    "data": "small_problems:blobs",
    "norms": ("batch", "none"),
    "batch_sizes": (4, 16),
    "seeds": 2,
    "epochs": 2,
}
TIMES = ("step_ms", "seconds", "started")


def untimed(rows):
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


@pytest.fixture(scope="module")
def rows():
    return compare(**SMALL)


def test_the_plan_is_useful_whenever_it_stops(rows):
    """Seed by seed, the short runs of large batches first, all normalizers of a batch size together."""
    order = [(row["seed"], row["batch_size"], row["norm"]) for row in rows]
    assert order == [(seed, size, norm) for seed in (0, 1) for size in (16, 4) for norm in ("batch", "none")]


def test_rows_are_flat_json(rows):
    row = rows[0]
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert list(row) == [
        *("key", "norm", "batch_size", "seed", "model", "data", "task", "metric", "direction", "train_samples"),
        *("test_samples", "classes"),
        "chance_accuracy",
        *(
            "batches_by",
            "epochs",
            "learning_rate",
            "status",
            "message",
            "test_accuracy",
            "test_accuracy_train_mode",
            "train_eval_gap",
        ),
        *(
            "train_accuracy",
            "test_interval",
            "metrics",
            "test_loss",
            "curve",
            "peak_memory_bytes",
            "memory_kind",
            "parameters",
        ),
        *("layers", "seconds", "started", "versions", "step_ms"),
    ]
    assert (row["model"], row["data"]) == (SMALL["model"], SMALL["data"])
    assert (row["train_samples"], row["test_samples"], row["classes"]) == (48, 21, 3)
    assert row["learning_rate"] == pytest.approx(0.6 * 16 / 32)
    assert row["versions"]["torch"] == torch.__version__
    assert len({row["key"] for row in rows}) == 8


def test_the_same_call_gives_the_same_rows_whatever_the_caller_does(rows):
    torch.manual_seed(77)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            again = compare(**SMALL)
            assert not torch.is_grad_enabled()
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert untimed(again) == untimed(rows)


def test_a_run_does_not_depend_on_the_others(rows):
    alone = compare(**(SMALL | {"norms": ["none"], "batch_sizes": [4], "seeds": [1]}))
    assert untimed(alone) == untimed(rows[-1:])


def test_the_random_state_of_the_caller_is_kept():
    def draws():
        return torch.rand(2).tolist(), np.random.rand(), random.random()

    def seed_all():
        torch.manual_seed(1), np.random.seed(1), random.seed(1)

    seed_all()
    expected = draws()
    seed_all()
    compare(**(SMALL | {"seeds": 1, "epochs": 1}))
    assert draws() == expected


def test_seeds_differ(rows):
    by_run = {(row["norm"], row["batch_size"], row["seed"]): row["curve"] for row in rows}
    assert by_run["batch", 4, 0] != by_run["batch", 4, 1]


def test_events_tell_the_whole_story():
    events = []
    rows = compare(**(SMALL | {"batch_sizes": [8], "seeds": 1}), on_event=events.append)
    kinds = [type(event) for event in events]
    assert kinds == [SweepStarted, *[RunStarted, EpochFinished, EpochFinished, RunFinished] * 2]
    assert events[0].about["data"]["train_samples"] == 48
    assert events[0].about["settings"]["epochs"] == 2
    assert [event.done for event in events] == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    assert {event.total for event in events} == {2}
    assert [event.work_done for event in events] == pytest.approx([0, 0, 0.25, 0.5, 0.5, 0.5, 0.75, 1, 1])
    assert all(event.seconds_left >= 0 for event in events)
    assert events[-1].seconds_left == 0
    finished = [event.row for event in events if isinstance(event, RunFinished)]
    assert finished == rows
    epoch = events[2]
    assert (epoch.run, epoch.epoch, epoch.epochs) == (Run("batch", 8, 0), 1, 2)
    assert epoch.value == rows[0]["curve"][0]["test_accuracy"]


def test_finished_runs_are_not_repeated(tmp_path, rows):
    first = compare(**(SMALL | {"seeds": 1}), out=tmp_path)
    events = []
    second = compare(**SMALL, out=tmp_path, on_event=events.append)
    assert second[:4] == first
    assert untimed(second) == untimed(rows)
    assert sum(isinstance(event, RunSkipped) for event in events) == 4
    assert sum(isinstance(event, RunFinished) for event in events) == 4
    assert (events[0].done, events[0].total, events[0].out) == (4, 8, tmp_path)
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 8


def test_other_settings_are_other_results(tmp_path):
    small = SMALL | {"norms": ["none"], "batch_sizes": [16], "seeds": 1, "epochs": 1}
    changes = [{}, {"epochs": 2}, {"learning_rate": 0.1}, {"weight_decay": 0.0}, {"model": small_problems.fixed_net}]
    keys = [compare(**(small | change), out=tmp_path)[0]["key"] for change in changes]
    assert len(set(keys)) == 5
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 5
    assert json.loads((tmp_path / "settings.json").read_text())["settings"]["model"] == "fixed_net"


def test_a_keyboard_interrupt_leaves_the_finished_runs(tmp_path):
    def stop(event):
        if isinstance(event, EpochFinished) and event.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(**SMALL, out=tmp_path, on_event=stop)
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 3
    assert len(compare(**SMALL, out=tmp_path)) == 8


def my_norm(channels):
    return GroupNorm(2, channels)


def test_a_function_is_a_normalizer():
    rows = compare(**(SMALL | {"norms": ["group:2", my_norm], "batch_sizes": [16], "seeds": 1, "epochs": 1}))
    assert [row["norm"] for row in rows] == ["group:2", "my_norm"]
    assert rows[0]["test_loss"] == rows[1]["test_loss"]


def test_a_diverging_run_is_recorded_and_the_sweep_goes_on(tmp_path):
    rows = compare(**(SMALL | {"model": "small_problems:diverging_net", "seeds": 1}), out=tmp_path)
    assert [row["status"] for row in rows] == ["diverged"] * 4
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 4


def test_one_thread_for_small_maps():
    assert threads_for((3, 16, 16)) == 1
    assert threads_for((3, 17, 16)) == torch.get_num_threads()
    threads = torch.get_num_threads()
    compare(**(SMALL | {"seeds": 1, "epochs": 1, "batch_sizes": [16]}))
    assert torch.get_num_threads() == threads


class Breaks(small_problems.Net):
    def forward(self, x):
        return super().forward(x) if isinstance(self.norm1, nn.BatchNorm2d) else self.norm1.missing


class AlwaysBreaks(small_problems.Net):
    def forward(self, x):
        return self.missing if self.training else super().forward(x)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_sizes": [4, 49]}, r"Batch size 49 is larger than the training split of .*blobs \(48 samples\); write"),
        ({"norms": ["group:3"]}, "with 'group:3' fails on .*8 channels are not divisible by 3 groups"),
        ({"norms": ["grop"]}, "did you mean 'group'"),
        ({"batch_sizes": [1], "norms": ["batch"]}, "BatchNorm .'batch'. is left out: a single sample has no batch to"),
        ({"norms": ["token-layer"]}, "normalizes rows of features"),
        (
            {"model": AlwaysBreaks, "norms": ["batch", "group", "none"]},
            "AttributeError.*So are the other 2. Name other",
        ),
        ({"lrs": [0.1, 0.2], "batch_sizes": [4, 48]}, "write batch sizes of at most 39, or leave lrs out"),
        ({"model": "resnet8", "data": lambda: ((torch.rand(6, 4), torch.arange(6) % 2),) * 2}, "takes images"),
        ({"model": "resnet18", "norms": ["instance"]}, "resnet18 with 'instance' fails on"),
        (
            {"model": Breaks, "norms": ["none"]},
            "Breaks with 'none' fails on .*AttributeError: 'Identity' object has no",
        ),
        ({"data": "nowhere/"}, "there is no such folder"),
    ],
)
def test_bad_input_stops_before_the_first_run(tmp_path, changes, message):
    events = []
    with pytest.raises(InputError, match=message):
        compare(**(SMALL | changes), out=tmp_path / "out", on_event=events.append)
    assert not events
    assert not (tmp_path / "out").exists()


def test_the_public_name():
    assert normwise.compare is compare


def digits_like():
    return tuple(
        (torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(n)), torch.arange(n) % 4) for n in (32, 16)
    )


NF = {"model": "resnet8", "data": digits_like, "batch_sizes": (8,), "seeds": 1, "epochs": 1}


def test_the_normalizer_free_net_is_a_contestant():
    events = []
    rows = compare(**NF, norms=["batch", "nf"], on_event=events.append)
    about = events[0].about
    assert [(row["norm"], row["status"]) for row in rows] == [("batch", "finished"), ("nf", "finished")]
    assert (rows[1]["train_eval_gap"], rows[1]["layers"]) == (0.0, [])
    assert about["left_out"] == []
    assert "nf is a network of its own" in about["protocol"][-1]
    assert untimed(compare(**NF, norms=["nf"])) == untimed(rows[1:])
    assert "nf" not in compare_protocol(norms=["batch"])


def compare_protocol(**changes):
    events = []
    compare(**(NF | changes), on_event=events.append)
    return " ".join(events[0].about["protocol"])


def test_the_normalizer_free_net_is_left_out_where_there_is_none():
    events = []
    rows = compare(**(SMALL | {"norms": ("batch", "nf"), "seeds": 1, "epochs": 1}), on_event=events.append)
    assert {row["norm"] for row in rows} == {"batch"}
    assert events[0].about["settings"]["norms"] == ("batch",)
    (reason,) = events[0].about["left_out"]
    assert reason.startswith("nf is left out: small_problems:net with 'nf' fails")
    assert "Net has no residual addition that could be found" in reason
    with pytest.raises(InputError, match=r"nf is left out.*Name other normalizers, such as batch and group"):
        compare(**(SMALL | {"norms": ("nf",)}))
