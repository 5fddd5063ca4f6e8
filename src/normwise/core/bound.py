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
    """Mark a formula of your own as pure, so that it runs on the kernels as those of the package do.

    At the first call of each kind a marked formula is recorded: it runs once, its operations are written down, and
    from then on they are a small program inside the kernels, forward and backward. By the mark you promise that the
    result depends only on the arguments and on constants bound with `functools.partial` (numbers, names, tensors), and
    that nothing else is read or written: no global that changes, no random numbers, no branch on a tensor's values. A
    formula with an operation that cannot be recorded warns once and runs operator by operator. A function whose code
    shows all that, arithmetic on its arguments and numbers, needs no mark.

    Raises TypeError for an object that takes no mark, such as a built-in function or a number.

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
    except (AttributeError, TypeError) as error:  # built-in functions and classes have no room for the mark
        raise TypeError(
            f"formula marks a function (moments, *parameters) -> Affine, received {name}; write one that calls it."
        ) from error
    return function


def is_pure(function: Formula) -> bool:
    """Whether a formula, without its constants, is one of the package's or marked by `formula`."""
    return str(getattr(function, "__module__", "")).startswith("normwise.") or getattr(function, _PURE, False)


def says_what_it_computes(function: Formula) -> bool:
    """Whether the object itself stands for what it computes: constants bound by `bound`, or a marked function."""
    return type(function) is Bound or getattr(function, _PURE, False)


class Bound(partial):
    """A formula of this package with its constants, plain numbers and names; see `bound`."""


def bound(formula: Formula, **constants: Any) -> Formula:
    """Bind constants to a formula; equal constants give the same object, so that its identity says what is computed.

    >>> from normwise.core.formulas import group_norm
    >>> bound(group_norm, groups=2, eps=1e-5) is bound(group_norm, groups=2, eps=1e-5)
    True
    """
    if torch.compiler.is_compiling():  # the constants may be symbolic sizes
        return partial(formula, **constants)
    return _bound(formula, **constants)


@lru_cache(maxsize=4096, typed=True)
def _bound(formula: Formula, **constants: Any) -> Bound:
    return Bound(formula, **constants)
