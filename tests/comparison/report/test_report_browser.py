"""The report in a real browser."""

import json

import pytest
from browser import CHROMIUM, Browser
from synthetic import BATCH_SIZES, NORMS, make_about, make_rows

from normwise.comparison.report.page import write_report

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)"),
]
BROKEN = make_rows(diverged=(("none", 2, 0), ("none", 2, 1), ("group", 8, 1)))[:23]
FIGURES = 4 + (6 + 2) * len(BATCH_SIZES)
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

# What two presses on a heading make of the column of step times, and what a button would save.
SORT_AND_SAVE = """new Promise((resolve) => {
  const table = document.querySelector(".sortable"), head = table.tHead.rows[0].cells[4];
  const column = () => [...table.tBodies[0].rows].map((row) => row.cells[4].dataset.value);
  const found = { name: head.textContent };
  for (const way of ["up", "down"]) {
    head.querySelector("button").click();
    found[way] = column();
    found[way + " said"] = head.getAttribute("aria-sort");
  }
  URL.createObjectURL = (blob) => {
    blob.text().then((text) => resolve({ ...found, saved: text }));
    return "data:,";
  };
  HTMLAnchorElement.prototype.click = function () { found.file = this.download; };
  document.querySelector('[data-save="json"]').click();
})"""


def one_fails():
    """One contestant stays at chance, and another's error bar would pass 100 %."""
    level = {"none": 0.12, "group": 0.992}
    return [
        row | ({"test_accuracy": level[row["norm"]] + 0.004 * row["seed"]} if row["norm"] in level else {})
        for row in make_rows(seeds=3)
    ]


MANY = ("renorm", "switchable", "batch-instance", "filter-response", "evo-s0", "pixel-layer", "tanh")
SIZES = (2, 4, 8, 16, 32, 64)
SWEEPS = {
    "whole": (make_rows(), make_about()),
    "unfinished": (BROKEN, make_about()),
    "one fails": (one_fails(), make_about(seeds=3)),
    "12 × 6": (make_rows((*NORMS, *MANY), SIZES, 3), make_about((*NORMS, *MANY), SIZES, 3)),
}


@pytest.fixture(scope="module", params=[(1400, "whole"), (420, "unfinished")], ids=["desktop", "phone, unfinished"])
def visit(request, tmp_path_factory):
    yield from visited(*request.param, tmp_path_factory)


@pytest.fixture(scope="module", params=[(w, s) for s in ("one fails", "12 × 6") for w in (1400, 420)], ids=str)
def hard_visit(request, tmp_path_factory):
    yield from visited(*request.param, tmp_path_factory)


def visited(width, sweep, tmp_path_factory):
    """The browser with the report open, and what the probe found."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, *SWEEPS[sweep], "normwise compare")
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


def test_nothing_is_cut_off_where_one_fails_or_there_are_many(hard_visit):
    browser, found = hard_visit
    assert (found["overflow"], found["cutFigures"]) == (0, 0)
    assert min(found["drawn"]) >= 4
    assert browser.seen("Runtime.exceptionThrown") == []


def test_the_legend_hides_a_normalizer_in_every_figure_and_shows_it_again(visit):
    browser, _ = visit
    before, hidden, after = browser.evaluate(HIDE_GROUPNORM)
    assert len(before) >= FIGURES
    assert all(before)
    assert not any(hidden)
    assert all(after)


def test_the_table_is_sorted_and_the_rows_are_saved(visit):
    browser, _ = visit
    found = browser.evaluate(SORT_AND_SAVE)
    assert (found["name"], found["up said"], found["down said"]) == ("Step time, ms", "ascending", "descending")
    up, down = ([float(value) for value in found[way] if value] for way in ("up", "down"))
    assert up == sorted(down)
    assert down == sorted(up, reverse=True)
    assert len(up) >= 14
    blank = [value for value in found["up"] if not value]
    assert found["up"][len(up) :] == found["down"][len(down) :] == blank
    assert found["file"] == "rows.json"
    assert {row["norm"] for row in json.loads(found["saved"])} == set(NORMS)


def test_the_pictures_follow_a_dark_page(visit):
    browser, found = visit
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    dark = browser.evaluate(PROBE)
    page = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert page == "rgb(20, 23, 26)"
    assert set(found["texts"]) == {"rgb(87, 96, 106)"}
    assert set(dark["texts"]) == {"rgb(163, 172, 181)"}
