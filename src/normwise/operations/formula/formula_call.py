"""A formula with the tensors of one call, and a key that is equal for all calls of its kind."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from normwise.core.formulas import Affine
from normwise.core.lasting import lasting
from normwise.core.layout import PLAIN
from normwise.core.moments import Moments, statistics_dtype
from normwise.core.precision import table_dtype
from normwise.core.responses import Responding

from .lowering import NotRecordableError
from .tiny_graph import wide


class FormulaCall:
    """A formula to be run, its tensors, and the key to its programs, which is everything but the tensors."""

    def __init__(
        self,
        formula: partial[Affine | Responding],
        x: Tensor,
        mask: Tensor | None,
        given: Moments | None,
        parameters: tuple[Tensor | None, ...],
        *,
        differentiable: bool,
    ) -> None:
        self.formula, self.given = formula, given
        self.size = math.prod(x.shape[2:])
        self.table = _unmeasured(x, mask) if given is None else given.detached()
        # The size of the planes is passed as a tensor, since it changes from image to image while the programs stay the
        # same. But a formula may branch on whether it is 1.
        number = given is not None or mask is not None or self.size == 1
        self.entering = self.table if number else self.table._replace(count=_as_tensor(self.size))
        self.parameters = wide(parameters, x)
        self.flows = differentiable and given is None and x.requires_grad
        self.needs = tuple(differentiable and p is not None and p.requires_grad for p in parameters)
        tensors: list[Tensor] = []
        rest = [_apart(values, tensors) for values in (self.entering, self.parameters)]
        constants: list[Tensor] = [] if given is None else [given.mean, given.var]
        before = len(tensors)
        rest.append(_apart(formula.keywords.values(), tensors))
        constants += tensors[before:]
        #: Tensors that are neither measured here nor saved as parameters; the backward pass reads them again.
        self.constants = [(t, t._version) for t in constants if not t.is_inference()]
        self.tensors = [t if t.is_contiguous() else t.contiguous() for t in tensors]
        kind = (x.shape[:2], statistics_dtype(x.dtype), given is None, self.flows, self.needs)
        self.key = (formula.func, *formula.keywords, *rest, *kind)

    def check_constants(self) -> None:
        """Raise RuntimeError if one of the constants has changed since."""
        for t, version in self.constants:
            if t._version != version:
                raise RuntimeError(
                    f"Statistics of shape {list(t.shape)} that normalized have been modified by an inplace operation "
                    "since, and the backward pass needs them; give a copy, as in moments=running.moments()."
                )


def _unmeasured(x: Tensor, mask: Tensor | None) -> Moments:
    """Room for the moments of ``x``."""
    dtype, shape = table_dtype(x), x.shape[:2]
    mean, var = torch.empty(2, *shape, dtype=dtype, device=x.device).unbind()
    if mask is None:
        return Moments(mean, var, math.prod(x.shape[2:]))
    return Moments(mean, var, torch.empty(shape[0], 1, dtype=dtype, device=x.device))


@cache
def _as_tensor(number: int) -> Tensor:
    with lasting():
        return torch.tensor(number, dtype=torch.float64, device="cpu")


def _apart(values: Iterable[Any], tensors: list[Tensor]) -> Hashable:
    """``values`` without their tensors, each replaced by its shape and dtype; the tensors are added to ``tensors``."""
    rest: list[Hashable] = []
    for value in values:
        if isinstance(value, Tensor):
            if value.dtype is not torch.float32 and value.dtype is not torch.float64:
                raise NotRecordableError(f"a constant of {value.dtype}")
            if type(value) not in PLAIN or not value.is_cpu or value.is_neg() or value._is_zerotensor():
                raise NotRecordableError(f"a {type(value).__name__} on {value.device}")
            tensors.append(value)
            rest.append((value.shape, value.dtype))
        elif isinstance(value, tuple):
            rest.append((type(value), _apart(value, tensors)))
        elif value is None or isinstance(value, (bool, int, float, str)):
            rest.append(value)
        else:
            raise NotRecordableError(f"a constant of type {type(value).__name__}")
    return tuple(rest)


def together(values: Iterable[Any], tensors: Iterator[Tensor]) -> list[Any]:
    """``values`` with other tensors, in the order of `_apart`."""
    found: list[Any] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(next(tensors))
        elif isinstance(value, tuple):
            parts = together(value, tensors)
            found.append(type(value)(*parts) if hasattr(value, "_fields") else tuple(parts))
        else:
            found.append(value)
    return found
