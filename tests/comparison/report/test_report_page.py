"""The report as a file: it needs nothing beside itself, says what the rows say, and escapes what it is given."""

import os
import re
from html.parser import HTMLParser

import pytest
from synthetic import BATCH_SIZES, NORMS, make_about, make_row, make_rows

from normwise.comparison import summarize
from normwise.comparison.report.page import build_page, write_report
from normwise.comparison.report.words import dates, partial
from normwise.comparison.verdicts.tables import tables

COMMAND = "normwise compare --out results/compare"
HOSTILE = '<script>alert("x")</script><b>&amp;'


class Page(HTMLParser):
    """Tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.text, self.code = [], "", {"script": [], "style": []}
        self._inside = None
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in self.code:
            self._inside = tag
            self.code[tag].append("")

    def handle_endtag(self, tag):
        if tag == self._inside:
            self._inside = None

    def handle_data(self, data):
        if self._inside:
            self.code[self._inside][-1] += data
        else:
            self.text += data.replace("\N{NO-BREAK SPACE}", " ")

    def count(self, tag):
        return sum(name == tag for name, _ in self.tags)


@pytest.fixture(scope="module")
def page():
    return Page(build_page(make_rows(), make_about(), COMMAND))


def test_nothing_is_fetched(page):
    links = [
        value for _, attrs in page.tags for name, value in attrs.items() if name in ("src", "href", "srcset", "data")
    ]
    assert links == ["data:,"]
    assert not re.search(r"@import|url\(", "".join(page.code["style"]))
    own_code = [code for code in page.code["script"] if "plotly.js v" not in code[:200]]
    assert not any("http" in code for code in own_code)
    assert "plotly.js v" in page.code["script"][0][:200]


def test_plotly_is_inlined_once(page):
    assert sum("plotly.js v" in code[:200] for code in page.code["script"]) == 1


def test_the_browser_is_told_to_refuse_every_request(page):
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy


def test_headline_and_evidence_are_on_the_page(page):
    summary = summarize(make_rows())
    for sentence in (summary.headline, *summary.evidence, summary.rule):
        assert sentence in page.text


@pytest.mark.parametrize("size", BATCH_SIZES)
@pytest.mark.parametrize("norm", NORMS)
def test_every_figure_of_the_tables_is_on_the_page(page, norm, size):
    for table in tables(summarize(make_rows())):
        assert table.text(norm, size) in page.text


def test_protocol_definitions_versions_machine_and_command_are_on_the_page(page):
    about = make_about()
    expected = [*about["protocol"], COMMAND, "A Processor, 2 threads", "torch 2.13.0", "numpy 2.4.6", "python 3.11.2"]
    expected += ["898 training and 899 held-out samples of shape 1×8×8, 10 classes", "Measured 2026-01-02 03:04 UTC."]
    expected += ["5 normalizers × 3 batch sizes × 2 seeds = 30 runs of 5 epochs."]
    expected += [
        "Test accuracy, %",
        "Train-eval gap, points",
        "Step time, ms",
        "Peak memory, MB",
        "CPU allocator events",
    ]
    assert [text for text in expected if text not in page.text] == []


def errors(rows):
    """The rows of a regression: errors instead of accuracies."""

    def renamed(found):
        return {name.replace("accuracy", "rmse"): value for name, value in found.items()}

    return [
        renamed(row)
        | {"metric": "rmse", "direction": "min", "chance_rmse": 9.0, "curve": [*map(renamed, row["curve"])]}
        for row in rows
    ]


def test_an_error_is_not_described_as_a_percentage(page):
    page_of_errors = Page(build_page(errors(make_rows()), make_about()))
    for text in ("cut off at 0 and 100 %", "the axis is broken"):
        assert text in page.text
        assert text not in page_of_errors.text
    for text in ("RMSE and train-eval gap", "RMSE on the same held-out samples", "interval of one RMSE on these"):
        assert text in page_of_errors.text
    assert not re.search(r"\brmse\b|\bRmse\b", page_of_errors.text)


def test_no_line_ends_between_a_number_and_its_unit_or_in_the_name_of_an_option():
    html = build_page(make_rows(), make_about(), "normwise compare --batch-sizes 8,32 --out results/a-b")
    verdict = html[html.index('class="verdict"') : html.index("</section>")]
    assert re.search(r"\d&nbsp;(ms|MB|points)\b", verdict)
    assert not re.search(r"\d (ms|MB|points|%)", verdict)
    assert "<span>--batch-sizes</span> 8,32 <span>--out</span> results/a-b" in html


def test_every_picture_has_its_words(page):
    images = [attrs for _, attrs in page.tags if attrs.get("role") == "img" and attrs["aria-label"] != "best:"]
    figures = page.count("figure")
    assert figures == len(images) == 4 + (2 + 2 + 4) * len(BATCH_SIZES)
    assert all(len(attrs["aria-label"]) > 40 for attrs in images)


def test_element_ids_are_unique(page):
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids)) == page.count("figure") + len(["rows"])


def test_a_whole_sweep_has_no_notice(page):
    assert "Unfinished" not in page.text
    assert "Diverged runs" not in page.text
    assert partial(make_rows(), make_about()) is None


def test_a_partial_sweep_says_how_much_is_in():
    text = Page(build_page(make_rows()[:23], make_about(), COMMAND)).text
    assert "Unfinished: 23 of 30 runs are in. The same command does the rest." in text


def test_a_partial_sweep_may_be_a_single_run():
    text = Page(build_page(make_rows()[:1], make_about())).text
    assert "Unfinished: 1 of 30 runs are in." in text
    assert "Repeat it" not in text


def test_diverged_runs_are_shown_as_what_they_are():
    rows = make_rows(diverged=(("none", 2, 0), ("none", 2, 1), ("group", 8, 1)))
    text = Page(build_page(rows, make_about(), COMMAND)).text
    assert "3 of them diverged: the loss stopped being finite." in text
    assert "GroupNorm, batch size 8, seed 1: The loss is not finite after epoch 2 of 5." in text
    assert "† 1 run diverged" in text


def test_a_sweep_that_diverged_everywhere_has_a_report():
    everywhere = tuple((norm, size, seed) for norm in NORMS for size in BATCH_SIZES for seed in range(2))
    text = Page(build_page(make_rows(diverged=everywhere), make_about(), COMMAND)).text
    assert "30 of them diverged" in text


def test_a_model_without_sites_has_no_signal_in_its_report():
    rows = [make_row(norm, 8, 0) | {"layers": []} for norm in ("batch", "none")]
    text = Page(build_page(rows, make_about(("batch", "none"), (8,), 1))).text
    assert "Learning curves" in text
    assert "The signal at each normalization site" not in text


def test_text_from_data_is_escaped(page):
    rows = [row | {"norm": HOSTILE, "message": HOSTILE} for row in make_rows(("batch",), diverged=(("batch", 2, 0),))]
    for row in rows:
        row["layers"] = [layer | {"name": HOSTILE} for layer in row["layers"]]
    about = make_about((HOSTILE,))
    about["settings"] |= {"model": HOSTILE}
    about["data"] |= {"name": HOSTILE}
    about["machine"] |= {"processor": HOSTILE}
    about["protocol"] = [HOSTILE]
    html = build_page(rows, about, HOSTILE)
    hostile = Page(html)
    assert '<script>alert("x")' not in html
    assert hostile.count("script") == page.count("script")
    assert hostile.count("b") == 0
    assert hostile.text.count(HOSTILE) > 10
    named = [attrs["data-norm"] for tag, attrs in hostile.tags if tag == "button" and "data-norm" in attrs]
    assert named == [HOSTILE]


def test_dates_span_days():
    rows = [make_row("batch", 8, 0), make_row("batch", 8, 1) | {"started": "2026-01-03T00:00:00+00:00"}]
    assert dates(rows) == "2026-01-02 03:04 to 2026-01-03 00:00 UTC"


def test_the_file_is_the_page_and_readable_by_others(tmp_path):
    path = tmp_path / "report.html"
    write_report(path, make_rows(), make_about(), COMMAND)
    assert path.read_text(encoding="utf-8") == build_page(make_rows(), make_about(), COMMAND)
    assert path.stat().st_mode & 0o777 == 0o644
    assert os.listdir(tmp_path) == ["report.html"]


def test_a_report_that_cannot_be_put_in_place_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def refuse(source, target):
        raise PermissionError("refused")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError, match="refused"):
        write_report(path, make_rows(), make_about(), COMMAND)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.html"]


def test_a_report_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="no run has finished yet"):
        build_page([], make_about(), COMMAND)


def test_unreliable_runs_and_their_rule_are_named():
    rows = make_rows(batch_sizes=(8,))
    for row in rows:
        if row["norm"] == "instance":
            row["test_accuracy"] = 0.51 if row["seed"] else 0.70
    text = Page(build_page(rows, make_about(batch_sizes=(8,)))).text
    assert "Unreliable at batch size 8: InstanceNorm, 60.5% on average; its runs go from 51.0% to 70.0%." in text
    assert "is unreliable, and neither leads nor ties, where its own runs lie more than 5 points apart" in text


def test_what_is_left_out_is_said():
    about = make_about(left_out=["nf is left out: <there> is none."])
    assert "nf is left out: <there> is none." in Page(build_page(make_rows(), about)).text


def test_twelve_contestants_at_six_batch_sizes_stay_readable():
    norms, sizes = (*NORMS, *(f"own{i}" for i in range(7))), (2, 4, 8, 16, 32, 64)
    rows = make_rows(norms, sizes, 3)
    summary = summarize(rows)
    assert len(re.findall(r"[.:](?: |$)", summary.headline)) <= 3
    assert len(summary.headline) < 350
    html = build_page(rows, make_about(norms, sizes, 3))
    verdict = html[html.index('<section class="verdict"') : html.index("</section>")]
    assert verdict.partition("<details>")[0].count("<li>") <= 8
    assert all(sentence in Page(html).text for sentence in summary.evidence)
    assert html.count('class="pictures small"') == 2


def test_the_learning_rates_that_were_chosen_are_in_a_table():
    about = make_about(chosen_rates=[["batch", 2, 0.3], ["group", 8, 0.05]])
    about["settings"]["lrs"] = [0.05, 0.3]
    text = Page(build_page(make_rows(), about)).text
    assert "Learning rate that was chosen" in text
    assert "may not suit each of them" not in text
    assert "The lowest of the learning rates tried (0.05) was the best for GroupNorm: one still lower may be" in text
    assert "The highest of the learning rates tried (0.3) was the best for BatchNorm: one still higher may be" in text
    about["settings"]["lrs"] = [0.01, 0.05, 0.3, 1]
    assert "of the learning rates tried" not in Page(build_page(make_rows(), about)).text
    assert (
        "One learning rate for all (0.4) may not suit each of them" in Page(build_page(make_rows(), make_about())).text
    )


def test_notes_are_said():
    about = make_about(notes=["The features lie on <different> scales."])
    assert "The features lie on <different> scales." in Page(build_page(make_rows(), about)).text
