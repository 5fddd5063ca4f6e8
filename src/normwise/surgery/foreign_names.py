"""The names of the tensors of normalization, convolution and linear layers in other frameworks, and their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Source(NamedTuple):
    """One framework.

    norm: for each of ``weight``, ``bias``, ``mean``, ``var`` or ``std``, ``batches`` its names in a normalization
        layer; also the names of ``eps`` and ``momentum``, and of the switches for γ and β (``has_weight``,
        ``has_bias``). Other roles belong to the layer and are not needed.
    kernel: the same for ``weight``, ``bias`` and ``depthwise`` of a convolution or linear layer.
    eps, eps_of_rows: the default of BatchNorm and InstanceNorm, and of LayerNorm, RMSNorm and GroupNorm; None if there
        is no single one.
    momentum: the default in torch's convention, the weight of the new value.
    counts_old: whether the framework's own momentum is the weight of the old value.
    channels_last: whether kernels are ``[*space, in, out]``, as opposed to ``[out, in, *space]``.
    collections: keys of an outer dict that are not part of a layer's name.
    affine_only: whether a layer without statistics is one whose statistics were merged into γ and β.
    """

    norm: Mapping[str, tuple[str, ...]]
    kernel: Mapping[str, tuple[str, ...]]
    eps: float | None
    eps_of_rows: float | None
    momentum: float | None
    counts_old: bool = False
    channels_last: bool = False
    collections: tuple[str, ...] = ("state_dict", "model")
    affine_only: bool = False

    @property
    def names(self) -> set[str]:
        return {name for table in (self.norm, self.kernel) for names in table.values() for name in names}

    @property
    def listed_of_kernels(self) -> list[str]:
        return [name for names in self.kernel.values() for name in names]

    @property
    def settings(self) -> set[str]:
        """The names of the settings of a normalization layer."""
        roles = ("eps", "momentum", "has_weight", "has_bias")
        return {name for role in roles for name in self.norm.get(role, ())}

    @property
    def listed(self) -> tuple[str, ...]:
        """The names of the tensors by which a normalization layer is recognized."""
        roles = ("weight", "bias", "mean", "var", "std")
        return tuple(name for role in roles for name in self.norm.get(role, ()))


_KERAS = {
    "weight": ("gamma",),
    "bias": ("beta",),
    "mean": ("moving_mean",),
    "var": ("moving_variance",),
    "eps": ("epsilon",),
    "momentum": ("momentum",),
    "has_weight": ("scale",),
    "has_bias": ("center",),
}
_FLAX = {
    "weight": ("scale",),
    "bias": ("bias",),
    "mean": ("mean",),
    "var": ("var",),
    "eps": ("epsilon",),
    "momentum": ("momentum",),
    "has_weight": ("use_scale",),
    "has_bias": ("use_bias",),
}
_HAIKU = {
    "weight": ("scale",),
    "bias": ("offset",),
    "mean": ("mean_ema/average",),
    "var": ("var_ema/average",),
    "batches": ("mean_ema/counter",),
    "before_debiasing": ("mean_ema/hidden", "var_ema/hidden", "var_ema/counter"),
    "eps": ("eps",),
    "momentum": ("decay_rate",),
    "has_weight": ("create_scale",),
    "has_bias": ("create_offset",),
}
_TORCH = {
    "weight": ("weight",),
    "bias": ("bias",),
    "mean": ("running_mean",),
    "var": ("running_var",),
    "batches": ("num_batches_tracked",),
    "eps": ("eps",),
    "momentum": ("momentum",),
    "has_weight": ("affine",),
    "has_bias": ("affine",),
}
# Its eps is added to the standard deviation, outside the root and only in training, so it is not torch's eps.
_LUDVB = {role: names for role, names in _TORCH.items() if role not in ("var", "eps")} | {"std": ("running_std",)}

_KERAS_KERNEL = {"weight": ("kernel",), "bias": ("bias",), "depthwise": ("depthwise_kernel",)}
_TF_KERNEL = {
    "weight": ("kernel", "weights"),
    "bias": ("bias", "biases"),
    "depthwise": ("depthwise_kernel", "depthwise_weights"),
}
_FLAX_KERNEL = {"weight": ("kernel",), "bias": ("bias",)}
_HAIKU_KERNEL = {"weight": ("w",), "bias": ("b",)}
_TORCH_KERNEL = {"weight": ("weight",), "bias": ("bias",)}

SOURCES = {
    "keras": Source(_KERAS, _KERAS_KERNEL, 1e-3, 1e-3, 0.01, True, True, ()),
    "tf": Source(_KERAS, _TF_KERNEL, 1e-3, None, 0.01, True, True, ()),
    "flax": Source(_FLAX, _FLAX_KERNEL, 1e-5, 1e-6, 0.01, True, True, ("params", "batch_stats")),
    "haiku": Source(_HAIKU, _HAIKU_KERNEL, 1e-5, 1e-5, None, True, True, ("params", "state")),
    "timm": Source(_TORCH, _TORCH_KERNEL, 1e-5, None, 0.1),
    "detectron2": Source(_TORCH, _TORCH_KERNEL, 1e-5, 1e-5, 0.1, affine_only=True),
    "torch<0.4.1": Source(_TORCH, _TORCH_KERNEL, 1e-5, 1e-5, 0.1),
    "ludvb": Source(_LUDVB, _TORCH_KERNEL, None, 1e-5, 0.01),
}
