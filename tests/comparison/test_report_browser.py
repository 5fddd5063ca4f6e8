"""The report in a real browser."""

import pytest
from browser import CHROMIUM, Browser
from synthetic import BATCH_SIZES, make_about, make_rows

from normwise.comparison.report.page import write_report

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)"),
]
BROKEN = make_rows(diverged=(("none", 2, 0), ("none", 2, 1), ("group", 8, 1)))[:23]
FIGURES = 4 + 6 * len(BATCH_SIZES)
# Opens what is closed and measures the page in every frame until it has settled.
PROBE = """new Promise((resolve) => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const right = (element) => element.getBoundingClientRect().right;
  all("details").forEach((details) => (details.open = true));
  let frames = 0;
  (function measure() {
    const found = {
      overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
      drawn: all("figure").map((figure) => all("svg .scatterlayer .trace", figure).length),
      cutFigures: all("figure").filter((figure) => right(figure.querySelector("svg")) > right(figure) + 1).length,
      cutTables: all(".scroll").filter((box) => box.scrollWidth > box.clientWidth + 1).length,
      texts: all("figure svg .xtick text, figure svg .ytick text").map((text) => getComputedStyle(text).fill),
    };
    if (found.cutFigures && ++frames < 600) requestAnimationFrame(measure);
    else resolve(found);
  })();
})"""
HIDE_GROUPNORM = """(() => {
  const traces = () => [...document.querySelectorAll(".js-plotly-plot")].flatMap((plot) => plot.data)
    .filter((trace) => trace.meta === "group").map((trace) => trace.visible !== false);
  const button = document.querySelector('button[data-norm="group"]');
  const found = [traces()];
  button.click();
  found.push(traces());
  button.click();
  found.push(traces());
  return found;
})()"""


@pytest.fixture(scope="module", params=[(1400, make_rows()), (420, BROKEN)], ids=["desktop", "phone, unfinished"])
def visit(request, tmp_path_factory):
    """The browser with the report open, and what the probe found."""
    width, rows = request.param
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, rows, make_about(), "normwise compare")
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        browser.open(path.as_uri(), width)
        yield browser, browser.evaluate(PROBE)


def test_no_error_and_no_console_message(visit):
    browser, _ = visit
    assert browser.seen("Runtime.exceptionThrown") == []
    assert browser.seen("Runtime.consoleAPICalled") == []
    assert browser.seen("Log.entryAdded") == []


def test_no_request_leaves(visit):
    browser, _ = visit
    urls = [event["request"]["url"] for event in browser.seen("Network.requestWillBeSent")]
    assert [url for url in urls if not url.startswith("data:")] == [urls[0]]
    assert urls[0].startswith("file://")


def test_every_figure_is_drawn(visit):
    _, found = visit
    assert len(found["drawn"]) == FIGURES
    assert min(found["drawn"]) >= 4


def test_nothing_is_cut_off(visit):
    _, found = visit
    assert found["overflow"] == 0
    assert found["cutFigures"] == 0
    assert found["cutTables"] == 0


def test_the_legend_hides_a_normalizer_in_every_figure_and_shows_it_again(visit):
    browser, _ = visit
    before, hidden, after = browser.evaluate(HIDE_GROUPNORM)
    assert len(before) >= FIGURES
    assert all(before)
    assert not any(hidden)
    assert all(after)


def test_the_pictures_follow_a_dark_page(visit):
    browser, found = visit
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    dark = browser.evaluate(PROBE)
    page = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert page == "rgb(20, 23, 26)"
    assert set(found["texts"]) == {"rgb(87, 96, 106)"}
    assert set(dark["texts"]) == {"rgb(163, 172, 181)"}
