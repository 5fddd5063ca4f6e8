"""The output of `normwise compare` in a terminal: progress during the runs, tables and recommendation at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table as Grid
from rich.text import Text

from .events import EpochFinished, Event, RateTried, RunFinished, RunSkipped, RunStarted, SweepStarted
from .metric import metric_of
from .settings import Run
from .verdicts.cells import Row, spoken, title
from .verdicts.next_step import NextStep
from .verdicts.summary import Summary, summarize
from .verdicts.tables import Table, divergence_note, judged_quantity, tables, titled

BEST = "*"
GUTTER = 2
MOST_EVIDENCE = 12


def make_console(*, stderr: bool = False) -> Console:
    """A console that prints text as it is: no markup, emoji or guessed highlights in names that come from data."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


class Progress:
    """Listener of a sweep and context manager: a live display in a terminal, elsewhere one line per finished run.

    `rows` are the rows of the runs finished so far, `about` is what `settings.json` holds.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.rows: list[Row] = []
        self.about: dict[str, Any] = {}
        self._event: Event | None = None
        self._received = 0.0
        self._judged: list[RenderableType] = []
        # A pipe gets plain lines, even if FORCE_COLOR makes rich treat it as a terminal.
        interactive = console.file.isatty() and not console.is_dumb_terminal
        self._live = Live(console=console, get_renderable=self._display, transient=True) if interactive else None

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        self._event, self._received = event, time.monotonic()
        if isinstance(event, RateTried) and not self._live:
            self._say(f"[{event.done}/{event.total}] {_tried(event)}")
        elif isinstance(event, SweepStarted):
            self.about = event.about
            for sentence in (*event.about["left_out"], *event.about.get("notes", ())):
                self._say(sentence)
            if event.done:
                self._say(f"{event.done} of {event.total} runs were finished before and are not repeated.")
        elif isinstance(event, (RunFinished, RunSkipped)):
            self.rows.append(event.row)
            if self._live:
                summary = summarize(self.rows)
                self._judged = _side_by_side([Table(judged_quantity(summary.metric), summary)], self.console)
            elif isinstance(event, RunFinished):
                self._say(f"[{event.done}/{event.total}] {_outcome(event.run, event.row)}")

    def _say(self, line: str) -> None:
        self.console.print(line, soft_wrap=True)

    def _display(self) -> RenderableType:
        if self._event is None:
            return Text("Checking the model and the data")
        now = Text(_now(self._event), no_wrap=True, overflow="ellipsis")
        return Group(self._bar(self._event), now, "", *self._judged)

    def _bar(self, event: Event) -> RenderableType:
        left = duration(max(0.0, event.seconds_left - (time.monotonic() - self._received)))
        counts = f"{event.work_done:4.0%}  {event.done} of {event.total} runs  {left} left"
        grid = Grid.grid(padding=(0, 2, 0, 0))
        grid.add_row(ProgressBar(total=1, completed=event.work_done, width=30), Text(counts, no_wrap=True))
        return grid


def _now(event: Event) -> str:
    if isinstance(event, EpochFinished):
        shown = "" if event.value is None else f", {event.metric.spoken} {event.metric.text(event.value)}"
        return f"{_name(event.run)}: epoch {event.epoch} of {event.epochs}{shown}"
    if isinstance(event, RateTried):
        return f"Choosing learning rates: {_tried(event)}"
    if isinstance(event, (RunStarted, RunFinished, RunSkipped)):
        return _name(event.run)
    return "Starting"


def _tried(event: RateTried) -> str:
    tried = event.tried
    value = "not finite" if tried.value is None else event.metric.text(tried.value)
    at = f"learning rate {tried.rate:g} for {spoken(tried.norm)} at batch size {tried.batch_size}"
    return f"{at}: validation {event.metric.spoken} {value}"


def _name(run: Run) -> str:
    return f"{title(run.norm)}, batch size {run.batch_size}, seed {run.seed}"


def _outcome(run: Run, row: Row) -> str:
    if row["status"] != "finished":
        return f"{_name(run)}: {row['status']}. {row['message']}"
    metric = metric_of([row])
    return f"{_name(run)}: {metric.spoken} {metric.text(metric.of(row) or 0.0)} in {row['seconds']:.1f} s"


def duration(seconds: float) -> str:
    """Seconds as text for readers.

    >>> duration(42.3), duration(125), duration(7500)
    ('42 s', '2 min 05 s', '2 h 05 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def show_result(
    console: Console,
    summary: Summary,
    files: Sequence[tuple[str, Path]],
    step: NextStep,
    notice: str | None = None,
    remark: str | None = None,
) -> None:
    """Tables, recommendation with its evidence and a remark, where the files are, a notice where runs are missing, and
    what to do next."""
    console.print(*_side_by_side(tables(summary), console), "", sep="\n")
    console.print(f"{BEST} best at its batch size, to the digits shown.", style="dim")
    if note := divergence_note(summary):
        console.print(note, style="dim")
    console.print()
    console.print(summary.headline, style="bold")
    shown = summary.evidence if len(summary.evidence) <= MOST_EVIDENCE else summary.evidence[: MOST_EVIDENCE - 1]
    for sentence in shown:
        line = Grid.grid()
        line.add_row("- ", sentence)
        console.print(line)
    if len(shown) < len(summary.evidence):
        console.print(f"- {len(summary.evidence) - len(shown)} more in the report.")
    if remark:
        console.print(remark, style="dim")
    console.print()
    for name, path in files:
        console.print(f"{name}: {path}", soft_wrap=True)
    if notice:
        console.print(notice, style="bold")
    console.print("", f"Next: {step.why}", sep="\n", soft_wrap=True)
    if step.command:
        console.print(f"  {step.command}", style="bold", soft_wrap=True)


def _side_by_side(shown: Sequence[Table], console: Console) -> list[RenderableType]:
    """The tables in as few lines as the width allows; each line begins with the names of the normalizers."""
    names = _names(shown[0])
    width = console.measure(names).maximum
    lines, line, used = [], [names], width
    for table in shown:
        for grid in _grids(table, table.batch_sizes, console, console.width - width):
            needed = console.measure(grid).maximum + GUTTER
            if len(line) > 1 and used + needed > console.width:
                lines += [_row(line), ""]
                line, used = [names], width
            line.append(grid)
            used += needed
    return [*lines, _row(line)]


def _grids(table: Table, sizes: Sequence[int], console: Console, room: int) -> Iterator[Grid]:
    """The table, in several pieces if it does not fit next to the names."""
    grid = _grid(table, sizes)
    if len(sizes) > 1 and console.measure(grid).maximum + GUTTER > room:
        half = (len(sizes) + 1) // 2
        yield from _grids(table, sizes[:half], console, room)
        yield from _grids(table, sizes[half:], console, room)
    else:
        yield grid


def _row(grids: Sequence[Grid]) -> Grid:
    row = Grid.grid(padding=(0, GUTTER, 0, 0))
    row.add_row(*grids)
    return row


def _names(table: Table) -> Grid:
    grid = Grid.grid()
    for line in ("", "batch size", *map(title, table.norms)):
        grid.add_row(Text(line, no_wrap=True))
    return grid


def _grid(table: Table, sizes: Sequence[int]) -> Grid:
    cells = Grid.grid(padding=(0, 0, 0, 2))
    cells.add_row(*(Text(f"{size}  ", style="dim", justify="right") for size in sizes))
    for norm in table.norms:
        cells.add_row(*(_cell(table, norm, size) for size in sizes))
    grid = Grid.grid()
    grid.add_row(Text(titled(table.quantity), style="bold", no_wrap=True))
    grid.add_row(cells)
    return grid


def _cell(table: Table, norm: str, batch_size: int) -> Text:
    best = table.is_best(norm, batch_size)
    text = f"{table.text(norm, batch_size)} {BEST if best else ' '}"
    return Text(text, style="bold green" if best else "", no_wrap=True, justify="right")
