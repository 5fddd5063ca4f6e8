"""The learning rate of each contestant, chosen before the runs that the verdict is about."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence

from ..events import RateTried, Try
from ..metric import ACCURACY, Metric
from ..settings import Run
from ..storage import Store


def choose_rates(
    runs: Sequence[Run],
    rates: Sequence[float],
    metric: Metric,
    key_of: Callable[[Run, float], str],
    attempt: Callable[[Run, float], Try],
    tell: Callable[[RateTried], object],
    store: Store | None,
) -> dict[tuple[str, int], float]:
    """The best rate of each contestant at each batch size; tries that `store` holds are not repeated.

    Each rate is tried in each of `runs`: `attempt` does one try, and `tell` is called after it.
    """
    grid = [(run, rate) for run in runs for rate in rates]
    known = {key: row for key, row in (store.tries() if store else {}).items() if "value" in row}
    found: dict[tuple[str, int], list[Try]] = {}
    begin = time.perf_counter()
    for done, (run, rate) in enumerate(grid, start=1):
        key = key_of(run, rate)
        if key in known:
            tried = Try(**known[key])
        else:
            tried = attempt(run, rate)
            if store:
                store.append_try({"key": key, **tried._asdict()})
        found.setdefault((run.norm, run.batch_size), []).append(tried)
        share = done / len(grid)
        left = (time.perf_counter() - begin) / done * (len(grid) - done)
        tell(RateTried(tried=tried, metric=metric, done=done, total=len(grid), work_done=share, seconds_left=left))
    return {cell: best_rate(tries, metric) for cell, tries in found.items()}


def best_rate(tries: Iterable[Try], metric: Metric = ACCURACY) -> float:
    """The rate with the best metric; among equal ones the one with the smallest loss, then the smallest rate. Rates
    without a value come last."""

    def goodness(tried: Try) -> tuple[float, float, float]:
        score = -math.inf if tried.value is None else metric.score(tried.value)
        return score, -math.inf if tried.loss is None else -tried.loss, -tried.rate

    return max(tries, key=goodness).rate
