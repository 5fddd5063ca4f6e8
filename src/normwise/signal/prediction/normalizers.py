"""The rules of normalizers: the formulas of the layers are applied to predicted instead of measured moments."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from normwise.core import formulas
from normwise.core.activations import activation_named
from normwise.core.formulas import Affine
from normwise.core.moments import Moments
from normwise.layers import NORMALIZERS
from normwise.layers.zero_centered import gain_of

from .arithmetic import plus, times
from .gaussian import Signal, add
from .options import Options

#: ``(module, options, *signals) -> output``, where the signals are the arguments of the call.
Rule = Callable[..., Signal]


def by_formula(formula: Callable[[Any, Moments], Affine]) -> Rule:
    """The rule of a layer over channels with statistics of its input."""

    def rule(module: Any, options: Options, x: Signal, residual: Signal | None = None) -> Signal:
        x = x.along(1)
        return _finish(module, _transformed(x, formula(module, _table(x))), residual)

    return rule


def by_batch(formula: Callable[[Any, Moments], Affine]) -> Rule:
    """The same for a layer that uses running statistics in evaluation."""

    def rule(module: Any, options: Options, x: Signal, residual: Signal | None = None) -> Signal:
        x = x.along(1)
        known = _remembered(module, options)
        affine = formula(module, _table(x)) if known is None else standardized(module, known)
        return _finish(module, _transformed(x, affine), residual)

    return rule


def standardized(module: Any, pooled: Moments) -> Affine:
    return formulas.standardized(pooled, gain_of(module), module.bias, module.eps)


def _group(module: Any, table: Moments) -> Affine:
    return formulas.group_norm(table, module.weight, module.bias, groups=module.num_groups, eps=module.eps)


def _renorm(module: Any, table: Moments) -> Affine:
    return formulas.batch_renorm(table, module.weight, module.bias, target=module.target(), eps=module.eps)


def _global_response(module: Any, table: Moments) -> Affine:
    return formulas.global_response_norm(table, module.weight, module.bias, eps=module.eps)


def _pixel_layer(module: Any, table: Moments) -> Affine:
    return standardized(module, table.over_channels())


def _pixel_rms(module: Any, table: Moments) -> Affine:
    affine = _by_power(module, table.over_channels())
    gain = gain_of(module)
    return affine if gain is None else affine._replace(scale=affine.scale * gain)


def _positional(module: Any, table: Moments) -> Affine:
    channels = module.num_channels
    return formulas.positional_norm(table.over_channels(), bessel=channels / (channels - 1), eps=module.eps)


def _ibn(module: Any, options: Options, x: Signal, residual: Signal | None = None) -> Signal:
    """IBN: the first channels with instance statistics, the others with batch or running statistics."""
    x = x.along(1)
    own, known, first = _table(x), _remembered(module.BN, options), module.first
    others = _map(own, lambda t: t[:, first:]) if known is None else known
    parts = standardized(module.IN, _map(own, lambda t: t[:, :first])), standardized(module.BN, others)
    center, scale, shift = (torch.cat(tables, -1) for tables in zip(*(part[:3] for part in parts), strict=True))
    return _finish(module, _transformed(x, Affine(center, scale, shift)), residual)


def _map(table: Moments, function: Callable[[Tensor], Tensor]) -> Moments:
    return Moments(function(table.mean), function(table.var), table.count)


def _by_power(module: Any, pooled: Moments) -> Affine:
    eps = torch.finfo(torch.float32).eps if module.eps is None else module.eps
    return Affine(0.0, torch.rsqrt(pooled.var + pooled.mean.square() + eps), 0.0)


def _mixture(module: Any, options: Options, x: Signal, residual: Signal | None = None) -> Signal:
    """Switchable and Batch-Instance Normalization: only the part over the batch has running statistics."""
    x = x.along(1)
    formula = partial(module._formula(None), known=_remembered(module, options))
    affine = formula(_table(x), *module._tensors())
    return _finish(module, _transformed(x, affine), residual)


def _filter_response(module: Any, options: Options, x: Signal, residual: Signal | None = None) -> Signal:
    x = x.along(1)
    table, parameters = _table(x), (module.weight, module.bias, module.learned_eps)
    y = _transformed(x, formulas.filter_response_norm(table, *parameters, eps=module.eps))
    if module.tau is None:
        return _finish(module, y, residual)
    return (y if residual is None else add(y, residual)).apply(lambda z: torch.maximum(z, module.tau))


def _layer_norm(module: Any, options: Options, x: Signal, residual: Signal | None = None) -> Signal:
    x, pooled = _rows(x, module.normalized_shape)
    y = _transformed(x, formulas.standardized(pooled, None, None, module.eps))
    return _finish(module, _weighted(y, module), residual)


def _rms_norm(module: Any, options: Options, x: Signal, residual: Signal | None = None) -> Signal:
    x, pooled = _rows(x, module.normalized_shape)
    return _finish(module, _weighted(_transformed(x, _by_power(module, pooled)), module), residual)


def _rows(x: Signal, normalized_shape: tuple[int, ...]) -> tuple[Signal, Moments]:
    """The input and the pooled table; the channels are moved last if they are the only normalized dimension."""
    if len(normalized_shape) == 1:
        x = x.along(-1)
    over_channels = x.axis >= len(x.shape) - len(normalized_shape)
    return x, _table(x).over_channels() if over_channels else _table(x)


def _squash(module: Any, options: Options, x: Signal) -> Signal:
    return x.along(module.dim).apply(lambda z: module.forward(z.movedim(1, module.dim)).movedim(module.dim, 1))


def _evo_b0(module: Any, options: Options, x: Signal, residual: Signal | None = None) -> Signal:
    """x / max(deviation of the batch, v x + deviation of the instance)."""
    x = x.along(1)
    known = _remembered(module, options)
    batch, instance = (torch.sqrt(t.var.flatten() + module.eps) for t in (known or _table(x), _table(x)))
    y = x.apply(lambda z: z / torch.maximum(batch, module.v * z + instance))
    return _finish(module, _weighted_channels(y, module), residual)


def _evo_s0(module: Any, options: Options, x: Signal, residual: Signal | None = None) -> Signal:
    """x sigmoid(v x) / deviation of the group."""
    x = x.along(1)
    scale = torch.rsqrt(_table(x).over_groups(module.num_groups).var.flatten() + module.eps)
    y = x.apply(lambda z: z * torch.sigmoid(module.v * z) * scale)
    return _finish(module, _weighted_channels(y, module), residual)


def _finish(module: Any, y: Signal, residual: Signal | None) -> Signal:
    """The epilogue of this library's layers: the residual, then the activation."""
    y = y if residual is None else add(y, residual)
    activation = activation_named(getattr(module, "activation", None))
    return y if activation is None else y.apply(activation.function)


def _weighted(y: Signal, module: Any) -> Signal:
    """γ and β of the trailing dimensions."""
    gain = gain_of(module)
    y = y if gain is None else times(y, gain)
    bias = getattr(module, "bias", None)
    return y if bias is None else plus(y, bias)


def _weighted_channels(y: Signal, module: Any) -> Signal:
    return y.scaled(*(default if t is None else t for t, default in ((module.weight, 1.0), (module.bias, 0.0))))


def _table(x: Signal) -> Moments:
    return Moments(x.mean.unsqueeze(0), x.variance.unsqueeze(0), x.positions)


def _remembered(module: Any, options: Options) -> Moments | None:
    """The running statistics if the layer uses them, else None."""
    if options.batch_statistics or module.training or module.running_mean is None:
        return None
    return Moments(module.running_mean.double().unsqueeze(0), module.running_var.double().unsqueeze(0), 1)


def _transformed(x: Signal, affine: Affine) -> Signal:
    center, scale, shift = (t.reshape(-1) if isinstance(t, Tensor) else t for t in affine[:3])
    return x.scaled(scale, shift - center * scale)  # type: ignore[operator]


# Instance statistics equal batch statistics here: the mean-field Gaussian is the same in each sample.
_BY_NAME: dict[str, Rule] = {
    "batch": by_batch(standardized),
    "ghost": by_batch(standardized),
    "sync": by_batch(standardized),
    "renorm": by_batch(_renorm),
    "instance": by_batch(standardized),
    "group": by_formula(_group),
    "layer": by_formula(_group),
    "switchable": _mixture,
    "batch-instance": _mixture,
    "filter-response": _filter_response,
    "global-response": by_formula(_global_response),
    "evo-b0": _evo_b0,
    "evo-s0": _evo_s0,
    "ibn": _ibn,
    "positional": by_formula(_positional),
    "pixel-layer": by_formula(_pixel_layer),
    "pixel-rms": by_formula(_pixel_rms),
    "token-layer": _layer_norm,
    "token-rms": _rms_norm,
    "tanh": _squash,
    "erf": _squash,
}

#: The rule of each class; a rule of torch's class also applies to subclasses with the same `forward`.
RULES: dict[type[nn.Module], Rule] = {
    **{
        layer_class: _BY_NAME[name]
        for name, row in NORMALIZERS.items()
        if name in _BY_NAME
        for layer_class in row.layers.values()
    },
    nn.modules.batchnorm._BatchNorm: by_batch(standardized),
    nn.SyncBatchNorm: by_batch(standardized),
    nn.modules.instancenorm._InstanceNorm: by_batch(standardized),
    nn.GroupNorm: by_formula(_group),
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _rms_norm,
}
