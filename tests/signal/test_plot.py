"""The pictures: what they show, where, and that they need nothing but themselves."""

import io
import math
import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser

from normwise.signal import Histogram, Tap, Trace, plot, plot_histograms
from normwise.signal.pictures.line_styles import line_style
from normwise.signal.pictures.propagation import spread
from normwise.signal.pictures.scales import Scale, scale_for

SVG = "{http://www.w3.org/2000/svg}"


def made(variances, branch=1.0, name="Net", squared_mean=0.5):
    taps = []
    for i, variance in enumerate(variances):
        taps.append(Tap(f"stage.{i}", "branch", "Block", (8, 4, 2, 2), 0.0, branch))
        taps.append(Tap(f"stage.{i}", "block", "Block", (8, 4, 2, 2), squared_mean, variance))
    return Trace(name, tuple(taps), "Gaussian 8×3×32×32")


def panel_of(figure, title):
    return next(panel for panel in figure.panels if panel.title.startswith(title))


def elements(panel, kind):
    from normwise.signal.pictures.svg import inline

    return ElementTree.fromstring(inline(panel)).iter(kind)


def markers(panel):
    """(x, y, words) of each mark: the middle of its outline."""
    found = []
    for polygon in elements(panel, "polygon"):
        title = polygon.find("title")
        if title is not None:
            points = [tuple(map(float, pair.split(","))) for pair in polygon.get("points").split()]
            xs, ys = zip(*points, strict=True)
            found.append(((min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, title.text))
    return found


def ticks(panel):
    """Height in pixels of each number at the vertical axis."""
    return {
        float(text.text): float(text.get("y"))
        for text in elements(panel, "text")
        if text.get("text-anchor") == "end" and re.fullmatch(r"[\d.e-]+", text.text)
    }


def test_marks_stand_where_the_axis_says():
    figure = plot(made([1.0, 2.0, 4.0]))
    panel = panel_of(figure, "Average channel variance")
    at = ticks(panel)
    assert at[0.0] > at[2.0] > at[4.0]
    heights = [y for _, y, _ in markers(panel)]
    for height, value in zip(heights, (1.0, 2.0, 4.0), strict=True):
        expected = at[0.0] + (at[4.0] - at[0.0]) * value / 4
        assert height == pytest.approx(expected, abs=0.6)
    assert [words for _, _, words in markers(panel)][1] == "Net, stage.1: variance 2"


def test_a_wide_range_is_logarithmic():
    panel = panel_of(plot(made([1.0, 100.0, 10_000.0])), "Average channel variance")
    at = ticks(panel)
    heights = [y for _, y, _ in markers(panel)]
    assert heights == pytest.approx([at[1.0], at[100.0], at[10_000.0]], abs=0.6)
    assert at[1.0] - at[100.0] == pytest.approx(at[100.0] - at[10_000.0], abs=0.3)


def test_three_panels_and_their_words():
    figure = plot({"A": made([1.0, 2.0], branch=0.7), "B": made([3.0, 4.0])})
    assert [panel.title for panel in figure.panels] == [
        "Average channel squared mean",
        "Average channel variance",
        "Variance at the end of the residual branch",
    ]
    assert figure.panels[1].alt == "Average channel variance, first to last: A from 1 to 2; B from 3 to 4."
    assert "A from 0.7 to 0.7" in figure.panels[2].alt


def test_layers_where_there_are_no_blocks():
    taps = tuple(Tap(str(i), "layer", "Conv2d", (2, 3), 0.1, 1.0) for i in range(3))
    figure = plot(Trace("Plain", taps))
    assert [panel.title for panel in figure.panels] == ["Average channel squared mean", "Average channel variance"]
    assert any(text.text == "layer" for text in elements(figure.panels[0], "text"))


def test_prediction_is_a_dashed_line_at_its_own_values():
    figure = plot({"A": made([1.0, 2.0]), "B": made([1.0, 1.0])}, {"A": made([2.0, 4.0])})
    panel = panel_of(figure, "Average channel variance")
    dashed = [line for line in elements(panel, "polyline") if line.get("stroke-dasharray")]
    assert len(dashed) == 1
    at = ticks(panel)
    heights = [float(point.split(",")[1]) for point in dashed[0].get("points").split()]
    assert heights == pytest.approx([at[2.0], at[4.0]], abs=0.2)
    assert markers(panel)[1][2] == "A, stage.1: variance 2, predicted 4"
    assert "predicted" in figure.svg()
    assert "Dashed" in figure.html()
    assert "Dashed" not in plot(made([1.0])).html()


def test_a_single_trace_and_its_prediction_need_no_names():
    figure = plot(made([1.0, 2.0], name="Measured"), made([1.0, 2.0], name="Theory"))
    assert figure.traces.keys() == {"Measured"}
    assert "predicted 2" in figure.svg()


def test_gaps_where_values_are_not_finite():
    panel = panel_of(plot(made([1.0, 2.0, math.nan, 3.0, math.inf])), "Average channel variance")
    lines = [
        line.get("points").split() for line in elements(panel, "polyline") if line.get("stroke") == line_style(0).color
    ]
    assert [len(points) for points in lines if len(points) <= 2][:2] == [2, 1]
    assert len(markers(panel)) == 3


def test_names_at_the_ends_do_not_overlap():
    figure = plot({f"model {i}": made([1.0, 1.0 + i / 1000]) for i in range(6)})
    panel = panel_of(figure, "Average channel variance")
    heights = sorted(float(t.get("y")) for t in elements(panel, "text") if t.text.startswith("model"))
    assert len(heights) == 6
    assert min(b - a for a, b in pairwise(heights)) >= 12
    assert heights[0] >= 0
    assert heights[-1] <= panel.height
    assert spread([5, 5, 5], 10, 0, 25) == [5, 15, 25]


def test_line_styles_differ_in_colour_and_in_shape():
    assert len({line_style(i).color for i in range(7)}) == len({line_style(i).marker for i in range(7)}) == 7
    assert len({line_style(i) for i in range(14)}) == 14


def test_scales():
    assert not scale_for([1, 29], 0, 1).log
    assert scale_for([1, 31], 0, 1).log
    assert scale_for([1e-9, 1], 0, 1, smallest=0.01).low == pytest.approx(0.008)
    assert scale_for([0.0, math.nan], 0, 1).high == 1.0
    below = scale_for([1e-9, 1], 100, 0, smallest=0.01)
    assert below(1e-9) == 100
    assert not below.shows(1e-9)
    assert [text for _, text in Scale(0, 0.23, 0, 1).ticks()] == ["0", "0.1", "0.2"]


def test_svg_is_a_file_of_its_own():
    figure = plot({"<b>&": made([1.0, 2.0])}, title="A < B")
    root = ElementTree.fromstring(figure.svg())
    assert root.tag == f"{SVG}svg"
    assert root.find(f"{SVG}rect").get("class") == "paper"
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert "A < B" in texts
    assert "<b>&" in texts
    wide, tall = (ElementTree.fromstring(figure.svg(columns=n)) for n in (3, 1))
    assert float(wide.get("width")) == pytest.approx(3 * 440 + 28)
    assert float(tall.get("width")) == pytest.approx(440 + 28)
    assert float(tall.get("height")) > 2.5 * float(wide.get("height"))


def test_html_needs_nothing_beside_itself():
    text = plot({"<i>x</i>": made([1.0, 2.0])}).html(command="normwise trace --model a")
    assert "default-src 'none'" in text
    assert "<i>x" not in text
    assert not re.search(r"""(src|href)=["'](?!data:)""", text)
    assert "http" not in text.replace("http-equiv", "")
    assert "normwise trace --model a" in text
    assert "Net: 0 layers, 2 blocks" in text
    assert len(text) < 40_000


def test_png_shows_the_colours_of_the_models():
    image = pytest.importorskip("PIL.Image").open(
        io.BytesIO(plot({"A": made([1.0, 2.0]), "B": made([2.0, 1.0])}).png())
    )
    assert image.size[0] == 2 * (3 * 440 + 28)
    colors = {color for _, color in image.convert("RGB").getcolors(1 << 20)}
    for i in range(2):
        wanted = tuple(int(line_style(i).color[j : j + 2], 16) for j in (1, 3, 5))
        assert min(max(abs(a - b) for a, b in zip(wanted, color, strict=True)) for color in colors) <= 12


def test_save_goes_by_the_ending(tmp_path):
    figure = plot(made([1.0, 2.0]))
    assert figure.save(tmp_path / "a.svg").read_text(encoding="utf-8") == figure.svg()
    assert figure.save(str(tmp_path / "a.html")).read_text(encoding="utf-8") == figure.html()
    assert figure.save(tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"a.pdf: the ending must be .html, .svg or .png"):
        figure.save(tmp_path / "a.pdf")
    assert figure._repr_svg_().startswith("<svg")


def test_bad_input():
    with pytest.raises(ValueError, match="no trace to draw"):
        plot({})
    with pytest.raises(ValueError, match="no trace to draw"):
        plot(Trace("Empty", ()))
    with pytest.raises(ValueError, match="a prediction for 'B'; the traces are A"):
        plot({"A": made([1.0])}, {"B": made([1.0])})
    with pytest.raises(ValueError, match="histograms=True"):
        plot_histograms(made([1.0]))


def with_histograms(counts, width=0.5, variance=1.0):
    histogram = Histogram(-width * len(counts) / 2, width, tuple(counts))
    taps = [
        Tap(f"{i}.act", "layer", "Tanh" if i % 2 else "Linear", (8, 4), 0.0, variance, histogram=histogram)
        for i in range(30)
    ]
    return Trace("Net", tuple(taps))


def test_histograms_have_a_row_per_layer_and_a_common_axis():
    figure = plot_histograms({"wide": with_histograms([1, 4, 6, 4, 1]), "narrow": with_histograms([9], width=0.01)})
    wide, narrow = figure.panels
    assert sum(1 for _ in elements(wide, "polygon")) == 12
    assert [text.text for text in elements(wide, "text") if text.text == "29.act"] == ["29.act"]
    extents = []
    for panel in (wide, narrow):
        points = [float(p.split(",")[0]) for p in next(elements(panel, "polygon")).get("points").split()]
        extents.append(max(points) - min(points))
    assert extents[0] > 100
    assert 1.5 <= extents[1] < 10  # a collapsed layer is a stroke
    assert ticks(wide).keys() == ticks(narrow).keys()
    only = plot_histograms(with_histograms([1, 2, 1]), types=["Tanh"]).panels[0]
    names = [text.text for text in elements(only, "text") if text.text.endswith(".act")]
    assert all(int(name.split(".")[0]) % 2 for name in names)
    with pytest.raises(ValueError, match="no histograms of such layers"):
        plot_histograms(with_histograms([1]), types=["ReLU"])


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)")
@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_in_a_browser(width, tmp_path):
    path = plot({"A": made([1.0, 2.0, 3.0]), "B": made([2.0, 90.0, 3.0])}).save(Path(tmp_path) / "page.html")
    with Browser(tmp_path / "profile") as page:
        page.open(path.as_uri(), width)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        heights = "[...document.querySelectorAll('figure text')].map((t) => t.getBoundingClientRect().height)"
        assert min(page.evaluate(heights)) >= 9
        page.evaluate("document.querySelector('.legend button').click()")
        hidden = "[...document.querySelectorAll('g.hidden')].map((g) => g.dataset.model)"
        assert set(page.evaluate(hidden)) == {"0"}
        tip = page.evaluate(
            """(() => { const mark = document.querySelector('figure g[data-model="1"] polygon');
            const box = mark.getBoundingClientRect();
            const place = {clientX: box.x + 6, clientY: box.y + 6};
            mark.closest("svg").dispatchEvent(new PointerEvent("pointermove", place));
            return document.getElementById('tip').textContent; })()"""
        )
        assert tip == "B, stage.0: squared mean 0.5"
        assert not page.seen("Runtime.exceptionThrown")
        assert not page.seen("Log.entryAdded")
        urls = [event["request"]["url"] for event in page.seen("Network.requestWillBeSent")]
        assert {url.partition(":")[0] for url in urls} <= {"file", "data"}
