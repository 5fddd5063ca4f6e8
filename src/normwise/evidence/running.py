"""Run an experiment by `compare`, with its storage, resumption and workers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ..comparison import compare
from ..comparison.sweeping.sweep import Listener
from .experiment import Experiment, Row


@dataclass(frozen=True)
class Case:
    """A case of an experiment, passed to `compare` as a normalizer; only its name is used."""

    name: str

    @property
    def __name__(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.name

    def __call__(self, channels: int) -> nn.Module:
        raise TypeError(f"{self.name!r} is a case of an experiment, not a normalizer of {channels} channels.")


def run_experiment(
    experiment: Experiment,
    out: str | os.PathLike[str] | None = None,
    *,
    quick: bool = False,
    jobs: int = 1,
    on_event: Listener | None = None,
) -> list[Row]:
    """The rows of an experiment; runs that `out` holds are not repeated.

    Args:
        experiment: one of `EXPERIMENTS`.
        out: a folder for all experiments, with a subfolder for each.
        quick: whether to run the reduced size.
        jobs: the number of processes that do runs at the same time.
        on_event: as in `compare`.
    """
    return compare(
        train=experiment.measure,
        norms=[Case(name) for name in experiment.cases],
        batch_sizes=list(experiment.sizes),
        seeds=experiment.quick_seeds if quick else experiment.seeds,
        epochs=experiment.quick_epochs if quick else experiment.epochs,
        metric=experiment.metric,
        direction=experiment.direction,
        device="cpu",
        jobs=jobs,
        out=None if out is None else folder_of(experiment, Path(out), quick),
        on_event=on_event,
    )


def folder_of(experiment: Experiment, out: Path, quick: bool) -> Path:
    """The folder for the rows of an experiment; the reduced size has a separate one."""
    return out / (f"{experiment.number}-quick" if quick else experiment.number)


def runs_of(experiment: Experiment, quick: bool) -> int:
    """The number of runs of an experiment."""
    seeds = experiment.quick_seeds if quick else experiment.seeds
    return len(experiment.cases) * len(experiment.sizes) * seeds
