"""All experiments by their number. Each is a module of this package, such as `e01_small_batches`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from .experiment import Experiment


def _experiments() -> list[Experiment]:
    files = sorted(Path(__file__).parent.glob("e[0-9]*_*.py"))
    return [import_module(f".{file.stem}", __package__).EXPERIMENT for file in files]


EXPERIMENTS: dict[str, Experiment] = {experiment.number: experiment for experiment in _experiments()}


def find_experiment(number: str) -> Experiment | None:
    """An experiment by its number, in capitals or not: "e1B" is E1b."""
    return next((each for name, each in EXPERIMENTS.items() if name.lower() == number.lower()), None)
