"""scikit-learn's handwritten digits for experiments."""

from __future__ import annotations

from functools import lru_cache

from torch import Tensor

from ..comparison.data.in_memory import Data
from ..comparison.data.sources import load_data


@lru_cache(maxsize=1)
def digits() -> Data:
    """1797 images of 8×8, two thirds of them held out, with mean 0 and variance 1 over the training split."""
    data = load_data("digits", 8, None, False)
    assert isinstance(data, Data)
    return data


def flat(x: Tensor) -> Tensor:
    """Images as rows of features."""
    return x.flatten(1)
