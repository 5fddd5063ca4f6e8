"""The charts of the experiments."""

import math
import re
from itertools import pairwise

from normwise.evidence.charts import CHARACTER, RIGHT, WIDTH, bars, headed, lines, stacked


def test_names_in_charts_are_escaped_and_do_not_lie_on_each_other():
    series = {f"<{i}>": [(1, 1.0 + 1e-6 * i), (10, 2.0)] for i in range(4)}
    picture = lines("title", "x", "y", series, log_y=True)
    assert "<0>" not in picture.replace("&lt;", "").replace("<text", "")
    places = sorted(float(y) for y in re.findall(rf'<text x="{WIDTH - RIGHT + 10}" y="([\d.]+)"', picture))
    assert min(b - a for a, b in pairwise(places)) >= 14.9
    assert "0 ± 0.1" in bars("title", "x", {"none": (0.0, 0.1), "one": (1.0, 0.0)})


def test_error_bars_and_pictures_below_each_other():
    picture = lines("a title", "x", "y", {"one": [(1, 5.0, 2.0), (2, math.nan), (4, 6.0, 0.5)]})
    assert picture.count("<path") == 2
    assert "± 2" in picture
    assert "nan" not in picture
    both = stacked(picture, lines("another", "x", "y", {"two": [(1, 1.0), (2, 3.0)]}))
    assert both.count("<svg") == 3
    assert 'height="640"' in both
    assert "a title" in both.partition(">")[0]


def test_groups_of_bars_stand_below_their_name():
    values = {f"{norm}: {net}": (1.0, 0.0) for net in ("RNN", "Transformer") for norm in ("LayerNorm", "BatchNorm")}
    picture = bars("title", "x", values, group=": ")
    shown = re.findall(r">([^<>]+)</text>", picture)
    assert shown[1:8] == ["RNN", "LayerNorm", "1", "BatchNorm", "1", "Transformer", "LayerNorm"]
    colors = re.findall(r'<rect [^>]*fill="([^"]+)"', picture)
    assert colors[:2] == colors[2:]
    assert colors[0] != colors[1]


def test_a_heading_is_wrapped_and_the_picture_stands_below_it():
    picture = lines("title", "x", "y", {"one": [(1, 5.0), (2, 6.0)]})
    claim = "a < b, " + "word " * 30
    both = headed(picture, claim.strip(), "holds", "±: standard deviation over 5 seeds")
    parts = re.findall(r'font-weight:bold">([^<]*)</text>', both)
    assert len(parts) == 3
    assert " ".join(parts) == claim.strip().replace("<", "&lt;")
    assert "Found: holds." in both
    height = int(re.search(r'height="(\d+)"', both)[1])
    assert re.search(rf'<svg y="{height - 320}"', both)


def test_the_figures_beside_the_longest_bar_fit():
    picture = bars("title", "x", {"short": (0.1, 0.0), "long": (0.963, 0.0077)})
    start = float(re.findall(r'<text x="([\d.]+)" y="[\d.]+">0.963 ± 0.0077', picture)[0])
    assert start + CHARACTER * len("0.963 ± 0.0077") <= WIDTH
