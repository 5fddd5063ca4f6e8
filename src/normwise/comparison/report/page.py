"""The report as one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from plotly.offline import get_plotlyjs

from ... import files
from ...pages import document
from ..metric import Metric
from ..verdicts.cells import Row
from ..verdicts.summary import Summary, summarize
from ..verdicts.tables import GAPS, Table, tables, titled
from . import results, sections
from .palette import Style, styles
from .pictures import MOMENTS, TIMES, against_batch_size, learning_curves, one_by_one, pareto, signal, sites
from .words import About, dates, extent, partial, rate_note, subject_of, with_capital

HERE = Path(__file__).parent
_GAP = "The gap is the held-out metric with the statistics of training minus that of evaluation."
_HOW_TO_READ_SHARES = (
    "Means over the seeds. Bars are one standard deviation (cut off at 0 and 100 %), dots single runs, crosses "
    "diverged runs. If a few values lie far below all others, the axis is broken and they are in the strip below the "
    f"dotted lines. {_GAP}"
)
_HOW_TO_READ_VALUES = (
    f"Means over the seeds. Bars are one standard deviation, dots single runs, crosses diverged runs. {_GAP}"
)
_HOW_TO_READ_OWN = "Means over the seeds; the bars are one standard deviation, the dots single runs."
# With more lines than this in one picture they cannot be distinguished.
TANGLE = 7


def write_report(
    path: Path, rows: Sequence[Row], about: About, command: str | None = None, refresh: int | None = None
) -> None:
    """Write the report of `rows` to `path`, as a whole or not at all.

    `about` is what `settings.json` holds, `command` the command line that repeats the sweep. A browser loads the page
    again after `refresh` seconds. Rows may be missing; without any row it raises ValueError.
    """
    files.replace(path, build_page(rows, about, command, refresh))


def build_page(rows: Sequence[Row], about: About, command: str | None = None, refresh: int | None = None) -> str:
    """The whole page."""
    summary = summarize(rows, about["settings"].get("looks", 0))
    heading = f"Which normalizer for {subject_of(about)}?"
    notice = partial(rows, about)
    parts = [
        f"<h1>{escape(heading)}</h1>",
        f'<p class="quiet">{escape(extent(rows, about))} Measured {dates(rows)}.</p>',
        f'<p class="notice">{escape(notice)}</p>' if notice else "",
        *(f'<p class="quiet">{escape(sentence)}</p>' for sentence in about.get("notes", ())),
        sections.verdict(summary, rate_note(about)),
        sections.numbers(summary),
        results.sortable(summary),
        results.downloads(rows),
        results.not_run(rows, about),
        sections.ended_early(rows),
        _pictures(summary, rows),
        "<h2>How it was measured</h2>",
        sections.protocol(rows, about, summary.rule),
        sections.chosen_rates(about),
        sections.repeat(command) if command else "",
    ]
    return _document(heading, "\n".join(parts), refresh)


def _pictures(summary: Summary, rows: Sequence[Row]) -> str:
    judged, *others = tables(summary)
    gap = [table for table in others if table.quantity in GAPS]
    cost = [table for table in others if table.quantity not in GAPS]
    style_of = styles(judged.norms)
    overview = _one_by_one if len(judged.norms) > TANGLE else _together
    parts = [
        sections.legend(judged.norms, style_of),
        f"<h2>{escape(_heading(summary))}</h2>",
        f"<p>{_how_to_read(summary.metric)}</p>",
        overview([judged, *gap], rows, style_of),
    ]
    if cost:
        shown = sections.pictures([against_batch_size(table, rows, style_of) for table in cost], "cost")
        parts += ["<h2>Cost</h2>", "<p>On logarithmic scales.</p>", shown, _worth(judged, cost, style_of)]
    if any(row["curve"] for row in rows):
        parts += [
            "<h2>Learning curves</h2>",
            "<p>Mean over the seeds in the range of the runs. A diverged run is dotted and ends in a cross.</p>",
            _curves(judged, rows, style_of),
        ]
    if sites(rows):
        parts += ["<h2>The signal at each normalization site</h2>", _signals(judged, rows, style_of)]
    return "\n".join(parts)


def _how_to_read(metric: Metric) -> str:
    if metric.own:
        return _HOW_TO_READ_OWN
    return _HOW_TO_READ_SHARES if metric.share else _HOW_TO_READ_VALUES


def _heading(summary: Summary) -> str:
    metric = summary.metric
    if metric.own:
        return metric.title
    return f"{with_capital(metric.spoken)} and train-eval gap"


def _worth(judged: Table, cost: Sequence[Table], style_of: dict[str, Style]) -> str:
    """The metric of each contestant against its cost, at each batch size."""
    found = [pareto(judged, table, size, style_of) for size in judged.batch_sizes for table in cost]
    shown = [picture for picture in found if picture is not None]
    if not shown:
        return ""
    return (
        "<h2>Worth its cost?</h2><p>Rings and the dotted line mark the front: no other is both better and cheaper.</p>"
        f"{sections.pictures(shown, 'worth')}"
    )


def _together(shown: Sequence[Table], rows: Sequence[Row], style_of: dict[str, Style]) -> str:
    return sections.pictures([against_batch_size(table, rows, style_of) for table in shown], "accuracy")


def _one_by_one(shown: Sequence[Table], rows: Sequence[Row], style_of: dict[str, Style]) -> str:
    """Small pictures, one for each normalizer, because so many lines in one picture are unreadable."""
    return "\n".join(
        f"<h3>{escape(titled(table.quantity))}: each normalizer, with all others in grey</h3>"
        f"{sections.pictures(one_by_one(table, rows, style_of), f'small-{table.quantity.field}', small=True)}"
        for table in shown
    )


def _curves(table: Table, rows: Sequence[Row], style_of: dict[str, Style]) -> str:
    """The learning curves at all batch sizes; with many normalizers only the first batch size is unfolded."""
    fields = list(dict.fromkeys(name for row in rows for point in row["curve"] for name in point if name != "epoch"))
    fields.sort(key=(table.quantity.row_field, "train_loss", *fields).index)
    if len(table.norms) <= TANGLE:
        shown = [learning_curves(rows, size, field, style_of) for size in table.batch_sizes for field in fields]
        return sections.pictures(shown, "curves")
    parts = []
    for i, size in enumerate(table.batch_sizes):
        shown = sections.pictures([learning_curves(rows, size, field, style_of) for field in fields], f"curves-{size}")
        parts.append(f"<details{' open' if i == 0 else ''}><summary>Batch size {size}</summary>{shown}</details>")
    return "\n".join(parts)


def _signals(table: Table, rows: Sequence[Row], style_of: dict[str, Style]) -> str:
    names = "".join(f"<li>{escape(name)}</li>" for name in sites(rows))
    parts = [
        "<p>The signal at the input of each normalizer, before normalization, from the first site to the last. "
        "Logarithmic scales, the same for both times.</p>"
    ]
    for i, size in enumerate(table.batch_sizes):
        shown = [signal(rows, size, moment, time, style_of) for moment in MOMENTS for time in TIMES]
        parts.append(
            f"<details{' open' if i == 0 else ''}><summary>Batch size {size}</summary>"
            f"{sections.pictures(shown, f'signal-{size}')}</details>"
        )
    parts.append(f"<details><summary>Names of the sites</summary><ol>{names}</ol></details>")
    return "\n".join(parts)


def _document(heading: str, body: str, refresh: int | None) -> str:
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    body = f'<noscript><p class="notice">The pictures need JavaScript; the tables do not.</p></noscript>\n{body}'
    return document(f"{heading} normwise compare", body, style, script, get_plotlyjs(), refresh)
