"""Checks of masks, lengths and other arguments, with errors that say what to write."""

from __future__ import annotations

import torch
from torch import Tensor

from .layout import check_memory
from .observed import has_values
from .sizes import same
from .tables import REAL, check_place

_STRIDED = torch.strided


def check_input(x: Tensor, caller: str) -> None:
    """Require a floating tensor with at least a sample and a channel dimension."""
    check_floating(x, caller)
    if x.dim() < 2:
        raise ValueError(
            f"{caller} expects [N, C, *space], received {x.dim()}-D {list(x.shape)}; "
            "add the missing dimensions, for example with x.unsqueeze(0)."
        )


def check_floating(x: Tensor, caller: str) -> None:
    """Require a dense floating tensor; integers and complex numbers are refused, not converted."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{caller} expects a tensor, received {type(x).__name__}.")
    if x.dtype not in REAL:
        raise TypeError(f"{caller} expects a floating tensor, received {x.dtype}; convert it with x.float().")
    if x.layout is not _STRIDED:
        raise TypeError(f"{caller} expects a dense tensor, received {x.layout}; convert it with x.to_dense().")


def check_residual(residual: Tensor, x: Tensor) -> None:
    """Require the shape of ``x``, on its device: the residual is added value by value, without broadcasting."""
    check_floating(residual, "residual")
    if residual.shape != x.shape:
        raise ValueError(
            f"residual must have the input's shape {list(x.shape)}, received {list(residual.shape)}; "
            "expand it first if broadcasting is meant."
        )
    check_place("residual", "the tensor", residual, x)


def as_mask(mask: Tensor, x: Tensor) -> Tensor:
    """A boolean mask ``[N, *space]`` or ``[N, 1, *space]`` as ``[N, 1, *space]``."""
    check_boolean(mask, x)
    per_position = (x.shape[0], *x.shape[2:])
    if same(mask.shape, per_position):
        return mask.unsqueeze(1)
    if same(mask.shape, (x.shape[0], 1, *x.shape[2:])):
        return mask
    raise ValueError(
        f"mask must be [N, *space] = {list(per_position)} or the same with a channel dimension of 1, "
        f"for an input of shape {list(x.shape)}; received {list(mask.shape)}."
    )


def check_boolean(mask: Tensor, x: Tensor) -> None:
    """Require a boolean tensor on the device of ``x``: a mask selects values, it does not weight them."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        received = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(
            f"mask must be a boolean tensor (true = counted), received {received}; write mask.bool() or mask > 0."
        )
    check_place("mask", "the tensor", mask, x)


def finite_outside(mask: Tensor, t: Tensor) -> Tensor:
    """``t`` with 0 in place of each NaN or inf outside the mask, since a gradient of 0 times NaN is NaN."""
    return torch.where(mask | t.isfinite(), t, 0)


def finite_padding(mask: Tensor | None, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The input and a residual of its shape, each with 0 in place of NaN and inf outside the mask."""
    if residual is not None:
        check_residual(residual, x)
    if mask is None:
        return x, residual
    check_memory(mask, x, residual)
    return finite_outside(mask, x), None if residual is None else finite_outside(mask, residual)


def length_mask(lengths: Tensor, x: Tensor) -> Tensor:
    """The mask ``[N, 1, L]`` of the first ``lengths[n]`` positions of each sequence of ``x[N, C, L]``.

    The values of ``lengths`` are checked on the CPU only: on a GPU the check would wait for the device.
    Raises TypeError for lengths that are no integers, ValueError for a wrong shape or a length out of range.
    """
    if x.dim() != 3:
        raise ValueError(f"lengths needs sequences [N, C, L], received an input of shape {list(x.shape)}; use mask.")
    if not isinstance(lengths, Tensor) or lengths.is_floating_point() or lengths.dtype == torch.bool:
        received = lengths.dtype if isinstance(lengths, Tensor) else type(lengths).__name__
        raise TypeError(f"lengths must be an integer tensor [N], received {received}.")
    if lengths.shape != x.shape[:1]:
        raise ValueError(f"lengths must be [N] = [{x.shape[0]}], received {list(lengths.shape)}.")
    if lengths.is_meta and not x.is_meta:
        raise ValueError(f"lengths must have values for an input on {x.device}, received a tensor on meta.")
    check_memory(lengths)
    if lengths.numel() and has_values(lengths):
        low, high = int(lengths.min()), int(lengths.max())
        if low < 0 or high > x.shape[2]:
            wrong = low if low < 0 else high
            raise ValueError(f"lengths must be 0 to {x.shape[2]}, the positions of the input, received {wrong}.")
    return (torch.arange(x.shape[2], device=x.device) < lengths.to(x.device).unsqueeze(1)).unsqueeze(1)
