"""What was measured, as a choice and as a file."""

import json

import pytest

from normwise.backends.tunings import Tuning
from normwise.backends.tunings.record import from_data, to_data, to_text
from normwise.backends.tunings.stored import CONTESTED, SHIPPED

CELL = ("rows", "contiguous", True)
RATIOS = {CELL: {10: 0.5, 14: 0.94, 18: 0.95, 22: 1.5}, ("batch", "channels_last", False): {16: 2.0}}
TUNING = Tuning("cpu", "A Processor", "x86-64-v3", "fp32", 2, "2.13.0", "2026-11-30", RATIOS)


@pytest.mark.parametrize(
    ("count", "kernels"),
    [(1, False), (0, False), (2**10, False), (2**14, False), (2**16 - 1, False), (2**17, True), (2**30, True)],
)
def test_the_size_measured_next_to_it_decides(count, kernels):
    assert TUNING.verdict(*CELL, count).kernels is kernels


def test_the_verdict_says_what_says_so():
    said = TUNING.verdict(*CELL, 3 * 2**12).said
    assert said == (
        "the tuning measured on this machine (2026-11-30, fp32, threads: 2): "
        "torch's operator takes 0.94 times a kernel's time on 2^14 values"
    )
    assert "shipped for x86-64-v3" in TUNING._replace(shipped=True).verdict(*CELL, 4).said


@pytest.mark.parametrize(
    "cell", [("rows", "contiguous", False), ("rows", "strided", True), ("groups", "contiguous", True)]
)
def test_what_was_not_measured_has_no_verdict(cell):
    assert TUNING.verdict(*cell, 2**14) is None


@pytest.mark.parametrize(
    ("ratios", "said"),
    [
        ({10: 2.0}, "kernels"),
        ({10: 0.5, 12: 0.9}, "torch's operator"),
        ({10: 1.0, 12: 0.9, 16: 2.0}, "kernels below 2^11, torch's operator below 2^14, kernels from there"),
    ],
)
def test_the_choice_in_words(ratios, said):
    assert TUNING._replace(ratios={CELL: ratios}).choice(CELL) == said


def test_a_file_gives_back_what_was_written():
    assert from_data(json.loads(to_text(TUNING))) == TUNING
    assert json.loads(to_text(TUNING)) == to_data(TUNING)


WRONG = {
    "a list": [],
    "a number": 3,
    "nothing": None,
    "another format": to_data(TUNING) | {"format": 2},
    "no format": {k: v for k, v in to_data(TUNING).items() if k != "format"},
    "no machine": {k: v for k, v in to_data(TUNING).items() if k != "machine"},
    "threads in words": to_data(TUNING) | {"threads": "two"},
    "an element that is a number": to_data(TUNING) | {"element": 32},
    "cells that are none": to_data(TUNING) | {"cells": ["rows"]},
    "an unknown direction": to_data(TUNING)
    | {"cells": [{"operation": "rows", "layout": "contiguous", "direction": "sideways", "ratios": {}}]},
    "a size in words": to_data(TUNING)
    | {"cells": [{"operation": "rows", "layout": "contiguous", "direction": "forward", "ratios": {"small": 1.0}}]},
    "a ratio of 0": to_data(TUNING)
    | {"cells": [{"operation": "rows", "layout": "contiguous", "direction": "forward", "ratios": {"10": 0}}]},
    "a ratio that is NaN": to_data(TUNING)
    | {
        "cells": [{"operation": "rows", "layout": "contiguous", "direction": "forward", "ratios": {"10": float("nan")}}]
    },
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_tuning_is_an_error(wrong):
    with pytest.raises(ValueError):
        from_data(WRONG[wrong])


@pytest.mark.parametrize("level", ["x86-64-v3", "x86-64-v4"])
def test_what_is_shipped_is_whole(level):
    found = [from_data(data) for data in json.loads((SHIPPED / f"{level}.json").read_text())]
    assert sorted(tuning.element for tuning in found) == sorted(CONTESTED)
    for tuning in found:
        assert tuning.instructions == level
        assert tuning.machine
        assert tuning.threads == 1
        assert tuning.date >= "2026-11-30"
        assert {("rows", "contiguous", graph) for graph in (False, True)} <= set(tuning.ratios)
