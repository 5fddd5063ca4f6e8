"""The common part of all layers: input checks, options of the fused epilogue, torch's older signatures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from normwise.core.activations import activation_named
from normwise.core.arguments import as_mask, check_floating, check_input, length_mask
from normwise.core.numbers import check_flag
from normwise.core.symbols import Traceable
from normwise.operations.recent import Recent
from normwise.operations.request import INVERTIBLE

from ._rebuilding import Epsilon
from .scripting import refuse

_STRIDED = torch.strided
SPACE = {1: "L", 2: "H, W", 3: "D, H, W"}


class FusedActivation(Traceable, nn.Module):
    """Adds ``activation=`` to a torch layer: stored by name, shown in the repr, absent from the state_dict.

    It also turns the two arguments that say which values count, ``mask`` and ``lengths``, into a mask.
    """

    activation: str | None = None
    #: Whether only the output is kept for the backward pass; see `BatchNorm2d`.
    lean: bool = False
    #: The last call, compared with the next one.
    _recent: Recent = Recent()
    eps: Any = Epsilon()
    _eps: Any
    #: Whether ``eps`` may be None, which means the machine epsilon.
    eps_is_optional = False

    def __getstate__(self) -> dict[str, Any]:
        """The state without the last call, which copies and loaded layers do not have."""
        return {name: value for name, value in self.__dict__.items() if name != "_recent"}

    def lost_in(self, mode: str) -> str:
        """What is lost if a tool takes the layer for torch's own in that mode (training, evaluation); "" if nothing."""
        return "" if self.activation is None else f"activation={self.activation!r}"

    def __prepare_scriptable__(self) -> nn.Module:
        """The module that `torch.jit.script` compiles instead: a plain one with the same parameters and buffers.

        The trap: as for every module with this method, torch also puts it into the model that is passed; script a
        copy to keep the layers.
        """
        if not type(self).forward.__module__.startswith("normwise."):
            refuse(self, "since it has a forward of its own")
        if getattr(self, "banks", None) is not None:
            refuse(self, "since it has statistics banks")
        return self._scripted()

    def _scripted(self) -> nn.Module:
        """The plain module; layers without one raise an error."""
        refuse(self, "since torch has no layer with its formula")

    def _set_lean(self, lean: bool) -> None:
        check_flag(self, "lean", lean)
        if lean and self.activation not in INVERTIBLE:
            raise ValueError(
                f"{type(self).__name__}: lean=True computes the input back from the output, and "
                f"activation={self.activation!r} cannot be undone; write 'leaky_relu' or None, or lean=False."
            )
        self.lean = lean

    def _set_activation(self, activation: str | None) -> None:
        activation_named(activation)  # raises for an unknown name
        self.activation = activation

    def extra_repr(self) -> str:
        shown = super().extra_repr()
        shown = shown if self.activation is None else f"{shown}, activation={self.activation!r}"
        return f"{shown}, lean=True" if self.lean else shown

    def _mask(self, x: Tensor, mask: Tensor | None, lengths: Tensor | None) -> Tensor | None:
        """The mask of the values that count, ``[N, 1, *space]``, from a mask or from the lengths of sequences."""
        if lengths is None and mask is None:
            return None
        check_input(x, type(self).__name__)
        if lengths is None:
            return as_mask(mask, x)  # type: ignore[arg-type]
        if mask is not None:
            raise ValueError(f"{type(self).__name__}: give either mask or lengths, not both.")
        return length_mask(lengths, x)


class ChannelLayer(FusedActivation):
    """A layer over ``[N, C, *space]`` whose class fixes the number of spatial dimensions."""

    rank: int
    num_features: int

    def _check(self, x: Any, *, dims: tuple[int, ...], channel: int) -> None:
        """Require one of the numbers of dimensions ``dims``, and the layer's channels in dimension ``channel``."""
        if isinstance(x, Tensor) and x.is_floating_point() and x.layout is _STRIDED:
            shape = x.shape
            if len(shape) in dims and shape[channel] == self.num_features:
                return
        name = type(self).__name__
        check_floating(x, name)
        if x.dim() not in dims:
            layouts = " or ".join(self._layout(d, channel) for d in dims)
            raise ValueError(
                f"{name} expected {' or '.join(f'{d}D' for d in dims)} input {layouts}, "
                f"got {x.dim()}D input {list(x.shape)}; {self._remedy(x.dim(), dims)}"
            )
        raise ValueError(
            f"{name}({self.num_features}) expected {self.num_features} channels in dimension "
            f"{channel % x.dim()}, got input {list(x.shape)}; write {name}({x.shape[channel]}) or move "
            "the channels there."
        )

    def _layout(self, dims: int, channel: int) -> str:
        if dims == 2 and channel == 1:
            return "[N, C]"
        return f"[{'N, ' if dims == self.rank + 2 else ''}C, {SPACE[self.rank]}]"

    def _remedy(self, got: int, dims: tuple[int, ...]) -> str:
        family = type(self).__name__.removesuffix(f"{self.rank}d")
        if 3 <= got <= 5 and type(self).__name__ != family:
            return f"write {family}{got - 2}d for it, or reshape it."
        return f"reshape it to {max(dims)} dimensions."


def check_channels_of_maps(layer: nn.Module, x: Tensor, channels: int) -> None:
    """ValueError where ``x`` is not ``[N, C, *space]`` of a layer over the channels at each position."""
    name = type(layer).__name__
    check_input(x, name)
    if x.shape[1] != channels:
        raise ValueError(
            f"{name}({channels}) expected {channels} channels in dimension 1, got input {list(x.shape)}; "
            f"write {name}({x.shape[1]}), or {name.removesuffix('2d')} where the channels come last."
        )


def without_bias(layer: nn.Module) -> None:
    """Remove the bias for `bias=False`, which torch before 2.13 does not know."""
    if getattr(layer, "bias", None) is not None:
        layer.bias = None  # type: ignore[assignment]


def parameters_of(layer: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    """``layer.weight`` and ``layer.bias``, or None.

    `nn.Module` looks for tensors in Python, after everything else has failed, which takes a tenth of a small operator's
    time; here the usual place is tried first.
    """
    weight, bias = layer._parameters.get("weight"), layer._parameters.get("bias")
    if weight is None or bias is None:
        return layer.weight, layer.bias  # type: ignore[return-value]
    return weight, bias


def values_per_channel(x: Tensor) -> int:
    """The number of values that batch normalization pools for one channel."""
    return x.numel() // max(x.shape[1], 1)
