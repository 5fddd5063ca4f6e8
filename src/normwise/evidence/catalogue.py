"""All experiments by their number."""

from __future__ import annotations

from . import (
    e01_small_batches,
    e01b_domains,
    e02_identities,
    e03_contrast,
    e04_initial_weights,
    e05_renorm,
    e06_gates,
    e07_spectral_gan,
    e08_signal,
    e09_normalizer_free,
    e10_ranks,
    e11_operations,
    e12_sequences,
    e13_groups,
    e14_processes,
    e15_independence,
    e16_speed,
    e17_moving_averages,
    e18_mini_batches,
    e19_translation,
    e20_memory,
)
from .experiment import Experiment

_MODULES = (
    e01_small_batches,
    e01b_domains,
    e02_identities,
    e03_contrast,
    e04_initial_weights,
    e05_renorm,
    e06_gates,
    e07_spectral_gan,
    e08_signal,
    e09_normalizer_free,
    e10_ranks,
    e11_operations,
    e12_sequences,
    e13_groups,
    e14_processes,
    e15_independence,
    e16_speed,
    e17_moving_averages,
    e18_mini_batches,
    e19_translation,
    e20_memory,
)

EXPERIMENTS: dict[str, Experiment] = {module.EXPERIMENT.number: module.EXPERIMENT for module in _MODULES}


def find_experiment(number: str) -> Experiment | None:
    """An experiment by its number, in capitals or not: "e1B" is E1b."""
    return next((each for name, each in EXPERIMENTS.items() if name.lower() == number.lower()), None)
