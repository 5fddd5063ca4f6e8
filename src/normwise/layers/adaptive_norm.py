"""Adaptive instance normalization: the affine map is the statistics of another tensor."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from normwise.core.moments import statistics_dtype
from normwise.core.symbols import as_node, is_symbol
from normwise.functional import adaptive

from ._shared import FusedActivation
from .group_norm import InstanceNorm1d, InstanceNorm2d, InstanceNorm3d

_INSTANCE = {1: InstanceNorm1d, 2: InstanceNorm2d, 3: InstanceNorm3d}


class AdaptiveInstanceNorm(FusedActivation):
    r"""Adaptive instance normalization (AdaIN): the content's planes get the style's means and deviations.

    .. math:: y = f\left(\sigma_s\,\frac{x - \mu_x}{\sqrt{\sigma_x^2 + \epsilon}} + \mu_s + \text{residual}\right)

    All statistics are those of one plane (n, c), the variances **biased**. ε is added to the content's variance only,
    so that an even style gives an even output. There are no parameters, and training and evaluation are the same.

    Args: ``eps``; keyword only ``activation``, applied last, or None.

    ``forward(x, style, residual=None, mask=None, lengths=None)``: ``x`` is the content ``[N, C, *space]``. ``style`` is
    a tensor ``[N, C, *any space]``, or ``[1, C, *any space]`` for all samples, whose statistics are measured, or a pair
    ``(mean, std)`` of ``[N, C]`` or ``[1, C]``: for example the `statistics` of a style, kept, averaged over styles, or
    predicted by a network. Gradients flow into the content and the style. ``mask`` and ``lengths`` are the content's.

    ``fold(style)`` returns the plain affine InstanceNorm of one style.

    Raises ValueError for other channels or batch sizes, and where planes of the content or the style have a single
    value: the output would be the style's mean, or have no contrast.

    Source: Huang and Belongie 2017, arXiv:1703.06868, as in their code. The PyTorch port that most people use takes
    unbiased variances, and adds ε to the style's variance as well, which is visible on small maps.

    >>> import torch
    >>> content, style = torch.randn(2, 3, 8, 8), 5 + 2 * torch.randn(2, 3, 6, 7)
    >>> y = AdaptiveInstanceNorm()(content, style)
    >>> torch.allclose(y.mean((2, 3)), style.mean((2, 3)), atol=1e-5)
    True
    >>> torch.allclose(AdaptiveInstanceNorm()(content, content), content, atol=1e-4)
    True
    """

    def __init__(self, eps: float = 1e-5, *, activation: str | None = None) -> None:
        super().__init__()
        self.eps = eps
        self._set_activation(activation)

    def forward(
        self,
        x: Tensor,
        style: Tensor | tuple[Tensor, Tensor],
        residual: Tensor | None = None,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        if is_symbol(x, style):
            return as_node(self, x, style, residual, mask, lengths)
        mask = self._mask(x, mask, lengths) if isinstance(x, Tensor) else None
        epilogue: dict[str, Any] = {"activation": self.activation, "residual": residual}
        return adaptive.adaptive_instance_norm(x, style, self._eps, mask=mask, **epilogue)

    @staticmethod
    def statistics(style: Tensor, mask: Tensor | None = None) -> adaptive.Style:
        """Mean and (biased) standard deviation of each plane of ``style[N, C, *space]``, over a mask if given."""
        return adaptive.style_statistics(style, mask)

    def fold(self, style: Tensor | tuple[Tensor, Tensor], rank: int = 2) -> nn.Module:
        """The plain affine InstanceNorm1d, 2d or 3d (``rank``) of one style, a batch of one.

        With that style it computes the same output as this layer; it has its own parameters.
        """
        if rank not in _INSTANCE:
            raise ValueError(f"rank must be 1, 2 or 3 spatial dimensions, received {rank}.")
        mean, std = adaptive.as_style(style)
        if mean.dim() != 2 or mean.shape[0] != 1 or std.shape != mean.shape:
            raise ValueError(
                f"AdaptiveInstanceNorm.fold takes one style, a batch of one; received mean {list(mean.shape)} and std "
                f"{list(std.shape)}; write style[:1]."
            )
        dtype = statistics_dtype(style.dtype if isinstance(style, Tensor) else mean.dtype)
        plain = _INSTANCE[rank](mean.shape[1], self.eps, affine=True, activation=self.activation, dtype=dtype)
        plain.to(mean.device).load_state_dict({"weight": std.squeeze(0), "bias": mean.squeeze(0)})
        return plain.train(self.training)

    def extra_repr(self) -> str:
        return f"eps={self.eps}{super().extra_repr()}"
