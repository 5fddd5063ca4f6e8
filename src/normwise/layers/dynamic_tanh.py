"""Normalizers without statistics: an S-shaped function of each value instead of LayerNorm."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from normwise.core.arguments import check_floating
from normwise.core.numbers import check_number, check_whole
from normwise.core.symbols import as_node, is_symbol
from normwise.operations import pointwise

from ._shared import FusedActivation
from .scripting import ScriptedSquash


class _Squash(FusedActivation):
    """The base of `DynamicTanh` and `DynamicErf`."""

    alpha: nn.Parameter
    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        num_channels: int,
        dim: int = -1,
        alpha: float = 0.5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str | None = None,
    ) -> None:
        super().__init__()
        check_whole(self, "num_channels", num_channels, 0)
        check_whole(self, "dim", dim, -math.inf)
        check_number(self, "alpha", alpha, -math.inf)
        self.num_channels, self.dim, self.elementwise_affine = num_channels, dim, elementwise_affine
        self._starts = {"alpha": float(alpha), "weight": 1.0, "bias": 0.0}
        wanted = {"alpha": True, "weight": elementwise_affine, "bias": elementwise_affine and bias}
        for name, is_wanted in wanted.items():
            table = torch.empty(1 if name == "alpha" else num_channels, device=device, dtype=dtype)
            self.register_parameter(name, nn.Parameter(table) if is_wanted else None)
        self.reset_parameters()
        self._set_activation(activation)

    def reset_parameters(self) -> None:
        """Restore the constructor's α (and s), γ = 1 and β = 0."""
        for name, start in self._starts.items():
            parameter = self._parameters[name]
            if parameter is not None:
                nn.init.constant_(parameter, start)

    def _scripted(self) -> nn.Module:
        return ScriptedSquash(self)

    def _check(self, x: Tensor) -> None:
        name = type(self).__name__
        check_floating(x, name)
        check_whole(self, "dim", self.dim, -math.inf)
        if not -x.dim() <= self.dim < x.dim() or x.shape[self.dim] != self.num_channels:
            raise ValueError(
                f"{name}({self.num_channels}, dim={self.dim}) expected {self.num_channels} channels in dimension "
                f"{self.dim}, got input {list(x.shape)}; dim=-1 is for rows [*, C], dim=1 for maps [N, C, *space]."
            )

    def extra_repr(self) -> str:
        shown = f"{self.num_channels}, dim={self.dim}, elementwise_affine={self.elementwise_affine}"
        if self.elementwise_affine and self.bias is None:
            shown += ", bias=False"
        return shown + super().extra_repr()


class DynamicTanh(_Squash):
    r"""Dynamic Tanh (DyT): a learned tanh of each value instead of LayerNorm.

    .. math:: y = f\left(\gamma_c \tanh(\alpha x) + \beta_c + \text{residual}\right)

    α is one learned number, of shape ``(1,)``; γ and β are per channel. Training and evaluation are the same.

    Args:
        num_channels: C.
        dim: the dimension of the channels; -1 for rows ``[*, C]``, 1 for maps ``[N, C, *space]``.
        alpha: the start of α. The authors use 0.5 everywhere but in LLaMA, where it needs tuning: from 0.8 in front
            of attention and 0.2 elsewhere (7B) down to 0.2 and 0.05 (34B, 70B).
        elementwise_affine, bias: False omits γ and β, or β alone.
        activation: keyword only; an activation applied last, such as ``"gelu"``, or None.

    ``forward(x, residual=None)``: ``residual`` has ``x``'s shape and is added before the activation. There is no
    mask, since there are no statistics. Shape, dtype and memory layout of the output are the input's.

    Raises ValueError where dimension ``dim`` of the input is not C.

    Source: Zhu et al. 2025, arXiv:2503.10622; the names in the state_dict are those of their code. They report 82.5 %
    for ViT-B (LayerNorm 82.3 %) and 83.7 % for ConvNeXt-B (83.7 %), both on ImageNet-1K. In the runs of Chen et al.
    2025 (see `DynamicErf`) it is behind LayerNorm for GPT-2 and DiT-XL/2.

    The trap: it normalizes nothing. The output is bounded by abs(γ) + abs(β), but scaling the input scales the argument
    of tanh, and inputs that grow saturate it. It was made to replace LayerNorm in Transformers and ConvNeXt; the
    authors report that it does not replace BatchNorm in ResNets.

    >>> rows, layer = torch.randn(2, 5, 4), DynamicTanh(4)
    >>> torch.allclose(layer(rows), torch.tanh(0.5 * rows))
    True
    >>> torch.allclose(DynamicTanh(4, dim=1)(rows.mT), layer(rows).mT)
    True
    """

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if (type(x) is not Tensor or residual is not None) and is_symbol(x, residual):
            return as_node(self, x, residual)
        self._check(x)
        epilogue: dict[str, Any] = {"activation": self.activation, "residual": residual}
        return pointwise.dynamic_tanh(x, self.alpha, self.weight, self.bias, dim=self.dim, **epilogue)


class DynamicErf(_Squash):
    r"""Derf: a learned error function of each value instead of LayerNorm.

    .. math:: y = f\left(\gamma_c\,\text{erf}(\alpha x + s) + \beta_c + \text{residual}\right)

    α and s are one learned number each, of shape ``(1,)``; γ and β are per channel.

    Args, ``forward`` and errors: as in `DynamicTanh`, and ``shift``, the start of s (the parameter ``shift``).

    Source: Chen et al. 2025, arXiv:2512.10938. They report 82.8 % for ViT-B on ImageNet-1K, FID 63.23 for DiT-B/4
    (LayerNorm 64.93, DyT 63.94), and LayerNorm's validation loss, 2.94, for GPT-2 (DyT 2.97).

    The trap is that of `DynamicTanh`: it normalizes nothing.

    >>> x = torch.linspace(-3, 3, 7).unsqueeze(1)
    >>> torch.allclose(DynamicErf(1, alpha=1.0)(x), torch.special.erf(x))
    True
    """

    def __init__(
        self,
        num_channels: int,
        dim: int = -1,
        alpha: float = 0.5,
        shift: float = 0.0,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str | None = None,
    ) -> None:
        super().__init__(num_channels, dim, alpha, elementwise_affine, bias, device, dtype, activation=activation)
        check_number(self, "shift", shift, -math.inf)
        self.shift = nn.Parameter(torch.full((1,), float(shift), device=device, dtype=dtype))
        self._starts["shift"] = float(shift)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if (type(x) is not Tensor or residual is not None) and is_symbol(x, residual):
            return as_node(self, x, residual)
        self._check(x)
        epilogue: dict[str, Any] = {"activation": self.activation, "residual": residual}
        return pointwise.dynamic_erf(x, self.alpha, self.shift, self.weight, self.bias, dim=self.dim, **epilogue)
