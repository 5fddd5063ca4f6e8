"""The output of `normwise evidence`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from .. import files
from ..comparison.events import Event, RunFinished, SweepStarted
from .charts import headed
from .experiment import HOLDS_WHEN, Experiment, Results, Row, Verdict
from .reading import judged
from .running import folder_of


class Progress:
    """Prints the running experiment and each of its finished runs."""

    def __init__(self, console: Console, experiment: Experiment) -> None:
        self.console, self.experiment = console, experiment

    def __call__(self, event: Event) -> None:
        if isinstance(event, SweepStarted):
            self.console.print(f"{self.experiment.number}: {self.experiment.claim}.", style="bold", soft_wrap=True)
            if event.done:
                self.console.print(f"{event.done} of {event.total} runs were finished before and are not repeated.")
        elif isinstance(event, RunFinished):
            run, row = event.run, event.row
            value = row["message"] if row["value"] is None else f"{self.experiment.metric} {row['value']:.4g}"
            size = f", batch size {run.batch_size}" if len(self.experiment.sizes) > 1 else ""
            self.console.print(
                f"[{event.done}/{event.total}] {run.norm}{size}, seed {run.seed}: {value}", soft_wrap=True
            )


def lines_of(experiment: Experiment, verdict: Verdict | None) -> list[str]:
    """The claim and its verdict as lines of text."""
    if verdict is None:
        return [f"{experiment.number} not run yet: {experiment.claim}."]
    return [f"{experiment.number} {verdict.outcome}: {experiment.claim}.", f"   {verdict.sentence}"]


def picture_of(experiment: Experiment, rows: Sequence[Row]) -> str:
    """The picture with the claim, the verdict and the meaning of the error bars."""
    seeds = len({row["seed"] for row in rows})
    picture = experiment.picture(Results(rows))
    note = f"{seeds} seeds" if seeds > 1 else "1 seed"
    if "±" in picture:
        note += "; ±: standard deviation over them"
    return headed(picture, experiment.claim, in_short(judged(experiment, rows)), note)


def in_short(verdict: Verdict) -> str:
    """The outcome, and the condition if it has one."""
    if verdict.outcome != HOLDS_WHEN:
        return verdict.outcome
    return f"{verdict.outcome} {re.split('[.:] ', verdict.sentence)[0]}"


def write_pictures(experiment: Experiment, rows: Sequence[Row], out: Path, quick: bool, console: Console) -> None:
    """Write the picture of an experiment next to its rows, and the sheet of pictures made by its nets."""
    folder = folder_of(experiment, out, quick)
    path = folder / f"{experiment.number}.svg"
    files.replace(path, picture_of(experiment, rows))
    console.print(f"Picture: {path}", soft_wrap=True)
    if experiment.exhibit is not None:
        from ..style.pictures import write_picture  # Pillow is needed only here

        made = folder / f"{experiment.number}.png"
        if not made.exists():  # the nets may have been trained in other processes, and are trained again for it
            write_picture(made, experiment.exhibit(experiment.quick_epochs if quick else experiment.epochs))
        console.print(f"Made by the nets of seed 0: {made}", soft_wrap=True)
