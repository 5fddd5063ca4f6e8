"""All experiments by their number."""

from __future__ import annotations

from . import e02_identities, e04_initial_weights, e08_signal, e15_independence, e17_moving_averages, e18_mini_batches
from .experiment import Experiment

_MODULES = (
    e02_identities,
    e04_initial_weights,
    e08_signal,
    e15_independence,
    e17_moving_averages,
    e18_mini_batches,
)

EXPERIMENTS: dict[str, Experiment] = {module.EXPERIMENT.number: module.EXPERIMENT for module in _MODULES}
