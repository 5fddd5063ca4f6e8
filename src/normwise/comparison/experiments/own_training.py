"""The comparison with a user's own loop: their task, data, optimizer and metric."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, cast

from ...layers import Norm
from ..contestants.models import first_line
from ..contestants.strategy_names import protocols
from ..events import Try
from ..fingerprints import digest
from ..isolation import isolated
from ..machine import versions
from ..metric import Metric, as_finite, as_number
from ..references import load_object, name_of
from ..settings import InputError, Run, Settings
from ..storage import Store
from ..training.code import code_of
from ..training.loop import EpochReport
from ..verdicts.cells import spoken
from .experiment import Listener, Row
from .measuring import NOT_MEASURED, measured
from .run import TrainingRun
from .together import Together, in_several_processes
from .trial import why_unfit
from .tuning import choose_rates

TrainingFunction = Callable[[TrainingRun], Mapping[str, float]]

MOST_TRACEBACK = 4000


class OwnTraining:
    """Runs of a function `train(run) -> {"rmse": ..., ...}` (an `Experiment`)."""

    def __init__(self, settings: Settings, norms: Mapping[str, Norm], train: TrainingFunction, metric: Metric) -> None:
        self.train, self.metric = train, metric
        notes = {name: why for name in norms if (why := why_unfit(name))}
        self.left_out = [f"{spoken(name)} is left out: {why}." for name, why in notes.items()]
        self.norms = {name: norm for name, norm in norms.items() if name not in notes}
        if not self.norms:
            raise InputError(f"{' '.join(self.left_out)} Name other normalizers, such as batch and group.")
        self.rates: dict[tuple[str, int], float] = {}
        self.missing: frozenset[tuple[str, int]] = frozenset()
        self.settings = replace(settings, norms=tuple(self.norms))
        self.together = Together() if in_several_processes() else None
        # Read once: a key for each run, and one for each learning rate that is tried, rest on the same files.
        self._code = [code_of(train), metric.name, metric.direction]
        self._code_of = {name: code_of(norm) for name, norm in self.norms.items()}

    def prepare(self, runs: Sequence[Run], tell: Listener, store: Store | None) -> None:
        """Choose the learning rate of each contestant at each batch size, where there is a choice."""
        if not self.settings.lrs:
            return

        def attempt(run: Run, rate: float) -> Try:
            outcome, _, _ = self._call(run, rate, lambda *_: None, choosing=True)
            return Try(*run[:2], rate, outcome["value"])

        first = [run for run in runs if run.seed == self.settings.seeds[0]]
        key_of = partial(self._key, choosing=True)
        self.rates = choose_rates(first, self.settings.lrs, self.metric, key_of, attempt, tell, store)

    def keys(self, runs: Sequence[Run]) -> dict[Run, str]:
        return {run: self._key(run, self._rate(run)) for run in runs}

    def _key(self, run: Run, rate: float | None, choosing: bool = False) -> str:
        settings = self.settings
        asked = [settings.epochs, rate or 0.0, settings.device, settings.threads, versions()]
        asked += [self.together.processes] if self.together else []
        return digest([asked, self._code, self._code_of[run.norm], run, *(["choosing"] if choosing else [])])

    def _rate(self, run: Run) -> float | None:
        """The learning rate of a run: that which was chosen, or the one that was given."""
        return self.rates.get(run[:2], self.settings.own_rate)

    def costs(self, runs: Sequence[Run]) -> dict[int, float]:
        """The same for all: the costs are unknown."""
        return {run.batch_size: 1.0 for run in runs}

    def step_times(self, _runs: Sequence[Run]) -> dict[str, float | None]:
        """None here: a run measures the time between the steps of its own optimizer."""
        return {}

    def run(self, run: Run, on_epoch: EpochReport) -> Row:
        """One call of the function; an exception in it is a failed run, and the row has its traceback."""
        return self._row(*self._call(run, self._rate(run), on_epoch), self._rate(run))

    def _call(
        self, run: Run, rate: float | None, on_epoch: EpochReport, choosing: bool = False
    ) -> tuple[Row, Row, list[dict[str, Any]]]:
        """The outcome of a call, the measurements, and the values that it reported."""
        if self.together:
            self.together.announce(run, rate, choosing)
        curve: list[dict[str, Any]] = []

        def on_report(epoch: int, metrics: dict[str, float | None]) -> None:
            curve.append({"epoch": epoch, **metrics})
            on_epoch(epoch, metrics.get("train_loss"), metrics.get(self.metric.name))

        settings = self.settings
        handle = TrainingRun(
            self.norms[run.norm],
            run.norm,
            batch_size=run.batch_size,
            seed=run.seed,
            epochs=settings.epochs,
            learning_rate=rate,
            device=settings.device,
            on_report=on_report,
            choosing=choosing,
        )
        with isolated(run.seed, settings.device, settings.threads), measured(settings.device) as found:
            outcome = self._outcome(handle)
        if self.together:
            outcome = self.together.joined(outcome, self.metric.name)
        return outcome, found, curve

    def take_part(self, run: Run, rate: float | None, choosing: bool) -> None:
        """Do a run that the first of several processes has announced."""
        self._call(run, rate, lambda *_: None, choosing)

    def lost(self, message: str) -> Row:
        return self._row(_ended("failed", message), dict(NOT_MEASURED), [], self.settings.own_rate)

    def about(self) -> dict[str, Any]:
        about = asdict(self.settings)
        return {
            "settings": about,
            "data": None,
            "protocol": [
                f"Every run is one call of {self.settings.model}, which has its own model, data and training. Runs are "
                f"judged by {self.metric.name}; {'more' if self.metric.sign > 0 else 'less'} is better.",
                "Random numbers are seeded with the run's seed before each call, so runs of one seed begin alike where "
                "the function draws the same numbers for every normalizer.",
                "A run that raises an error has failed, one whose metric is not finite has diverged; neither has a "
                "value.",
                *self._processes(),
                *self._choice_of_rate(),
                *protocols(self.norms),
            ],
            "notes": [],
            "chosen_rates": [[norm, size, rate] for (norm, size), rate in self.rates.items()],
        }

    def _processes(self) -> list[str]:
        return [f"Each run is done by {self.together.processes} processes together."] if self.together else []

    def _choice_of_rate(self) -> list[str]:
        if not self.settings.lrs:
            return []
        tried = ", ".join(f"{rate:g}" for rate in self.settings.lrs)
        best = "highest" if self.metric.sign > 0 else "lowest"
        return [
            f"Learning rate: of {tried} the one with the {best} {self.metric.name} in a call of its own with the first "
            "seed, in which run.choosing is true; chosen for each normalizer and batch size."
        ]

    def _row(self, outcome: Row, measured: Row, curve: list[dict[str, Any]], rate: float | None) -> Row:
        return {
            "train": self.settings.model,
            "metric": self.metric.name,
            "direction": self.metric.direction,
            "epochs": self.settings.epochs,
            "learning_rate": rate,
            **outcome,
            "curve": curve,
            **measured,
            "layers": [],
        }

    def _outcome(self, handle: TrainingRun) -> dict[str, Any]:
        try:
            given = self.train(handle)
        except (Exception, SystemExit) as error:  # the user's own code may raise anything, and argparse exits
            return _ended("failed", first_line(error), traceback=_shortened(traceback.format_exc()))
        if given is None and self.together and self.together.rank:
            return _ended("finished", "")
        problem = self._problem_with(given) or self._left_undone(handle)
        if problem is not None:
            return _ended("failed", problem)
        metrics = {str(name): as_finite(value) for name, value in given.items()}
        value = metrics[self.metric.name]
        if value is None:
            return _ended("diverged", f"{self.metric.name} is {as_number(given[self.metric.name])}.", metrics=metrics)
        return {"status": "finished", "message": "", "traceback": None, "value": value, "metrics": metrics}

    def _left_undone(self, handle: TrainingRun) -> str | None:
        if not handle.unfinished:
            return None
        return (
            f"{self.settings.model} must call run.finish(model, loader) after training and before it measures: "
            f"{handle.name!r} has something left to do."
        )

    def _problem_with(self, given: Any) -> str | None:
        """The error about the function's result."""
        asked = f"{self.settings.model} must return a dict with the key {self.metric.name!r}"
        if not isinstance(given, Mapping):
            return f"{asked}, it returned {type(given).__name__}."
        if self.metric.name not in given:
            return f"{asked}, it returned the keys {', '.join(map(repr, given)) or 'of an empty dict'}."
        if as_number(given[self.metric.name]) is None:
            return f"{asked} and a number there, it is {type(given[self.metric.name]).__name__}."
        return None


def open_training(train: str | TrainingFunction) -> TrainingFunction:
    """The function itself, or the one that `package.module:function` names."""
    found: Any = load_object(train) if isinstance(train, str) else train
    if not callable(found):
        raise InputError(f"train={name_of(train)!r} is not a function; it is called with a run and returns a dict.")
    try:
        inspect.signature(found).bind(object())
    except TypeError as error:
        raise InputError(
            f"train={name_of(train)!r} must take one argument, the run, as in `def my_train(run)`: {error}."
        ) from error
    except ValueError:
        pass  # a builtin without a signature
    return cast(TrainingFunction, found)


def _ended(status: str, message: str, **more: Any) -> dict[str, Any]:
    return {"status": status, "message": message, "traceback": None, "value": None, "metrics": {}} | more


def _shortened(text: str) -> str:
    """The end of a traceback, which says where it happened."""
    return text if len(text) <= MOST_TRACEBACK else f"[...]\n{text[-MOST_TRACEBACK:]}"
