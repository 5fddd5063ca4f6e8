"""Positional normalization, and the shortcut that puts its moments back."""

from __future__ import annotations

from torch import Tensor, nn

from normwise.core.numbers import check_whole
from normwise.core.symbols import as_node, is_symbol
from normwise.operations.positional import moment_shortcut, positional_norm

from ._shared import FusedActivation, check_channels_of_maps
from .scripting import ScriptedMomentShortcut, ScriptedPositionalNorm, ScriptedPositionalNormWithMoments


class PositionalNorm2d(FusedActivation):
    r"""Positional normalization (PONO) of ``[N, C, *space]``: over the channels at each position, moments returned.

    .. math:: y = f\left(\frac{x - \mu_{ns}}{\sigma_{ns}} + \text{residual}\right), \qquad
              \sigma_{ns}^2 = \frac{1}{C - 1}\sum_c (x_{ncs} - \mu_{ns})^2 + \epsilon

    The variance is **unbiased**, as in the authors' code: up to a factor near 1 the layer is `LayerNorm2d` without
    parameters. μ and σ hold the structure of a picture; an encoder removes it, and a decoder gets it back at the same
    resolution by a `MomentShortcut`.

    Args: ``num_channels`` (C, at least 2), ``eps`` (1e-5); keyword only ``return_moments`` and ``activation``. There
    are no parameters.

    ``forward(input, residual=None, mask=None, lengths=None)``: as in `LayerNorm2d`. With ``return_moments`` it returns
    ``(y, mean, std)``; both moments are ``[N, 1, *space]`` in the dtype of x, with a gradient.

    Raises ValueError for other channels, and for a layer of one channel, whose variance would be 0 / 0.

    Source: Li, Wu, Weinberger and Belongie 2019, arXiv:1907.04312; ``PONO`` of their code is ``return_moments=True``.

    >>> import torch
    >>> x = torch.randn(2, 8, 4, 4)
    >>> y, mean, std = PositionalNorm2d(8, return_moments=True)(x)
    >>> torch.allclose(y, (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True) + 1e-5).sqrt(), atol=1e-5)
    True
    """

    def __init__(
        self, num_channels: int, eps: float = 1e-5, *, return_moments: bool = False, activation: str | None = None
    ) -> None:
        super().__init__()
        check_whole(self, "num_channels", num_channels, 2)
        self.num_channels, self.eps, self.return_moments = num_channels, eps, return_moments
        self._set_activation(activation)

    def forward(
        self,
        input: Tensor,
        residual: Tensor | None = None,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        x = input
        if type(x) is not Tensor and is_symbol(x):
            return as_node(self, x, residual, mask, lengths)
        check_channels_of_maps(self, x, self.num_channels)
        mask = self._mask(x, mask, lengths)
        found = positional_norm(x, self._eps, activation=self.activation, residual=residual, mask=mask)
        return found if self.return_moments else found[0]

    def _scripted(self) -> nn.Module:
        return (ScriptedPositionalNormWithMoments if self.return_moments else ScriptedPositionalNorm)(self)

    def extra_repr(self) -> str:
        shown = f"{self.num_channels}, eps={self.eps}" + (", return_moments=True" if self.return_moments else "")
        return shown + super().extra_repr()


class MomentShortcut(nn.Module):
    r"""The moments of a `PositionalNorm2d` for the decoder's map of the same resolution.

    .. math:: y = x\,\sigma + \mu

    ``forward(x, mean, std)``: ``x[N, C, *space]``, of any C; ``mean`` and ``std`` ``[N, 1, *space]``, as
    ``PositionalNorm2d(..., return_moments=True)`` returns them, or ``[N, C, *space]``, as a convolution of them
    predicts (the dynamic shortcut). There are no parameters; as a function, `functional.moment_shortcut`.

    Raises ValueError for other shapes.

    Source: Li, Wu, Weinberger and Belongie 2019, arXiv:1907.04312, ``MS`` in their code.

    >>> import torch
    >>> x = torch.randn(2, 8, 4, 4)
    >>> y, mean, std = PositionalNorm2d(8, return_moments=True)(x)
    >>> torch.allclose(MomentShortcut()(y, mean, std), x, atol=1e-5)
    True
    """

    def forward(self, x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        if type(x) is not Tensor and is_symbol(x):
            return as_node(self, x, mean, std)
        return moment_shortcut(x, mean, std)

    def __prepare_scriptable__(self) -> nn.Module:
        """The module that `torch.jit.script` compiles instead."""
        return ScriptedMomentShortcut(self)
