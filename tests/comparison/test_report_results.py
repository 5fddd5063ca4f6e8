"""The report's sortable table, its rows to take along, what was not run, and the pictures of what is worth its cost."""

import csv
import io
import json
import random
import re
from html import unescape

import pytest
from synthetic import make_about, make_rows

from normwise.cli.watching import Watching
from normwise.comparison import compare, summarize
from normwise.comparison.report import results
from normwise.comparison.report.page import build_page
from normwise.comparison.report.palette import styles
from normwise.comparison.report.pictures import pareto
from normwise.comparison.report.pictures.pareto import Point, front
from normwise.comparison.verdicts.tables import MEMORY, Table, tables

HOSTILE = '</script><script>alert("x")</script>'


def held(html):
    return json.loads(re.search(r'<script type="application/json" id="rows">(.*?)</script>', html, re.DOTALL)[1])


def test_the_page_holds_all_rows():
    rows = [row | {"message": HOSTILE} for row in make_rows()]
    found = held(build_page(rows, make_about()))
    assert json.loads(found["json"]) == rows
    lines = list(csv.DictReader(io.StringIO(found["csv"])))
    assert [(line["norm"], float(line["test_accuracy"])) for line in lines] == [
        (row["norm"], row["test_accuracy"]) for row in rows
    ]
    assert lines[0]["message"] == HOSTILE


def test_a_line_for_each_contestant_at_each_batch_size():
    summary = summarize(make_rows(diverged=(("none", 2, 0), ("none", 2, 1))))
    lines = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', results.sortable(summary))
    assert len(lines) == 15
    values = {name: re.findall(r'data-value="(.*?)"', cells) for name, cells in lines[:5]}
    accuracy = summary.cell("group", 2).mean
    assert values["GroupNorm"][0] == "2"
    assert float(values["GroupNorm"][1]) == pytest.approx(100 * accuracy)
    assert values["No normalization"][3:5] == ["", ""]
    assert "<details open>" in results.sortable(summary)
    many = make_rows(batch_sizes=(1, 2, 4, 8, 16))
    assert "<details open>" not in results.sortable(summarize(many))


def test_what_was_not_run_and_why():
    about = make_about(left_out=["SPADE is left out: it takes <segmentation>."], missing=[["batch", 2]])
    rows = [row for row in make_rows() if (row["norm"], row["batch_size"]) != ("batch", 2)]
    text = unescape(results.not_run(rows[:-3], about))
    assert "it takes <segmentation>." in text
    assert "Not done yet at batch size 64, seed 1: InstanceNorm, LayerNorm" in text
    assert "batch size 2," not in text
    assert results.not_run(make_rows(), make_about()) == ""


def test_what_was_stopped_early_is_named():
    about = make_about()
    about["settings"]["looks"] = 3
    rows = make_rows(seeds=4)
    stopped = [row for row in rows if not (row["norm"] == "none" and row["seed"] > 1)]
    text = results.not_run(stopped, about)
    assert "No normalization at batch size 8 was stopped after 2 seeds: it is clearly behind there." in text


def test_the_front_against_every_pair():
    """A point is on the front if no other is at least as good in both; written out over all pairs."""
    draw = random.Random(0)
    for sign in (1, -1):
        points = [Point(str(i), draw.choice((1.0, 2.0, 3.0, 4.0)), draw.choice((0.1, 0.2, 0.3))) for i in range(9)]
        expected = set()
        for a in points:
            worse = [b for b in points if (b.cost, b.value) != (a.cost, a.value)]
            if not any(b.cost <= a.cost and sign * b.value >= sign * a.value for b in worse):
                expected.add(a.norm)
        assert {point.norm for point in front(points, sign)} == expected


def test_the_picture_has_a_point_for_all_that_trained():
    rows = make_rows(diverged=(("none", 2, 0), ("none", 2, 1)))
    summary = summarize(rows)
    judged, cost = tables(summary)[0], Table(MEMORY, summary)
    looks = styles(judged.norms)
    picture = pareto(judged, cost, 2, looks)
    marked = [trace.meta for trace in picture.figure.data if trace.meta]
    assert marked == ["batch", "group", "instance", "layer"]
    assert "GroupNorm" in picture.alt
    assert "none" not in picture.alt
    assert picture.figure.layout.xaxis.type == "log"
    unmeasured = summarize([row | {"peak_memory_bytes": None} for row in rows])
    assert pareto(tables(unmeasured)[0], Table(MEMORY, unmeasured), 2, looks) is None


def score(run):
    return {"score": len(run.name)}


def test_the_report_is_written_while_the_sweep_runs(tmp_path):
    heard, pages = [], []

    def listen(event):
        heard.append(event)
        page = tmp_path / "report.html"
        pages.append(page.read_text() if page.is_file() else "")

    compare(
        train=score,
        metric="score",
        direction="max",
        norms=["batch", "none"],
        batch_sizes=[2],
        seeds=2,
        out=tmp_path,
        on_event=Watching(listen, tmp_path),
    )
    assert [bool(page) for page in pages].index(True) < len(pages) - 1
    last = (tmp_path / "report.html").read_text()
    assert '<meta http-equiv="refresh" content="20">' in last
    assert "Unfinished: 1 of 4 runs are in." in last
    assert 'http-equiv="refresh"' not in build_page(make_rows(), make_about())
