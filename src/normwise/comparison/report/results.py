"""All results in one sortable table, downloads of the rows, and the runs that are missing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

from ..verdicts.cells import Row, counted, listed, spoken, title
from ..verdicts.sequential import stops_among
from ..verdicts.summary import Summary, to_csv
from ..verdicts.tables import Table, tables, titled
from .sections import with_spread
from .words import About

# More lines than this are folded away.
LONG = 24


def sortable(summary: Summary) -> str:
    """A table with a line for each contestant at each batch size; a click on a heading sorts by its column."""
    shown = tables(summary)
    heads = ("Normalizer", "Batch size", *(titled(table.quantity) for table in shown), "Runs")
    head = "".join(
        f'<th scope="col" aria-sort="none"><button type="button">{escape(name)}</button></th>' for name in heads
    )
    places = [(norm, size) for size in shown[0].batch_sizes for norm in shown[0].norms if summary.cell(norm, size)]
    body = "".join(_line(summary, shown, norm, size) for norm, size in places)
    return (
        f"<details{'' if len(places) > LONG else ' open'}><summary>All results in one table</summary>"
        '<p class="quiet">Press a heading to sort.</p><div class="scroll"><table class="sortable">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></details>"
    )


def _line(summary: Summary, shown: Sequence[Table], norm: str, size: int) -> str:
    cell = summary.cell(norm, size)
    figures = [_figure(table, norm, size) for table in shown]
    runs = cell.n if cell else 0
    return (
        f'<tr><th scope="row">{escape(title(norm))}</th><td data-value="{size}">{size}</td>{"".join(figures)}'
        f'<td data-value="{runs}">{runs}</td></tr>'
    )


def _figure(table: Table, norm: str, size: int) -> str:
    value = table.value(table.summary.cell(norm, size))
    return f'<td data-value="{"" if value is None else repr(value)}">{with_spread(escape(table.text(norm, size)))}</td>'


def downloads(rows: Sequence[Row]) -> str:
    """Buttons that save the rows in the page as CSV and as JSON."""
    held = json.dumps({"csv": to_csv(rows), "json": json.dumps(list(rows))}).replace("<", "\\u003c")
    return (
        '<p class="downloads"><button type="button" data-save="csv">Save the rows as CSV</button> '
        '<button type="button" data-save="json">Save them as JSON, with curves and layers</button></p>'
        f'<script type="application/json" id="rows">{held}</script>'
    )


def not_run(rows: Sequence[Row], about: About) -> str:
    """The runs of the sweep without a row, and why; empty if all runs have one."""
    sentences = [*about["left_out"], *_stopped(rows, about), *_outstanding(rows, about)]
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f"<h2>What was not run, and why</h2><ul>{items}</ul>" if items else ""


def _stopped(rows: Sequence[Row], about: About) -> list[str]:
    settings = about["settings"]
    if not settings.get("looks"):
        return []
    stops = stops_among(rows, _places(about), settings["looks"])
    behind = [
        f"{title(norm)} at batch size {size} was stopped after {counted(seeds, 'seed')}: it is clearly behind there."
        for (norm, size), seeds in stops.places.items()
    ]
    return behind + [f"Batch size {size} was stopped: it is decided." for size in stops.decided]


def _outstanding(rows: Sequence[Row], about: About) -> list[str]:
    """Runs that were not stopped and are not done yet, by contestant and batch size."""
    settings = about["settings"]
    done = {(row["norm"], row["batch_size"], row["seed"]) for row in rows}
    stops = stops_among(rows, _places(about), settings["looks"]) if settings.get("looks") else None
    open_: dict[str, list[str]] = {}
    for norm, size in _places(about):
        seeds = [seed for seed in settings["seeds"] if (norm, size, seed) not in done]
        if seeds and not (stops and stops.holds(norm, size)):
            open_.setdefault(f"batch size {size}, {_seeds(seeds)}", []).append(spoken(norm))
    return [f"Not done yet at {where}: {listed(norms, most=20)}." for where, norms in open_.items()]


def _places(about: About) -> list[tuple[str, int]]:
    settings, missing = about["settings"], {tuple(place) for place in about.get("missing", ())}
    places = [(norm, size) for size in settings["batch_sizes"] for norm in settings["norms"]]
    return [place for place in places if place not in missing]


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'' if len(seeds) == 1 else 's'} {listed([str(seed) for seed in seeds], most=12)}"
