"""Formulas with their constants, one object for each: what is computed can then be told by identity."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import torch

from .formulas import Formula


class Bound(partial):
    """A formula of this package with its constants, plain numbers and names; see `bound`."""


def bound(formula: Formula, **constants: Any) -> Formula:
    """The formula with constants: the same object for the same ones, so that it says what is computed.

    >>> from normwise.core.formulas import group_norm
    >>> bound(group_norm, groups=2, eps=1e-5) is bound(group_norm, groups=2, eps=1e-5)
    True
    """
    if torch.compiler.is_compiling():  # its numbers may be symbols
        return partial(formula, **constants)
    return _bound(formula, **constants)


@lru_cache(maxsize=4096, typed=True)
def _bound(formula: Formula, **constants: Any) -> Bound:
    return Bound(formula, **constants)
