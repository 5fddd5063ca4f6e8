"""Reports: rows first, then text at two widths, JSON and a page."""

import json

import pytest

from normwise.surgery.report import Report, Table, as_text


class Example(Report):
    def __init__(self, rows):
        self.rows = rows

    def table(self):
        columns = {"name": "layer", "outcome": "outcome", "error": "error", "reason": "reason"}
        return Table("example: 1 of 2", columns, self.rows, ["Measured in fp32."])


ROWS = [
    {"name": "stage1.block0.conv.norm" * 3, "outcome": "folded", "error": 1.25e-7, "reason": ""},
    {"name": "bn", "outcome": "kept", "error": None, "reason": "its input <x> has two readers, " * 4},
]


@pytest.mark.parametrize("width", [80, 120])
def test_a_table_keeps_to_its_width(width):
    lines = as_text(Example(ROWS).table(), width).splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0] == "example: 1 of 2"
    assert lines[-1] == "Measured in fp32."
    assert lines[1].split() == ["layer", "outcome", "error", "reason"]
    assert lines[2].startswith("…") == (width == 80)
    assert "1.25e-07" in lines[2]


def test_text_follows_the_terminal(monkeypatch):
    texts = {}
    for columns in (70, 119, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        texts[columns] = max(map(len, str(Example(ROWS)).splitlines()))
    assert texts[70] <= 80
    assert texts[119] <= 80
    assert 80 < texts[200] <= 120


def test_json_is_valid_whatever_the_numbers(tmp_path):
    path = tmp_path / "report.json"
    text = Example([{**ROWS[1], "error": float("nan")}]).to_json(path)
    assert json.loads(path.read_text()) == json.loads(text)
    assert json.loads(text)["rows"][0]["error"] == "nan"
    assert json.loads(text)["notes"] == ["Measured in fp32."]


def test_the_page_is_written_whole_and_escaped(tmp_path):
    path = tmp_path / "report.html"
    Example(ROWS).html(path)
    page = path.read_text()
    assert "&lt;x&gt;" in page
    assert page.count("<tr>") == 3
    assert list(tmp_path.iterdir()) == [path]


def test_a_report_without_rows():
    assert str(Example([])) == "example: 1 of 2\nMeasured in fp32."
