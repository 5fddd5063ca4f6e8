"""The data that come with scikit-learn: its handwritten digits, and the same in two domains."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..groups import Grouping
from ..settings import InputError
from .in_memory import Data
from .splits import split_and_standardize

DIGITS, MIXED, DOMAIN = "digits", "mixed-digits", "domain"
# A third trains: small enough for the default sweep, hard enough that normalizers differ. The rest gives the
# held-out accuracy a standard error of half a point.
DIGITS_HELD_OUT = 2 / 3
# A faint negative: white strokes on black (16 on 0) become grey ones on a lighter ground (6.7 on 12).
GROUND, CONTRAST = 12, 1 / 3


def digits(key: str | None) -> Data:
    """scikit-learn's 1797 handwritten digits, 8×8 grey; two thirds of each class are held out."""
    if key is not None:
        raise InputError(
            f"data={DIGITS!r} have no groups, so there is no {key!r} to make mini-batches by; write "
            f"{MIXED!r} with {DOMAIN!r}, or your own data."
        )
    return split_and_standardize(DIGITS, *_digits(), DIGITS_HELD_OUT)


def mixed_digits(key: str | None) -> Data:
    """The digits in two domains: every second one is a faint negative, like the image of another scanner."""
    if key not in (None, DOMAIN):
        raise InputError(f"data={MIXED!r} has no {key!r}; its two domains are told apart by {DOMAIN!r}.")
    x, y, classes = _digits()
    negative = torch.arange(len(x)) % 2 == 1
    x = torch.where(negative.view(-1, 1, 1, 1), GROUND - CONTRAST * x, x)
    grouping = None if key is None else Grouping(key, np.where(negative, "faint negative", "as written"))
    return split_and_standardize(MIXED, x, y, classes, DIGITS_HELD_OUT, grouping)


def _digits() -> tuple[Tensor, Tensor, tuple[str, ...]]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    classes = tuple(str(digit) for digit in range(10))
    return torch.from_numpy(images).float().reshape(-1, 1, 8, 8), torch.from_numpy(labels).long(), classes
