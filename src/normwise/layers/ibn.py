"""Instance normalization for one part of the channels and batch normalization for the rest."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from normwise.core.arguments import check_residual
from normwise.core.layout import in_layout_of
from normwise.core.numbers import check_number, check_whole
from normwise.core.symbols import as_node, is_symbol

from ._shared import ChannelLayer
from .batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from .group_norm import InstanceNorm1d, InstanceNorm2d, InstanceNorm3d
from .scripting import ScriptedIBN

_INSTANCE = {1: InstanceNorm1d, 2: InstanceNorm2d, 3: InstanceNorm3d}
_BATCH = {1: BatchNorm1d, 2: BatchNorm2d, 3: BatchNorm3d}


class IBN(ChannelLayer):
    """The base of `IBN1d`, `IBN2d` and `IBN3d`."""

    IN: Any
    BN: Any

    def __init__(
        self,
        num_features: int,
        ratio: float = 0.5,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str | None = None,
    ) -> None:
        super().__init__()
        check_whole(self, "num_features", num_features, 2)
        check_number(self, "ratio", ratio, 0, 1)
        self.num_features, self.first = num_features, int(num_features * ratio)
        if not 0 < self.first < num_features:
            raise ValueError(
                f"{type(self).__name__}: ratio must leave a channel for either part, received {ratio!r} of "
                f"{num_features} channels; write InstanceNorm or BatchNorm for one of them alone."
            )
        place: Any = {"device": device, "dtype": dtype}
        self.IN = _INSTANCE[self.rank](self.first, eps, affine=True, **place)
        self.BN = _BATCH[self.rank](num_features - self.first, eps, momentum, **place)
        self._set_activation(activation)

    @property
    def activation(self) -> str | None:  # type: ignore[override]
        """The activation of both parts, which apply it in their own passes."""
        return self.BN.activation

    @activation.setter
    def activation(self, activation: str | None) -> None:
        self.IN.activation = self.BN.activation = activation

    def forward(
        self,
        input: Tensor,
        residual: Tensor | None = None,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        x = input
        if type(x) is not Tensor and is_symbol(x):
            return as_node(self, x, residual, mask, lengths)
        self._check(x, dims=(self.rank + 2,), channel=1)
        if residual is not None:
            check_residual(residual, x)
        parts = []
        for layer, channels in ((self.IN, slice(None, self.first)), (self.BN, slice(self.first, None))):
            added = None if residual is None else residual[:, channels]
            parts.append(layer(x[:, channels], added, mask, lengths))
        return in_layout_of(x, torch.cat(parts, 1))

    def _scripted(self) -> nn.Module:
        return ScriptedIBN(self)

    def extra_repr(self) -> str:
        return f"{self.num_features}, first={self.first}"


class IBN1d(IBN):
    r"""IBN-a of ``[N, C, L]``; see `IBN2d`.

    >>> IBN1d(4)(torch.randn(3, 4, 9)).shape
    torch.Size([3, 4, 9])
    """

    rank = 1


class IBN2d(IBN):
    r"""IBN-a of ``[N, C, H, W]``: InstanceNorm for the first half of the channels, BatchNorm for the others.

    .. math:: y = f\big([\,\text{IN}(x_{:h}),\ \text{BN}(x_{h:})\,] + \text{residual}\big), \qquad
              h = \lfloor \text{ratio} \cdot C \rfloor

    The first part removes a picture's own style (contrast, colour, the camera), the second keeps the features that
    distinguish objects; backbones of re-identification generalize better to other cameras with it. ``IN`` and ``BN``
    are modules of their own, an affine `InstanceNorm2d` and a `BatchNorm2d`: tools that freeze, recalibrate or
    synchronize BatchNorm find the second.

    Args: ``num_features`` (C), ``ratio``, then the parts' ``eps`` and ``momentum``; keyword only ``activation``.

    ``forward(input, residual=None, mask=None, lengths=None)``: as in `BatchNorm2d`.

    Raises ValueError where a part would have no channel, and the errors of the parts: other channels or dimensions,
    planes of a single value.

    Source: Pan, Luo, Shi and Tang 2018, arXiv:1807.09441; the names in the state_dict are those of their code
    (``IN.weight``, ``BN.running_mean``). Their code fails for ratios below one half; here BatchNorm takes the rest. The
    two parts are copied out of x and joined again: two more passes over memory than a single normalizer.

    >>> x = torch.randn(4, 6, 5, 5)
    >>> y = IBN2d(6)(x)
    >>> torch.allclose(y[:, :3], torch.nn.InstanceNorm2d(3)(x[:, :3]), atol=1e-6)
    True
    >>> torch.allclose(y[:, 3:], torch.nn.BatchNorm2d(3)(x[:, 3:]), atol=1e-6)
    True
    """

    rank = 2


class IBN3d(IBN):
    r"""IBN-a of ``[N, C, D, H, W]``; see `IBN2d`.

    >>> IBN3d(4)(torch.randn(2, 4, 2, 3, 3)).shape
    torch.Size([2, 4, 2, 3, 3])
    """

    rank = 3
