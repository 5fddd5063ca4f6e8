"""Pure formulas, and formulas with their constants bound, compared by identity."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, TypeVar

import torch

from .formulas import Affine, Formula
from .responses import Responding

_PURE = "_normwise_pure"
F = TypeVar("F", bound=Callable[..., Affine | Responding])


def formula(function: F) -> F:
    """Promise that a formula of your own is pure, and it runs as those of the package do.

    It is then recorded when a kind of call first comes: run once under the eyes of a recorder, and from then on a small
    program inside the kernels, forward and backward. The promise: the result depends on nothing but the arguments and
    constants bound with `functools.partial` (numbers, names, tensors), and nothing else is read or written: no global
    that changes, no random numbers, no branch on a tensor's values. What cannot be recorded says so once, in a warning,
    and runs operator by operator, as an unmarked formula does.

    Raises TypeError for what is no function of one's own.

    >>> import normwise as nw
    >>> @nw.formula
    ... def root_mean_square(moments, weight, eps=1e-6):
    ...     power = moments.over_channels()
    ...     return nw.Affine(0.0, weight * (power.var + power.mean**2 + eps).rsqrt(), 0.0)
    >>> y = nw.normalize(torch.randn(2, 3, 5, 5), root_mean_square, torch.ones(3))
    >>> torch.allclose(y.square().mean((1, 2, 3)), torch.ones(2), atol=1e-3)
    True
    """
    name = getattr(function, "__name__", type(function).__name__)
    try:
        if not callable(function):
            raise AttributeError
        setattr(function, _PURE, True)
    except (AttributeError, TypeError) as error:  # a class or function of Python's own takes no mark
        raise TypeError(
            f"formula marks a function (moments, *parameters) -> Affine, received {name}; write one that calls it."
        ) from error
    return function


def is_pure(function: Formula) -> bool:
    """Whether a formula, without its constants, is one of the package or marked by `formula`."""
    return str(getattr(function, "__module__", "")).startswith("normwise.") or getattr(function, _PURE, False)


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
