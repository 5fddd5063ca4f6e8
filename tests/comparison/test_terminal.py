"""The terminal output at several widths, in a terminal and in a pipe."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console
from synthetic import BATCH_SIZES, NORMS, make_about, make_row, make_rows

from normwise.comparison import EpochFinished, Run, RunFinished, RunSkipped, RunStarted, SweepStarted, summarize
from normwise.comparison.metric import ACCURACY
from normwise.comparison.terminal import Progress, duration, show_result
from normwise.comparison.verdicts.cells import title
from normwise.comparison.verdicts.next_step import NextStep
from normwise.comparison.verdicts.tables import tables

MANY = (1, 2, 4, 8, 16, 32, 64, 128)
FILES = [("Report", Path("results/compare/report.html"))]
STEP = NextStep("Do what is left.", "normwise compare --data 'my photos/'")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def console(width, stream=None, **options):
    return Console(file=stream or io.StringIO(), width=width, markup=False, emoji=False, highlight=False, **options)


def shown(rows, width, notice=None):
    view = console(width)
    show_result(view, summarize(rows), FILES, STEP, notice)
    return view.file.getvalue()


def words(text):
    return " ".join(text.split())


@pytest.mark.parametrize("sizes", [BATCH_SIZES, MANY], ids=["three sizes", "eight sizes"])
@pytest.mark.parametrize("width", [80, 120, 200])
def test_every_figure_is_whole_and_in_the_line_of_its_normalizer(width, sizes):
    rows = make_rows(batch_sizes=sizes)
    text = shown(rows, width)
    assert max(map(len, text.splitlines())) <= width
    for table in tables(summarize(rows)):
        assert f"{table.quantity.title}, {table.quantity.unit}" in text
        for norm in NORMS:
            lines = [line for line in text.splitlines() if line.startswith(title(norm) + "  ")]
            figures = [table.text(norm, size) for size in sizes]
            assert [f for f in figures if not any(re.search(rf"\s{re.escape(f)}(\s|$)", line) for line in lines)] == []


def test_a_wide_terminal_has_all_tables_side_by_side():
    text = shown(make_rows(), 160)
    assert sum(line.startswith("BatchNorm  ") for line in text.splitlines()) == 1


def test_best_is_marked_without_colour():
    lines = shown(make_rows(), 80).splitlines()
    group = next(line for line in lines if line.startswith("GroupNorm  "))
    assert group.count("*") == 3
    batch = next(line for line in lines if line.startswith("BatchNorm  "))
    assert "*" not in batch
    assert "* best at its batch size, to the digits shown." in lines


@pytest.mark.parametrize("width", [80, 120])
def test_recommendation_evidence_and_files_follow(width):
    summary = summarize(make_rows())
    text = words(shown(make_rows(), width))
    for sentence in (summary.headline, *summary.evidence):
        assert words(sentence) in text
    assert "Report: results/compare/report.html" in text
    assert text.endswith("Next: Do what is left. normwise compare --data 'my photos/'")


def test_a_long_path_is_not_broken():
    view = console(80)
    path = Path("/".join(["a folder"] * 20))
    show_result(view, summarize(make_rows()), [("Report", path)], STEP)
    assert f"Report: {path}" in view.file.getvalue().splitlines()


def test_divergence_is_explained():
    text = words(shown(make_rows(diverged=(("group", 8, 1), ("none", 2, 0), ("none", 2, 1))), 80))
    assert "† 1 run diverged (the loss stopped being finite)" in text
    assert "no normalizer diverged" in text.replace(title("none"), "no normalizer")


def test_unreliable_runs_are_named():
    rows = make_rows(batch_sizes=(8,))
    for row in rows:
        if row["norm"] == "instance":
            row["test_accuracy"] = 0.51 if row["seed"] else 0.70
    text = words(shown(rows, 80))
    assert "Unreliable at batch size 8: InstanceNorm, 60.5% on average; its runs go from 51.0% to 70.0%." in text
    assert "InstanceNorm" not in summarize(rows).headline


def test_what_is_left_out_is_said_at_the_start():
    view = console(80)
    about = make_about(left_out=["nf is left out: there is none."])
    Progress(view)(SweepStarted(out=None, about=about, done=0, total=1, work_done=0.0, seconds_left=0.0))
    assert view.file.getvalue() == "nf is left out: there is none.\n"


def test_names_from_data_are_not_markup():
    rows = [row | {"norm": "[bold]:smile:"} for row in make_rows(("batch",))]
    assert "[bold]:smile:" in shown(rows, 80)


def test_a_notice_stands_before_what_comes_next():
    notice = "Unfinished: 3 of 30 runs are in."
    assert f"{notice}\n\nNext: " in shown(make_rows()[:3], 80, notice)


def at(done, **fields):
    return {"done": done, "total": 3, "work_done": done / 3, "seconds_left": 125.0, **fields}


def sweep():
    """The events of a sweep of three runs; the first was finished earlier and the last diverges."""
    runs = [Run("batch", 8, 0), Run("group", 8, 0), Run("none", 8, 0)]
    rows = [make_row(*run, diverged=run.norm == "none") for run in runs]
    yield SweepStarted(out=Path("results"), about=make_about(), **at(1))
    yield RunSkipped(run=runs[0], row=rows[0], **at(1))
    for done, run, row in ((1, runs[1], rows[1]), (2, runs[2], rows[2])):
        yield RunStarted(run=run, **at(done))
        yield EpochFinished(run=run, epoch=1, epochs=5, train_loss=1.5, metric=ACCURACY, value=0.5, **at(done))
        yield RunFinished(run=run, row=row, **at(done + 1))


def test_a_pipe_gets_one_plain_line_per_run():
    view = console(80)
    with Progress(view) as progress:
        for event in sweep():
            progress(event)
    accuracy = make_row("group", 8, 0)["test_accuracy"]
    assert view.file.getvalue().splitlines() == [
        "1 of 3 runs were finished before and are not repeated.",
        f"[2/3] GroupNorm, batch size 8, seed 0: accuracy {accuracy:.1%} in 4.2 s",
        f"[3/3] {title('none')}, batch size 8, seed 0: diverged. The loss is not finite after epoch 2 of 5.",
    ]


def test_a_pipe_stays_plain_when_colour_is_forced():
    view = console(80, force_terminal=True)
    with Progress(view) as progress:
        for event in sweep():
            progress(event)
    assert "\x1b" not in view.file.getvalue()


def test_rows_and_settings_are_collected():
    with Progress(console(80)) as progress:
        for event in sweep():
            progress(event)
    assert [row["norm"] for row in progress.rows] == ["batch", "group", "none"]
    assert progress.about == make_about()


def test_a_terminal_shows_the_current_run_its_accuracy_and_the_time_left():
    stream = Terminal()
    view = console(80, stream, force_terminal=True)
    with Progress(view) as progress:
        for event in sweep():
            progress(event)
            if isinstance(event, EpochFinished):
                progress._live.refresh()
                break
    text = stream.getvalue()
    assert "33%  1 of 3 runs  2 min 05 s left" in text
    assert "GroupNorm, batch size 8, seed 0: epoch 1 of 5, accuracy 50.0%" in text
    assert re.search(r"BatchNorm +\d+\.\d", text)
    assert "Test accuracy, %" in text


def test_the_live_display_is_gone_afterwards():
    stream = Terminal()
    with Progress(console(80, stream, force_terminal=True)) as progress:
        for event in sweep():
            progress(event)
    erase_line = "\x1b[2K"
    assert stream.getvalue().endswith(erase_line)


def test_no_color_leaves_no_colour(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    show_result(console(80, stream, force_terminal=True), summarize(make_rows()), FILES, STEP)
    codes = {code for group in re.findall(r"\x1b\[([\d;]*)m", stream.getvalue()) for code in group.split(";")}
    assert codes <= {"0", "1", "2"}


def test_a_dumb_terminal_gets_plain_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    with Progress(console(80, stream, force_terminal=True)) as progress:
        for event in sweep():
            progress(event)
    assert "\x1b" not in stream.getvalue()
    assert "[2/3] GroupNorm" in stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 00 min"),
        (90061, "25 h 01 min"),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text
