"""How far means differ by chance: the studentized range, over several tables at once."""

from __future__ import annotations

import math
from collections import Counter
from functools import lru_cache

import numpy as np
import torch

LEVEL = 0.95

# Means are integrated over [-8, 8] standard deviations, ranges over [0, 16]; the rest has a probability below 1e-14.
_NORMAL = np.linspace(-8.0, 8.0, 401)
_RANGES = np.linspace(0.0, 16.0, 801)
_LOG_SPREADS = np.linspace(-12.0, 2.5, 1451)
_LARGEST = 1e4


@lru_cache(maxsize=256)
def range_quantile(sizes: tuple[int, ...], freedom: int, level: float = LEVEL) -> float:
    r"""The bound that, with probability `level`, no table's range (largest minus smallest mean) exceeds.

    Table b holds `sizes[b]` means of equal expectation, independent and normal with variance 1. The ranges are divided
    by one spread s for all tables, estimated with `freedom` degrees of freedom:

    .. math:: P(\text{all} \le q) = \int f_\nu(s) \prod_b F_{k_b}(q s)\, ds, \quad
              F_k(w) = k \int \varphi(z)\, [\Phi(z) - \Phi(z - w)]^{k-1}\, dz

    with ν s² distributed as χ² with ν degrees of freedom. For one table this is Tukey's studentized range (Tukey 1953;
    Hochberg and Tamhane 1987, *Multiple Comparison Procedures*, ch. 3), and for two means the quantile of |t| times √2.

    >>> round(range_quantile((3,), 10), 2), round(range_quantile((2,), 10) / 2**0.5, 3)
    (3.88, 2.228)
    """
    weights = _spread_weights(freedom)
    spreads = np.exp(_LOG_SPREADS)

    def probability(q: float) -> float:
        inside = np.ones_like(spreads)
        for size, count in Counter(sizes).items():
            inside *= np.interp(q * spreads, _RANGES, _range_distribution(size)) ** count
        return float(weights @ inside)

    low, high = 0.0, _LARGEST
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if probability(middle) < level else (low, middle)
    return high


@lru_cache(maxsize=64)
def _range_distribution(size: int) -> np.ndarray:
    """F_k on the grid of ranges, k standard normal values."""
    density = np.exp(-(_NORMAL**2) / 2) / math.sqrt(2 * math.pi)
    between = _below(_NORMAL)[None] - _below(_NORMAL[None] - _RANGES[:, None])
    return size * (between ** (size - 1) @ density) * (_NORMAL[1] - _NORMAL[0])


def _spread_weights(freedom: int) -> np.ndarray:
    """The probability weight of each log s on the grid: the density is s^ν exp(-ν s²/2) up to a factor."""
    log_density = freedom * (_LOG_SPREADS - np.exp(2 * _LOG_SPREADS) / 2)
    weights = np.exp(log_density - log_density.max())
    return weights / weights.sum()


def _below(z: np.ndarray) -> np.ndarray:
    """Φ, the standard normal distribution function."""
    return torch.special.ndtr(torch.from_numpy(z)).numpy()
