"""Instance normalization with an affine map for each condition: styles, classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from normwise.core import formulas
from normwise.core.bound import bound
from normwise.core.numbers import check_whole
from normwise.core.single_value import check_values_per_group
from normwise.core.symbols import as_node, is_symbol
from normwise.operations.normalize import normalize

from ._conditions import ConditionTables
from ._shared import ChannelLayer
from .group_norm import InstanceNorm1d, InstanceNorm2d, InstanceNorm3d

_INSTANCE = {1: InstanceNorm1d, 2: InstanceNorm2d, 3: InstanceNorm3d}


class _ConditionalInstanceNorm(ConditionTables, ChannelLayer, nn.modules.instancenorm._InstanceNorm):
    """The base of `ConditionalInstanceNorm1d`, 2d and 3d."""

    def __init__(
        self,
        num_features: int,
        num_conditions: int,
        eps: float = 1e-5,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str | None = None,
    ) -> None:
        check_whole(self, "num_features", num_features, 0)
        super().__init__(num_features, eps, device=device, dtype=dtype)
        self.affine = True
        self._create_tables(num_conditions, num_features, device, dtype)
        self._set_activation(activation)

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        condition: Tensor,
        residual: Tensor | None = None,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        if is_symbol(x, condition):
            return as_node(self, x, condition, residual, mask, lengths)
        self._check(x, dims=(self.rank + 2,), channel=1)
        self._check_tables(x)
        check_values_per_group(self, x, 1)
        weight, bias = self._rows(condition, x.shape[0])
        mask = self._mask(x, mask, lengths)
        formula = bound(formulas.instance_norm, eps=self._eps)
        return normalize(x, formula, weight, bias, activation=self.activation, residual=residual, mask=mask)

    def fold(self, condition: int | Tensor) -> nn.Module:
        """The plain affine InstanceNorm of one condition: a label, or the weights ``[K]`` of a mixture.

        For that condition it computes exactly the output of this layer; it has its own parameters.
        """
        weight, bias = self._row(condition)
        plain = _INSTANCE[self.rank](
            self.num_features,
            self.eps,
            affine=True,
            device=self.weight.device,
            dtype=self.weight.dtype,
            activation=self.activation,
        )
        plain.load_state_dict({"weight": weight, "bias": bias})
        return plain.train(self.training)

    def extra_repr(self) -> str:
        shown = f"{self.num_features}, num_conditions={self.num_conditions}, eps={self.eps}"
        return shown if self.activation is None else f"{shown}, activation={self.activation!r}"


class ConditionalInstanceNorm1d(_ConditionalInstanceNorm):
    r"""Conditional instance normalization of ``[N, C, L]``; see `ConditionalInstanceNorm2d`.

    >>> ConditionalInstanceNorm1d(4, 2)(torch.randn(3, 4, 9), torch.tensor([0, 1, 0])).shape
    torch.Size([3, 4, 9])
    """

    rank = 1


class ConditionalInstanceNorm2d(_ConditionalInstanceNorm):
    r"""Instance normalization of ``[N, C, H, W]`` with an affine map for each of K styles or classes.

    .. math:: y = f\left(\gamma_{kc}\,\frac{x - \mu_{nc}}{\sqrt{\sigma_{nc}^2 + \epsilon}} + \beta_{kc}
              + \text{residual}\right)

    k is the condition of sample n; μ and σ² (**biased**) are always those of the input's own planes. The parameters
    ``weight`` and ``bias`` are the tables of γ and β, ``[K, C]``, and start as ones and zeros.

    Args: ``num_features`` (C), ``num_conditions`` (K), ``eps``, keyword only ``activation``.

    ``forward(x, condition, residual=None, mask=None, lengths=None)``: ``condition`` is an integer tensor ``[N]`` of
    labels, or a floating one ``[N, K]`` of weights, with γ and β the weighted sums of the rows (a blend of styles;
    the weights need not sum to one). ``residual`` is added before the activation; ``mask`` and ``lengths`` as in
    `InstanceNorm2d`.

    ``fold(condition)`` returns the plain `InstanceNorm2d` of one condition.

    Raises TypeError for a condition of another dtype, and ValueError for one of another batch size, a label outside
    0 to K - 1, other channels or dimensions, and planes of a single value.

    Source: Dumoulin, Shlens and Kudlur 2016, arXiv:1610.07629.

    >>> x, layer = torch.randn(2, 3, 4, 4), ConditionalInstanceNorm2d(3, num_conditions=5)
    >>> torch.allclose(layer(x, torch.tensor([4, 0])), nn.InstanceNorm2d(3)(x), atol=1e-6)
    True
    """

    rank = 2


class ConditionalInstanceNorm3d(_ConditionalInstanceNorm):
    r"""Conditional instance normalization of ``[N, C, D, H, W]``; see `ConditionalInstanceNorm2d`.

    >>> ConditionalInstanceNorm3d(4, 2)(torch.randn(2, 4, 2, 3, 3), torch.tensor([0, 1])).shape
    torch.Size([2, 4, 2, 3, 3])
    """

    rank = 3
