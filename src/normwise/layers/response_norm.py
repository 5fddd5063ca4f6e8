"""Normalization by the size of the response, without its mean: FilterResponseNorm and GlobalResponseNorm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from normwise.core import formulas
from normwise.core.arguments import check_input
from normwise.core.bound import bound
from normwise.core.moments import Moments
from normwise.core.numbers import check_whole
from normwise.core.responses import Thresholded
from normwise.core.symbols import as_node, is_symbol
from normwise.core.tables import check_optional, check_required
from normwise.operations.normalize import run_for_y
from normwise.operations.request import Request
from normwise.operations.request import check as check_request

from ._shared import ChannelLayer
from .scripting import ScriptedFilterResponseNorm, ScriptedGlobalResponseNorm

#: The first value of a learned ε.
_LEARNED_EPS = 1e-4


def _thresholded(moments: Moments, *tensors: Tensor, eps: float) -> Thresholded:
    """The paper's formula with its thresholded linear unit; the threshold is the last of the tensors."""
    affine = formulas.filter_response_norm(moments, *tensors[:-1], eps=eps)
    return Thresholded(affine.scale, affine.shift, tensors[-1])


class _FilterResponseNorm(ChannelLayer):
    """The base of `FilterResponseNorm1d`, 2d and 3d."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    tau: nn.Parameter | None
    learned_eps: nn.Parameter | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-6,
        affine: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        activation: str | None = "tlu",
        learnable_eps: bool = False,
    ) -> None:
        super().__init__()
        check_whole(self, "num_features", num_features, 0)
        if eps == 0:
            raise ValueError(f"{type(self).__name__}: eps must be positive, received {eps}.")
        self.num_features, self.eps, self.affine = num_features, eps, affine
        self._set_activation(None if activation == "tlu" else activation)
        self.activation = activation
        present = {"weight": affine, "bias": affine and bias, "tau": activation == "tlu", "learned_eps": learnable_eps}
        for name, wanted in present.items():
            shape = 1 if name == "learned_eps" else num_features
            parameter = nn.Parameter(torch.empty(shape, device=device, dtype=dtype)) if wanted else None
            self.register_parameter(name, parameter)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for name, start in (("weight", 1.0), ("bias", 0.0), ("tau", 0.0), ("learned_eps", _LEARNED_EPS)):
            parameter = getattr(self, name)
            if parameter is not None:
                nn.init.constant_(parameter, start)

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None = None,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        if (type(x) is not Tensor or residual is not None) and is_symbol(x, residual):
            return as_node(self, x, residual, mask, lengths)
        mask = self._mask(x, mask, lengths)
        tensors, activation = (self.weight, self.bias, self.learned_eps), self.activation
        formula = bound(formulas.filter_response_norm, eps=self._eps)
        if self.tau is not None:
            tensors, activation = (*tensors, self.tau), None
            formula = bound(_thresholded, eps=self._eps)
        request = Request(x, formula, tensors, activation, residual, mask, asker=(type(self), self.num_features))
        return run_for_y(request, self._check_request)

    def _scripted(self) -> nn.Module:
        return ScriptedFilterResponseNorm(self)

    def _check_request(self, request: Request) -> None:
        x = request.x
        self._check(x, dims=(2, 3) if self.rank == 1 else (self.rank + 2,), channel=1)
        channels = {"weight": self.weight, "bias": self.bias, "tau": self.tau}
        check_optional(self, x, (self.num_features,), **channels)
        check_optional(self, x, (1,), learned_eps=self.learned_eps)
        check_request(request)

    def extra_repr(self) -> str:
        shown = f"{self.num_features}, eps={self.eps}, affine={self.affine}{super().extra_repr()}"
        return shown if self.learned_eps is None else f"{shown}, learnable_eps=True"


class FilterResponseNorm1d(_FilterResponseNorm):
    r"""Filter response normalization of ``[N, C]`` or ``[N, C, L]``; see `FilterResponseNorm2d`.

    >>> x = torch.tensor([[3.0, -2.0]])                  # planes of one value: only the sign is left
    >>> FilterResponseNorm1d(2, activation=None)(x).round(decimals=3)
    tensor([[ 1., -1.]], grad_fn=<RoundBackward1>)
    """

    rank = 1


class FilterResponseNorm2d(_FilterResponseNorm):
    r"""Filter response normalization of ``[N, C, H, W]``, with its thresholded linear unit (TLU).

    .. math:: y = \max\left(\gamma\,\frac{x}{\sqrt{\nu_{nc}^2 + \epsilon}} + \beta + \text{residual},\ \tau\right),
              \qquad \nu_{nc}^2 = \frac{1}{HW}\sum x^2

    No mean is subtracted and nothing is shared between samples or channels: training and evaluation are the same. γ
    starts at 1, β and τ (a threshold for each channel) at 0. Put no ReLU behind the TLU.

    Args: ``num_features`` C, ``eps`` (inside the root), ``affine``, ``device``, ``dtype``. Keyword only: ``bias``;
    ``activation``: ``"tlu"``, or, without τ, the name of a plain activation or None; ``learnable_eps=True`` adds
    abs(``learned_eps``), one value that starts at 1e-4, to ``eps``.

    ``forward(x, residual=None, mask=None, lengths=None)`` as in `InstanceNorm2d`.

    The trap: on planes of a single value only the sign of x is left (γ x/√(x² + ε)); the paper learns ε there.

    Raises ValueError for a wrong number of dimensions or channels, and for an ``eps`` that is not positive.

    Source: Singh and Krishnan 2019, arXiv:1911.09737, whose code is not published. A learned ε is added to the fixed
    one, so that a plane of zeros stays finite.

    >>> x = torch.randn(2, 3, 8, 8)
    >>> y = FilterResponseNorm2d(3, activation=None)(x)
    >>> torch.allclose(y.square().mean((2, 3)), torch.ones(2, 3), atol=1e-4)
    True
    >>> torch.allclose(FilterResponseNorm2d(3)(x), y.relu(), atol=1e-6)
    True
    """

    rank = 2


class FilterResponseNorm3d(_FilterResponseNorm):
    r"""Filter response normalization of ``[N, C, D, H, W]``; see `FilterResponseNorm2d`.

    >>> FilterResponseNorm3d(2)(torch.randn(2, 2, 3, 3, 3)).shape
    torch.Size([2, 2, 3, 3, 3])
    """

    rank = 3


class GlobalResponseNorm(ChannelLayer):
    r"""Global response normalization of ``[N, C, *space]``: channels compete by the size of their response.

    .. math:: y = f\left(\gamma\,x\,\frac{\lVert x_c \rVert_2}{\frac1C \sum_k \lVert x_k \rVert_2 + \epsilon}
              + \beta + x + \text{residual}\right)

    with the norms over space. γ and β start at 0: at first the layer is the identity. Arithmetic is in fp32 for fp16
    and bf16, so that no sum of squares overflows; a sample of zeros has a finite gradient.

    Args: ``num_features`` C, ``eps`` (outside the root), ``device``, ``dtype``. Keyword only: ``bias``, ``activation``.

    ``forward(x, residual=None, mask=None, lengths=None)`` as in `InstanceNorm2d`, for any space.

    Raises ValueError for a wrong number of channels.

    Source: Woo et al. 2023, arXiv:2301.00808 (ConvNeXt V2), behind the GELU of each block.

    >>> x = torch.randn(2, 3, 8, 8)
    >>> torch.allclose(GlobalResponseNorm(3)(x), x, atol=1e-6)
    True
    """

    rank = 0
    bias: nn.Parameter | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-6,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        activation: str | None = None,
    ) -> None:
        super().__init__()
        check_whole(self, "num_features", num_features, 0)
        self.num_features, self.eps = num_features, eps
        self._set_activation(activation)
        self.weight = nn.Parameter(torch.empty(num_features, device=device, dtype=dtype))
        self.register_parameter("bias", nn.Parameter(torch.empty_like(self.weight)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None = None,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        if (type(x) is not Tensor or residual is not None) and is_symbol(x, residual):
            return as_node(self, x, residual, mask, lengths)
        mask, asker = self._mask(x, mask, lengths), (type(self), self.num_features)
        formula = bound(formulas.global_response_norm, eps=self._eps)
        request = Request(x, formula, (self.weight, self.bias), self.activation, residual, mask, asker=asker)
        return run_for_y(request, self._check_request)

    def _scripted(self) -> nn.Module:
        return ScriptedGlobalResponseNorm(self)

    def _check_request(self, request: Request) -> None:
        x = request.x
        check_input(x, type(self).__name__)
        self._check(x, dims=(x.dim(),), channel=1)
        check_required(self, x, (self.num_features,), weight=self.weight)
        check_optional(self, x, (self.num_features,), bias=self.bias)
        check_request(request)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}{super().extra_repr()}"
