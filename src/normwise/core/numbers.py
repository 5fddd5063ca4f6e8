"""Checks of arguments that are not tensors: whole numbers, real numbers, shapes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from .tables import called

#: Any, for a type checker: the abstract classes of numbers have no order.
_NUMBERS: Any = (float, int, Real, torch.SymFloat, torch.SymInt)


def check_whole(caller: object, name: str, value: Any, least: float) -> None:
    """Require a whole number of at least ``least``; True and 4.0 are refused."""
    if not _is_whole(value):
        raise TypeError(f"{called(caller)}: {name} must be a whole number, received {_shown(value)}; write {name}=4.")
    if value < least:
        raise ValueError(f"{called(caller)}: {name} must be at least {least}, received {value}.")


def check_flag(caller: object, name: str, value: Any) -> None:
    """Require True or False: a word such as "no" would count as true."""
    if not isinstance(value, bool):
        raise TypeError(f"{called(caller)}: {name} must be True or False, received {_shown(value)}.")


def check_number(caller: object, name: str, value: Any, least: float, most: float = math.inf) -> None:
    """Require a real number from ``least`` to ``most``; tensors and NaN are refused."""
    if isinstance(value, bool) or not is_number(value):
        raise TypeError(
            f"{called(caller)}: {name} must be a number, received {_shown(value)}; write {name}=float(...) for a "
            "number that is something else."
        )
    if not least <= value <= most:
        limits = f"at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
        raise ValueError(f"{called(caller)}: {name} must be {limits}, received {value}.")


def check_eps(caller: object, eps: Any) -> None:
    """Require a number of at least 0, to be added to a variance."""
    check_number(caller, "eps", eps, 0.0)


def check_momentum(caller: object, momentum: Any) -> None:
    """Require the weight of the new value, from 0 to 1, or None for the cumulative average."""
    if momentum is not None:
        check_number(caller, "momentum", momentum, 0.0, 1.0)


def check_groups(caller: object, groups: Any, channels: int) -> None:
    """Require a whole number of groups that divides the channels."""
    if not _is_whole(groups):
        raise TypeError(f"{called(caller)}: num_groups must be a whole number, received {_shown(groups)}.")
    if groups < 1 or channels % groups:
        divisors = ", ".join(str(d) for d in range(1, channels + 1) if channels % d == 0)
        raise ValueError(
            f"{called(caller)}(num_groups={groups}): {channels} channels are not divisible by {groups} groups; "
            f"divisors of {channels}: {divisors}."
        )


def check_dim(caller: object, x: Tensor, dim: Any) -> None:
    """Require a dimension of ``x``, counted from its first (0) or its last (-1)."""
    if not _is_whole(dim):
        raise TypeError(f"{called(caller)}: dim must be a whole number, received {_shown(dim)}; write dim=-1.")
    if not -x.dim() <= dim < x.dim():
        raise ValueError(
            f"{called(caller)}: dim must be from {-x.dim()} to {x.dim() - 1} for an input of shape {list(x.shape)}, "
            f"received {dim}."
        )


def as_row_shape(caller: object, shape: Any) -> tuple[int, ...]:
    """``normalized_shape`` as the sizes of one or more trailing dimensions; a number is the size of the last."""
    if _is_whole(shape):
        shape = (shape,)
    sizes = tuple(shape) if isinstance(shape, Iterable) and not isinstance(shape, (str, Tensor)) else None
    if sizes is None or not all(_is_whole(size) for size in sizes):
        raise TypeError(
            f"{called(caller)}: normalized_shape must be the sizes of the trailing dimensions, whole numbers, received "
            f"{_shown(shape)}; write [4] for rows of 4 values."
        )
    if not sizes or min(sizes) < 0:
        raise ValueError(
            f"{called(caller)}: normalized_shape must name at least one dimension, of size 0 or more, received "
            f"{list(sizes)}; write [4] for rows of 4 values."
        )
    return sizes


def check_rows(caller: object, x: Tensor, shape: tuple[int, ...]) -> None:
    """Require the trailing dimensions of ``x`` to have the sizes of a row."""
    if x.shape[-len(shape) :] != shape:
        raise ValueError(
            f"{called(caller)}: expected input of shape [*, {', '.join(map(str, shape))}], got {list(x.shape)}; write "
            f"{called(caller)}({list(x.shape[-len(shape) :])}), or move these dimensions to the end."
        )


def is_number(value: Any) -> bool:
    """Whether a value is a real number and not a tensor."""
    return isinstance(value, _NUMBERS)


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, Integral, torch.SymInt)) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    """The value for a message, or its type where the value could fill the screen."""
    return repr(value) if isinstance(value, (bool, int, float, complex, str, tuple, list)) else type(value).__name__
