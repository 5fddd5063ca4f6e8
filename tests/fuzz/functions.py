"""The functions with the tensors that each takes, and own formulas: rows of the table in `subjects`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import normwise as nw
import normwise.functional as nf
from normwise import Affine, Gated, LargerScale, Moments, Thresholded

EPS = 1e-5


class Function(NamedTuple):
    """``call(x, tensors, **options)``; ``tables``: names of tensors ``[C]``, or of others in `_SHAPES`."""

    call: Callable[..., Any]
    tables: tuple[str, ...] = ()
    maps: bool = True
    masks: bool = True
    #: Whether it takes a residual and an activation behind the normalization.
    epilogue: bool = True


AFFINE = ("weight", "bias")
KNOWN = ("mean", "var", *AFFINE)
MODULATION = ("scale of samples", "shift of samples")
MIX = ("mean_weight", "var_weight")
#: Tensors that are not [C].
_SHAPES: dict[str, Callable[[tuple[int, ...]], tuple[int, ...]]] = {
    "alpha": lambda shape: (1,),
    "shift": lambda shape: (1,),
    "learned_eps": lambda shape: (1,),
    "mean_weight": lambda shape: (3,),
    "var_weight": lambda shape: (3,),
    "style": lambda shape: (*shape[:2], 4),
    "per sample": lambda shape: shape[:2],
    "scale of samples": lambda shape: (shape[0], shape[-1]),
    "shift of samples": lambda shape: (shape[0], shape[-1]),
    "gate of tokens": lambda shape: shape,
}


def table_shapes(function: Function, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The sizes that each tensor of a function must have for an input of ``shape``."""
    shape = (*shape, 4, 4)[: max(len(shape), 2)]  # of an input that lacks the dimensions
    channels = shape[1] if function.maps else shape[-1]
    return {name: _SHAPES[name](shape) if name in _SHAPES else (channels,) for name in function.tables}


def _known(t: dict[str, Tensor]) -> Moments:
    return Moments(t["mean"], t["var"], 1)


def _affine(t: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return t["weight"], t["bias"]


def _modulation(t: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return t["scale of samples"], t["shift of samples"]


def _mix(t: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return t["mean_weight"], t["var_weight"]


def _groups(x: Tensor) -> int:
    return next(g for g in (3, 2, 1) if x.dim() < 2 or x.shape[1] % g == 0)


FUNCTIONS = {
    "batch_norm": Function(lambda x, t, **o: nf.batch_norm(x, None, *_affine(t), **o), AFFINE),
    "batch_norm known": Function(lambda x, t, **o: nf.batch_norm(x, _known(t), *_affine(t), **o), KNOWN),
    "ghost_batch_norm": Function(
        lambda x, t, **o: nf.ghost_batch_norm(x, None, *_affine(t), ghost_size=2, **o), AFFINE
    ),
    "batch_renorm": Function(lambda x, t, **o: nf.batch_renorm(x, _known(t), *_affine(t), **o), KNOWN),
    "instance_norm": Function(lambda x, t, **o: nf.instance_norm(x, None, *_affine(t), **o), AFFINE),
    "instance_norm known": Function(lambda x, t, **o: nf.instance_norm(x, _known(t), *_affine(t), **o), KNOWN),
    "group_norm": Function(lambda x, t, **o: nf.group_norm(x, _groups(x), None, *_affine(t), **o), AFFINE),
    "switchable_norm": Function(
        lambda x, t, **o: nf.switchable_norm(x, *_mix(t), None, *_affine(t), **o), (*MIX, *AFFINE)
    ),
    "switchable_norm known": Function(
        lambda x, t, **o: nf.switchable_norm(x, *_mix(t), _known(t), *_affine(t), **o), (*MIX, *KNOWN)
    ),
    "batch_instance_norm": Function(
        lambda x, t, **o: nf.batch_instance_norm(x, t["gate"], None, *_affine(t), **o), ("gate", *AFFINE)
    ),
    "batch_instance_norm known": Function(
        lambda x, t, **o: nf.batch_instance_norm(x, t["gate"], _known(t), *_affine(t), **o), ("gate", *KNOWN)
    ),
    "evo_norm_b0": Function(lambda x, t, **o: nf.evo_norm_b0(x, t["v"], None, *_affine(t), **o), ("v", *AFFINE)),
    "evo_norm_b0 known": Function(
        lambda x, t, **o: nf.evo_norm_b0(x, t["v"], _known(t), *_affine(t), **o), ("v", *KNOWN)
    ),
    "evo_norm_s0": Function(lambda x, t, **o: nf.evo_norm_s0(x, t["v"], _groups(x), *_affine(t), **o), ("v", *AFFINE)),
    "adaptive_instance_norm": Function(lambda x, t, **o: nf.adaptive_instance_norm(x, t["style"], **o), ("style",)),
    "filter_response_norm": Function(
        lambda x, t, **o: nf.filter_response_norm(x, *_affine(t), t["learned_eps"], **o), (*AFFINE, "learned_eps")
    ),
    "global_response_norm": Function(lambda x, t, **o: nf.global_response_norm(x, *_affine(t), **o), AFFINE),
    "layer_norm2d": Function(lambda x, t, **o: nf.layer_norm2d(x, *_affine(t), **o), AFFINE),
    "rms_norm2d": Function(lambda x, t, **o: nf.rms_norm2d(x, t["weight"], **o), ("weight",)),
    "layer_norm": Function(
        lambda x, t, **o: nf.layer_norm(x, x.shape[-1:], *_affine(t), **o), AFFINE, maps=False, masks=False
    ),
    "rms_norm": Function(
        lambda x, t, **o: nf.rms_norm(x, x.shape[-1:], t["weight"], **o), ("weight",), maps=False, masks=False
    ),
    # The second term is 0: another one would be rounded with x, and the gradients be those of the rounded sum.
    "add_layer_norm": Function(
        lambda x, t, **o: sum(nf.add_layer_norm(x, torch.zeros_like(x), x.shape[-1:], *_affine(t))),
        AFFINE,
        maps=False,
        masks=False,
        epilogue=False,
    ),
    "add_rms_norm": Function(
        lambda x, t, **o: sum(nf.add_rms_norm(x, torch.zeros_like(x), x.shape[-1:], t["weight"])),
        ("weight",),
        maps=False,
        masks=False,
        epilogue=False,
    ),
    "modulated_layer_norm": Function(
        lambda x, t, **o: nf.modulated_layer_norm(x, *_modulation(t), **o), MODULATION, maps=False
    ),
    "modulated_rms_norm": Function(
        lambda x, t, **o: nf.modulated_rms_norm(x, *_modulation(t), **o), MODULATION, maps=False
    ),
    "gated_rms_norm": Function(
        lambda x, t, **o: nf.gated_rms_norm(x, t["gate of tokens"], t["weight"], **o),
        ("weight", "gate of tokens"),
        maps=False,
    ),
    "positional_norm": Function(lambda x, t, **o: nf.positional_norm(x, **o)[0]),
    "dynamic_tanh": Function(
        lambda x, t, **o: nf.dynamic_tanh(x, t["alpha"], *_affine(t), **o), ("alpha", *AFFINE), maps=False, masks=False
    ),
    "dynamic_erf": Function(
        lambda x, t, **o: nf.dynamic_erf(x, t["alpha"], t["shift"], *_affine(t), **o),
        ("alpha", "shift", *AFFINE),
        maps=False,
        masks=False,
    ),
}


def root_mean_square(m: Moments, weight: Tensor) -> Affine:
    power = m.over_channels()
    return Affine(0.0, weight * (power.var + power.mean**2 + EPS).rsqrt(), 0.0)


def pooled_and_remembered(m: Moments, weight: Tensor, bias: Tensor) -> Affine:
    batch = m.over_batch()
    return Affine(batch.mean, weight * (batch.var + EPS).rsqrt(), bias, batch)


def per_sample(m: Moments, table: Tensor) -> Affine:
    return Affine(m.mean, table * (m.var + EPS).rsqrt(), table)


def cut(m: Moments, weight: Tensor, threshold: Tensor) -> Thresholded:
    return Thresholded(weight * (m.var + EPS).rsqrt(), m.mean, threshold)


def gated(m: Moments, weight: Tensor, v: Tensor) -> Gated:
    return Gated(weight * (m.var + EPS).rsqrt(), 0.5, v)


def larger(m: Moments, weight: Tensor, v: Tensor) -> LargerScale:
    return LargerScale(weight, 0.0, (m.over_batch().var + EPS).sqrt(), v, (m.var + EPS).sqrt())


def no_statistics(m: Moments, weight: Tensor) -> Affine:
    return Affine(0.0, weight, 1.0)


def by_an_operation_that_is_not_recorded(m: Moments, weight: Tensor) -> Affine:
    return Affine(m.mean.cumsum(1), weight * (m.var + EPS).rsqrt(), 0.0)


def imaginary(m: Moments, weight: Tensor) -> Affine:
    return Affine(0.0, m.var * weight * 1j, 0.0)


def too_wide(m: Moments, weight: Tensor) -> Affine:
    return Affine(m.mean[:, :1].expand(-1, m.mean.shape[1] + 1), weight.sum() + m.var.sum(), 0.0)


def elsewhere(m: Moments, weight: Tensor) -> Affine:
    return Affine(m.mean.to("meta"), weight, 0.0)


def counted(m: Moments, weight: Tensor) -> Affine:
    return Affine((m.mean > 0).long(), weight, 0)


def _own(formula: Callable[..., Any], *tables: str, known: bool = False) -> Function:
    def call(x: Tensor, t: dict[str, Tensor], **options: Any) -> Any:
        if known:
            options["moments"] = _known(t)
        return nw.normalize(x, formula, *(t[name] for name in tables), **options)

    return Function(call, (*tables, "mean", "var") if known else tables)


FORMULAS = {
    f"own {name}": row
    for name, row in {
        "root_mean_square": _own(root_mean_square, "weight"),
        "pooled_and_remembered": _own(pooled_and_remembered, "weight", "bias"),
        "pooled known": _own(pooled_and_remembered, "weight", "bias", known=True),
        "per_sample": _own(per_sample, "per sample"),
        "cut": _own(cut, "weight", "threshold"),
        "gated": _own(gated, "weight", "v"),
        "larger": _own(larger, "weight", "v"),
        "no_statistics": _own(no_statistics, "weight"),
        "not recorded": _own(by_an_operation_that_is_not_recorded, "weight"),
        "imaginary": _own(imaginary, "weight"),
        "too_wide": _own(too_wide, "weight"),
        "elsewhere": _own(elsewhere, "weight"),
        "counted": _own(counted, "weight"),
    }.items()
}
#: Formulas whose result no call may take, except on the meta device.
REFUSED = ("own imaginary", "own too_wide", "own elsewhere")
