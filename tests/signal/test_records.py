"""Tables, CSV and JSON of a trace."""

import csv
import math
import pickle

import pytest

import normwise as nw
from normwise import Histogram, Tap, Trace

TAPS = (
    Tap("stem", "layer", "Conv2d", (8, 4, 6, 6), 0.25, 1.5),
    Tap("stages.0.a.very.long.name.of.a.block", "branch", "Block", (8, 4, 6, 6), 1e-9, 0.98765432),
    Tap("stages.0.a.very.long.name.of.a.block", "block", "Block", (8, 4, 6, 6), 12.0, 2.25, 0.125, 0, 3e-7),
    Tap(
        "b", "block", "Block", (8, 4), float("nan"), float("inf"), 0.0, 7, float("nan"), Histogram(-1.0, 0.5, (3, 4)), 1
    ),
)
TRACE = Trace("Net", TAPS, "Gaussian 8×3×6×6", 3, ("A note.",))


def test_table():
    assert str(TRACE) == (
        "Net: 1 layers, 2 blocks; Gaussian 8×3×6×6, 3 batches\n"
        "                                sq. mean  variance    branch      dead  gradient\n"
        "stages.0.a.ver…name.of.a.block        12      2.25    0.9877     12.5%     3e-07\n"
        "b                                    nan       inf         -     7 NaN       nan\n"
        "A note."
    )
    assert TRACE.table("layer") == (
        "                                sq. mean  variance      dead\n"
        "stem                                0.25       1.5"
    )
    assert max(len(line) for line in str(TRACE).splitlines()) <= 80


def test_kinds():
    assert [len(TRACE.layers), len(TRACE.blocks), len(TRACE.branches)] == [1, 2, 1]


def test_json(tmp_path):
    text = TRACE.to_json(tmp_path / "trace.json")
    for source in (text, tmp_path / "trace.json"):
        back = Trace.from_json(source)
        assert back.taps[:3] == TAPS[:3]
        assert back.taps[3].histogram == TAPS[3].histogram
        assert math.isnan(back.taps[3].squared_mean)
        assert math.isinf(back.taps[3].variance)
        assert (back.input, back.batches, back.notes) == (TRACE.input, 3, ("A note.",))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"taps": [{}]}', '{"model": "x", "taps": [], "more": 1}'])
def test_what_is_no_trace(text):
    with pytest.raises(ValueError, match="expects what to_json wrote"):
        Trace.from_json(text)


def test_csv(tmp_path):
    TRACE.to_csv(tmp_path / "trace.csv")
    with (tmp_path / "trace.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [tap.name for tap in TAPS]
    assert rows[0]["shape"] == "8×4×6×6"
    assert float(rows[2]["gradient"]) == 3e-7
    assert rows[0]["gradient"] == ""


def test_pickle():
    result = nw.trace(nw.nets.resnet(8), (2, 3, 8, 8), histograms=True, backward=True)
    assert pickle.loads(pickle.dumps(result)) == result
    assert Trace.from_json(result.to_json()) == result
    assert all(sum(tap.histogram.counts) == math.prod(tap.shape) for tap in result.taps)
