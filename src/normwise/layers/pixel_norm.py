"""Statistics of one pixel, over its channels: the LayerNorm of ConvNeXt, and RMSNorm in the same place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from normwise.core import formulas
from normwise.core.bound import bound
from normwise.core.formulas import Affine
from normwise.core.moments import epsilon
from normwise.core.symbols import as_node, is_symbol
from normwise.core.tables import check_optional
from normwise.operations.recent import run_and_keep
from normwise.operations.request import PIXELS, Request
from normwise.operations.request import check as check_request

from ._shared import FusedActivation, check_channels_of_maps, parameters_of
from .scripting import ScriptedRows
from .zero_centered import ZeroCentered


class _PixelNorm(ZeroCentered, FusedActivation):
    """The base of `LayerNorm2d` and `RMSNorm2d`."""

    normalized_shape: tuple[int, ...]

    def _normalize(
        self,
        x: Tensor,
        formula: Callable[..., Affine],
        eps: float,
        tensors: tuple[Tensor | None, Tensor | None],
        residual: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        asker = (type(self), self.normalized_shape)
        numbers = asker, eps, self.activation, self.zero_centered
        if self.zero_centered:
            tensors = self._with_gain(x, tensors)
        if mask is None:
            y = self._recent.run(numbers, x, residual, tensors)
            if y is not None:
                return y
        call = bound(formula, eps=eps)
        request = Request(x, call, tensors, self.activation, residual, mask, view=PIXELS, asker=asker)
        return run_and_keep(self, numbers, request, self._check_request)

    def _scripted(self) -> nn.Module:
        return ScriptedRows(self, center=isinstance(self, nn.LayerNorm), pixels=True)

    def _check_request(self, request: Request) -> None:
        self._check_tensors(request.x, request.parameters)
        check_request(request)

    def _check_tensors(self, x: Tensor, parameters: tuple[Tensor | None, ...]) -> None:
        check_channels_of_maps(self, x, self.normalized_shape[0])
        weight, bias = parameters
        check_optional(self, x, tuple(self.normalized_shape), weight=weight, bias=bias)


class LayerNorm2d(_PixelNorm, nn.LayerNorm):
    r"""Layer normalization over the channels at each position of ``[N, C, *space]``, as in ConvNeXt.

    .. math:: y = f\left(\gamma_c\,\frac{x - \mu_{ns}}{\sqrt{\sigma_{ns}^2 + \epsilon}} + \beta_c
              + \text{residual}\right)

    μ and σ² (**biased**) are those of the C values of sample n at position s; γ and β are per channel. Training and
    evaluation are the same. The space may have any number of dimensions, also none.

    Args: ``num_channels``, then as `torch.nn.LayerNorm`'s, but ``eps`` is 1e-6: a checkpoint does not hold it, and the
    layers whose checkpoints load here (ConvNeXt's ``channels_first`` LayerNorm, timm's ``LayerNorm2d``) use 1e-6.
    Keyword only: ``activation`` names an activation applied last, such as ``"gelu"``; ``zero_centered=True`` stores γ
    as ``1 + weight``, see `LayerNorm`.

    ``forward(input, residual=None, mask=None, lengths=None)``: ``residual``, of its shape, is added before the
    activation. No position depends on another, so a ``mask`` of positions, or ``lengths`` of sequences, changes no
    statistics; NaN and inf at excluded positions count as 0 and do not reach the parameters' gradients.

    Shape, dtype and memory layout of the output are the input's; for channels_last input nothing is copied.

    Raises ValueError for other channels, and for a layer of one channel, whose output would be its bias.

    Source: Liu et al. 2022, arXiv:2201.03545, with the normalizer of Ba, Kiros and Hinton 2016, arXiv:1607.06450.

    The trap: it is neither the "LayerNorm" of the GroupNorm paper, ``GroupNorm(1, C)``, which pools over the space as
    well, nor ``LayerNorm([C, H, W])``. The contrast between positions is lost.

    >>> x = torch.randn(2, 6, 4, 5)
    >>> rows = nn.LayerNorm(6, eps=1e-6)(x.permute(0, 2, 3, 1))
    >>> torch.allclose(LayerNorm2d(6)(x), rows.permute(0, 3, 1, 2), atol=1e-6)
    True
    """

    def __init__(
        self,
        num_channels: int,
        eps: float = 1e-6,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str | None = None,
        zero_centered: bool = False,
    ) -> None:
        _check_channels(num_channels, "LayerNorm2d")
        if num_channels == 1:
            raise ValueError(
                "LayerNorm2d(1): a single channel is its own mean, the output would be the bias whatever the input "
                "is; use GroupNorm(1, 1) to normalize one channel over space."
            )
        super().__init__(num_channels, eps, elementwise_affine, bias, device, dtype)
        self._set_activation(activation)
        self._set_zero_centered(zero_centered)

    def forward(  # type: ignore[override]
        self,
        input: Tensor,
        residual: Tensor | None = None,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        if (type(input) is not Tensor or residual is not None) and is_symbol(input, residual):
            return as_node(self, input, residual, mask, lengths)
        mask, eps = self._mask(input, mask, lengths), self._eps
        return self._normalize(input, formulas.instance_norm, eps, parameters_of(self), residual, mask)


class RMSNorm2d(_PixelNorm, nn.RMSNorm):
    r"""Root mean square normalization over the channels at each position of ``[N, C, *space]``.

    .. math:: y = f\left(\gamma_c\,\frac{x}{\sqrt{\overline{x^2}_{ns} + \epsilon}} + \text{residual}\right)

    The mean square is that of the C values of sample n at position s; γ is per channel. No mean is subtracted.
    Training and evaluation are the same. The space may have any number of dimensions, also none.

    Args: ``num_channels``, then as `torch.nn.RMSNorm`'s, but ``eps`` is 1e-6, as in `LayerNorm2d` and in the layers of
    this name elsewhere; None is the machine epsilon, as in `RMSNorm`. Keyword only: ``activation``, ``zero_centered``.

    ``forward(x, residual=None, mask=None, lengths=None)``: as in `LayerNorm2d`.

    Raises ValueError for other channels.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467, applied to maps; their code adds ε outside the root.

    >>> x = torch.randn(2, 6, 4, 5)
    >>> torch.allclose(RMSNorm2d(6)(x).square().mean(1), torch.ones(2, 4, 5), atol=1e-3)
    True
    """

    eps_is_optional = True

    def __init__(
        self,
        num_channels: int,
        eps: float | None = 1e-6,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str | None = None,
        zero_centered: bool = False,
    ) -> None:
        _check_channels(num_channels, "RMSNorm2d")
        super().__init__(num_channels, eps, elementwise_affine, device, dtype)
        self._set_activation(activation)
        self._set_zero_centered(zero_centered)

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        residual: Tensor | None = None,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        if (type(x) is not Tensor or residual is not None) and is_symbol(x, residual):
            return as_node(self, x, residual, mask, lengths)
        mask, eps = self._mask(x, mask, lengths), epsilon(x, self._eps)
        return self._normalize(x, formulas.rms_norm, eps, (self.weight, None), residual, mask)


def _check_channels(channels: Any, name: str) -> None:
    if not isinstance(channels, int) or isinstance(channels, bool):
        raise TypeError(f"{name} expects the number of channels, received {channels!r}; write {name}(64) for 64.")
    if channels < 1:
        raise ValueError(f"{name}({channels}): the number of channels must be at least 1.")
