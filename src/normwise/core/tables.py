"""Checks of the tensors that go with an input: real, dense, on its device and of the right shape.

Nothing here trusts a constructor: parameters and buffers are replaced, resized, shared and moved one by one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .layout import PLAIN
from .sizes import same

Shape = tuple[int, ...]
#: The dtypes that normalizers compute in; torch has hardly any operator for narrower floating dtypes.
REAL = frozenset((torch.float64, torch.float32, torch.bfloat16, torch.float16))
_STRIDED = torch.strided


def check_optional(caller: object, x: Tensor, shape: Shape, **tensors: Tensor | None) -> None:
    """Require each tensor to have the ``shape``, or to be None. ``caller`` is a layer, or the name of a function."""
    # Every pass of every layer comes here: the usual case is recognized in the fewest steps.
    on_cpu, dtype, line = x.is_cpu, x.dtype, shape[0] if len(shape) == 1 else -1
    for name, t in tensors.items():
        if t is None or (
            type(t) in PLAIN
            and t.dtype is dtype
            and (t.dim() == 1 and t.numel() == line if line >= 0 else t.shape == shape)
            and on_cpu
            and t.is_cpu
            and t.layout is _STRIDED
        ):
            continue
        if not (_goes_with(t, x) and same(t.shape, shape)):
            raise _misfit(caller, name, t, x, shape)


def check_required(caller: object, x: Tensor, shape: Shape, **tensors: Tensor) -> None:
    """Require each tensor to have the ``shape``."""
    for name, t in tensors.items():
        if not (_goes_with(t, x) and same(t.shape, shape)):
            raise _misfit(caller, name, t, x, shape)


def check_scalars(caller: object, x: Tensor, **tensors: Tensor) -> None:
    """Require each tensor to be a single number, of shape ``[]`` or ``[1]``."""
    for name, t in tensors.items():
        if not (_goes_with(t, x) and t.shape in ((), (1,))):
            raise _misfit(caller, name, t, x, (), (1,))


def check_scalars_or_tables(caller: object, x: Tensor, **tables: Tensor) -> None:
    """Require each tensor to be a single number or a table of channels."""
    for name, table in tables.items():
        if not isinstance(table, Tensor) or table.dim() > 1 or table.numel() != 1:
            check_required_tables(caller, x, **{name: table})
        else:
            check_scalars(caller, x, **{name: table})


def check_tables(caller: object, x: Tensor, **tables: Tensor | None) -> None:
    """Require each to be a table of channels, ``[C]``, ``[1, C]`` or ``[N, C]``, or None."""
    check_required_tables(caller, x, **{name: table for name, table in tables.items() if table is not None})


def check_required_tables(caller: object, x: Tensor, **tables: Tensor) -> None:
    """Require each to be a table of channels, ``[C]``, ``[1, C]`` or ``[N, C]``."""
    for name, table in tables.items():
        samples, channels = x.shape[:2]
        shapes = ((channels,), (1, channels), (samples, channels))
        if not (_goes_with(table, x) and any(same(table.shape, shape) for shape in shapes)):
            words = f"[C] = [{channels}] or [N, C] = [{samples}, {channels}]"
            raise _misfit(caller, name, table, x, *shapes, allowed=words)


def check_table(caller: object, name: str, t: Tensor, x: Tensor) -> None:
    """Require real numbers that broadcast against a table ``[N, C]`` of ``x``."""
    check_place(caller, name, t, x)
    if t.is_floating_point() and t.dtype not in REAL:
        raise TypeError(f"{called(caller)}: {name} is of {t.dtype}, which nothing computes with; convert it.")
    if not same(t.shape, x.shape[:2]) and not broadcasts(t.shape, x.shape[:2]):
        raise ValueError(
            f"{called(caller)}: {name} must broadcast against [N, C] = {list(x.shape[:2])}, received {list(t.shape)}."
        )


def check_parameters(x: Tensor, parameters: tuple[Tensor | None, ...]) -> None:
    """Require real numbers on the device of ``x``; the shape is the formula's to check."""
    on_cpu = x.is_cpu
    for number, p in enumerate(parameters, 1):
        if p is None or (type(p) in PLAIN and on_cpu and p.is_cpu and not p.is_complex() and p.layout is _STRIDED):
            continue
        if not isinstance(p, Tensor):
            raise TypeError(
                f"normalize: parameter {number} of the formula must be a tensor or None, received "
                f"{type(p).__name__}; bind what is not a tensor with functools.partial."
            )
        if p.is_complex():
            raise TypeError(
                f"normalize: parameter {number} of the formula must hold real numbers, received {p.dtype}; pass its "
                "real and its imaginary part."
            )
        check_place("normalize", f"parameter {number} of the formula", p, x)


def check_place(caller: object, name: str, t: Tensor, x: Tensor) -> None:
    """Require a dense tensor on the device of ``x``."""
    if t.layout is not _STRIDED:
        raise TypeError(f"{called(caller)}: {name} must be dense, received {t.layout}; convert it with .to_dense().")
    if not ((t.is_cpu and x.is_cpu) or t.device == x.device):
        raise ValueError(
            f"{called(caller)}: {name} must be on the input's device, {x.device}, received one on {t.device}; move it "
            f"with .to({str(x.device)!r})."
        )


def broadcasts(shape: torch.Size, target: torch.Size) -> bool:
    """Whether a tensor of ``shape`` may be expanded to ``target``, whose sizes may be symbols."""
    trailing = target[len(target) - len(shape) :]  # compared one by one: the compiler finds no symbols inside a tuple
    return len(shape) <= len(target) and all(s == 1 or s == t for s, t in zip(shape, trailing, strict=True))


def called(caller: object) -> str:
    """The name of a function, or of a layer's class, for a message."""
    return caller if isinstance(caller, str) else type(caller).__name__


def _goes_with(t: object, x: Tensor) -> bool:
    """Whether ``t`` is a dense tensor of real floating numbers on the device of ``x``, in the fewest steps."""
    return (
        isinstance(t, Tensor)
        and t.dtype in REAL
        and t.layout is _STRIDED
        and ((t.is_cpu and x.is_cpu) or t.device == x.device)
    )


def _misfit(caller: object, name: str, t: object, x: Tensor, *shapes: Shape, allowed: str = "") -> Exception:
    """The error for a tensor that `_goes_with` or its shape refused."""
    allowed = allowed or " or ".join(str(list(shape)) for shape in shapes)
    if not isinstance(t, Tensor):
        return TypeError(f"{called(caller)}: {name} must be a tensor {allowed}, received {type(t).__name__}.")
    if t.dtype not in REAL:
        remedy = f"take {name}.real" if t.is_complex() else f"convert it with {name}.float()"
        return TypeError(f"{called(caller)}: {name} must hold real floating numbers, received {t.dtype}; {remedy}.")
    try:
        check_place(caller, name, t, x)
    except (TypeError, ValueError) as error:
        return error
    if t.numel() == math.prod(shapes[0]):
        remedy = f"write {name}.reshape({list(shapes[0])})"
    elif t.numel() == 1:
        remedy = f"write {name}.expand({list(shapes[0])})"
    else:
        remedy = "it belongs to a layer of another size"
    return ValueError(
        f"{called(caller)}: {name} must be {allowed} for an input of shape {list(x.shape)}, received "
        f"{list(t.shape)}; {remedy}."
    )
