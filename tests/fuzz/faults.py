"""What may be wrong with one tensor of a call, and what must come of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .call import Call, Fault


def _sized(count: Callable[[int], int]) -> Callable[[Tensor], Tensor]:
    """The first dimension (the last of a map) at another size, filled with the values that were there."""

    def change(t: Tensor) -> Tensor:
        axis = 0 if t.dim() < 2 else 1
        flat = t if t.dim() else t.unsqueeze(0)
        size = max(count(flat.shape[axis]), 0)
        if flat.shape[axis] == 0:
            return flat.new_ones((*flat.shape[:axis], size, *flat.shape[axis + 1 :]))
        indices = torch.arange(size, device=t.device) % flat.shape[axis]
        return flat.index_select(axis, indices)

    return change


def _freed(t: Tensor) -> Tensor:
    """As FSDP frees what it does not need at the moment: the sizes stay, the memory goes."""
    t = t.clone()
    t.untyped_storage().resize_(0)
    return t


SIZES: dict[str, Callable[[Tensor], Tensor]] = {
    "fewer": _sized(lambda n: n - 1),
    "more": _sized(lambda n: n + 1),
    "empty": _sized(lambda n: 0),
    "one": _sized(lambda n: 1),
    "twice": _sized(lambda n: 2 * n),
}
SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "one dimension more": lambda t: t.unsqueeze(0),
    "one dimension less": lambda t: t.flatten() if t.dim() > 1 else t.sum(),
}
#: Never to be taken, whatever the tensor is for.
REFUSED: dict[str, Callable[[Tensor], Tensor]] = {
    "complex": lambda t: t.to(torch.complex64) * (1 + 1j),
    "meta": lambda t: t.to("meta"),
    "freed": _freed,
    "sparse": lambda t: t.to_sparse(),
}
DTYPES: dict[str, Callable[[Tensor], Tensor]] = {
    "int": lambda t: (t * 3).long(),
    "bool": lambda t: t > 0.5,
    "fp64": lambda t: t.double(),
    "fp16": lambda t: t.half(),
    "float8": lambda t: t.float().to(torch.float8_e5m2),
}
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "expanded": lambda t: t[:1].expand_as(t) if t.dim() and t.shape[0] else t,
    "every second": lambda t: torch.stack([t, t + 1], -1)[..., 0],
    "backwards in memory": lambda t: t.flip(0).clone().flip(0) if t.dim() else t,
    "negated by a flag": lambda t: torch._neg_view(t.neg()) if t.is_floating_point() else t,
}
BEFORE = {**SIZES, **SHAPES, **REFUSED, **DTYPES, **LAYOUTS}


def _data(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], None]:
    """Through ``.data``, which no graph notices."""

    def replace(t: Tensor) -> None:
        t.data = change(t.detach())

    return replace


def _free(t: Tensor) -> None:
    t.untyped_storage().resize_(0)


def _shift(t: Tensor) -> None:
    with torch.no_grad():
        t.add_(1)


#: Between the forward and the backward pass.
BETWEEN: dict[str, Callable[[Tensor], Any]] = {
    **{f"data {name}": _data(change) for name, change in SIZES.items()},
    "data complex": _data(lambda t: t + 1j),
    "data meta": _data(lambda t: t.to("meta")),
    "data fp64": _data(lambda t: t.double()),
    "data fp16": _data(lambda t: t.half()),
    "freed": _free,
    "in place": _shift,
}


def changed(fault: Fault, name: str, t: Tensor) -> Tensor:
    """The tensor as the fault before the call leaves it, or itself where it is not the target."""
    if fault.target != name or fault.between:
        return t
    return BEFORE[fault.change](t)


def differs(before: Tensor, after: Tensor) -> bool:
    """Whether the fault changed anything: a vector of one value is "one" already."""
    if before.device != after.device or before.dtype != after.dtype or before.layout != after.layout:
        return True
    if before.shape != after.shape or before.stride() != after.stride():
        return True
    return before.untyped_storage().nbytes() != after.untyped_storage().nbytes()


def must_be_refused(call: Call, *, learned: bool, broadcasts: bool, counter: bool) -> bool:
    """Whether a result, however plausible, is a find.

    What another size of x means, or of statistics that nobody reads, the specification decides.
    """
    fault = call.fault
    if fault is None or fault.between or call.meta:
        return False
    if counter:
        return False
    if fault.change in REFUSED:
        return True
    return fault.change in SIZES and (learned or fault.target in ("residual", "mask")) and not broadcasts
