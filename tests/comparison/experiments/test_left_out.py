"""Contestants that cannot run are left out with a note, and the sweep goes on."""

import pytest
import torch
from torch import nn

from normwise.comparison import SweepStarted, compare, summarize

SMALL = {"model": "small_problems:net", "data": "small_problems:blobs", "batch_sizes": (8,), "seeds": 1, "epochs": 1}


def run(**changes):
    events = []
    rows = compare(**(SMALL | changes), on_event=events.append)
    return rows, next(event.about for event in events if isinstance(event, SweepStarted))


def features():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 6, generator=generator), torch.arange(40) % 2
    return (x[:30] + y[:30, None], y[:30]), (x[30:] + y[30:, None], y[30:])


def perceptron():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def pictures():
    """So small that the last maps of a ResNet are one pixel."""
    x = torch.randn(24, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return (x[:16], torch.arange(16) % 2), (x[16:], torch.arange(8) % 2)


@pytest.mark.parametrize(
    ("changes", "name", "why"),
    [
        ({"model": "resnet8", "data": pictures}, "instance", "fails on pictures"),
        ({"model": perceptron, "data": features}, "instance", "one value per sample and channel"),
        ({}, "sync", "it synchronizes several processes, and in a single one it is the same"),
        ({}, "spade", "it takes segmentation in addition to x"),
        ({}, "conditional-batch", "it takes labels in addition to x"),
        ({}, "token-layer", "it normalizes rows of features, not the channels of a map"),
        ({}, "group:3", "8 channels are not divisible by 3 groups"),
        ({}, "nf", "no residual addition"),
    ],
)
def test_one_that_cannot_run_is_left_out_and_the_others_go_on(changes, name, why):
    rows, about = run(norms=["batch", name], **changes)
    assert [row["norm"] for row in rows] == ["batch"]
    assert about["settings"]["norms"] == ("batch",)
    (note,) = about["left_out"]
    assert "is left out: " in note
    assert why in note
    assert name in note


def test_the_defaults_go_on_where_one_of_them_cannot_run():
    rows, about = run(model="resnet8", data=pictures)
    assert [row["norm"] for row in rows] == ["batch", "group", "layer", "none", "nf"]
    assert len(about["left_out"]) == 1


def test_a_batch_of_one_is_missing_and_the_other_sizes_are_there():
    rows, about = run(norms=["batch", "group"], batch_sizes=(1, 8))
    assert {(row["norm"], row["batch_size"]) for row in rows} == {("batch", 8), ("group", 1), ("group", 8)}
    assert about["missing"] == [["batch", 1]]
    assert about["left_out"] == [
        "BatchNorm ('batch') is left out at batch size 1: a single sample has no batch to normalize over."
    ]
    assert [verdict.batch_size for verdict in summarize(rows).verdicts] == [1, 8]


@pytest.mark.parametrize(("others", "sizes"), [(["none"], {1, 8}), ([], {8})])
def test_the_first_may_be_the_one_that_is_missing_at_a_batch_size(others, sizes):
    """What a run takes is foretold by one that is there, and of a batch size without any by none."""
    rows, about = run(model=perceptron, data=features, norms=["batch", *others], batch_sizes=(1, 8))
    assert {row["batch_size"] for row in rows} == sizes
    assert about["missing"] == [["batch", 1]]
