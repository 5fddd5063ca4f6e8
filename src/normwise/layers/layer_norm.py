"""Statistics of one token or row, over its trailing dimensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from normwise.core import formulas
from normwise.core.arguments import check_floating
from normwise.core.bound import bound
from normwise.core.formulas import Affine
from normwise.core.moments import epsilon
from normwise.core.numbers import as_row_shape, check_rows
from normwise.core.symbols import as_node, is_symbol
from normwise.core.tables import broadcasts, check_optional
from normwise.operations.recent import run_and_keep
from normwise.operations.request import Request, View
from normwise.operations.request import check as check_request

from ._shared import FusedActivation, parameters_of
from .scripting import ScriptedRows, ScriptedSums
from .zero_centered import ZeroCentered


class _RowNorm(ZeroCentered, FusedActivation):
    """The base of `LayerNorm` and `RMSNorm`."""

    normalized_shape: tuple[int, ...]
    add_first: bool

    def _set_options(self, activation: str | None, add_first: bool, zero_centered: bool) -> None:
        self._set_activation(activation)
        self._set_zero_centered(zero_centered)
        if add_first and activation is not None:
            raise ValueError(
                f"{type(self).__name__}: add_first normalizes x + residual and takes no activation, received "
                f"activation={activation!r}; apply it to the result."
            )
        self.add_first = add_first

    def _normalize(
        self,
        x: Tensor,
        formula: Callable[..., Affine],
        eps: float,
        tensors: tuple[Tensor | None, Tensor | None],
        residual: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        """The output, and with ``add_first`` the sum, by a formula on the rows."""
        shape = self.normalized_shape
        if type(shape) is not tuple:
            shape = as_row_shape(self, shape)
        if self.zero_centered:
            tensors = self._with_gain(x, tensors)
        summing, asker = self.add_first and residual is not None, (type(self), shape)
        numbers = asker, eps, self.activation, self.zero_centered, summing
        y = self._recent.run(numbers, x, residual, tensors) if mask is None else None
        if y is None:
            view, call = View("sums" if summing else "rows", len(shape)), bound(formula, eps=eps)
            request = Request(x, call, tensors, self.activation, residual, mask, view=view, asker=asker)
            y = run_and_keep(self, numbers, request, self._check_request)
        return (y, x) if self.add_first and not summing else y  # type: ignore[return-value]

    def extra_repr(self) -> str:
        return super().extra_repr() + (", add_first=True" if self.add_first else "")

    def _scripted(self) -> nn.Module:
        stand_in = ScriptedSums if self.add_first else ScriptedRows
        return stand_in(self, center=isinstance(self, nn.LayerNorm), pixels=False)

    def _check_request(self, request: Request) -> None:
        x, mask = request.x, request.mask
        self._check_tensors(x, request.parameters)
        check_request(request)
        if mask is not None and not broadcasts(mask.shape, x.shape):
            raise ValueError(f"mask must broadcast against the input {list(x.shape)}, received {list(mask.shape)}.")

    def _check_tensors(self, x: Tensor, parameters: tuple[Tensor | None, ...]) -> None:
        check_floating(x, type(self).__name__)
        shape = as_row_shape(self, self.normalized_shape)
        check_rows(self, x, shape)
        weight, bias = parameters
        check_optional(self, x, shape, weight=weight, bias=bias)


class LayerNorm(_RowNorm, nn.LayerNorm):
    r"""Layer normalization over the trailing dimensions: a drop-in for `torch.nn.LayerNorm`.

    .. math:: y = f\left(\gamma\,\frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta + \text{residual}\right)

    μ and σ² (**biased**) are those of each row over ``normalized_shape``; γ and β have that shape. Training
    and evaluation are the same.

    Args: as torch's. Keyword only: ``activation`` names an activation applied last, such as ``"gelu"``.
    ``add_first=True`` adds the residual before the normalization, as in a transformer's residual stream, see below.
    ``zero_centered=True`` stores γ as its distance from 1: ``weight`` starts at 0 and γ = 1 + ``weight``, computed in
    fp32 (fp64) whatever the weight's dtype. Weight decay then leads to the identity instead of 0 (`param_groups` decays
    such a weight), and a narrow dtype resolves γ near 1. It is Megatron's ``LayerNorm1P``; a checkpoint does not say
    which of the two it holds.

    ``forward(input, residual=None, mask=None)``: ``residual``, of its shape, is added before the activation;
    ``mask`` is boolean and broadcasts against ``x``: the statistics are those of the values where it is true.
    (A mask of whole tokens changes nothing here: no token depends on another.)

    With ``add_first`` the residual is added in the same pass that normalizes, and the sum is also returned:
    ``y, h = norm(x, residual)`` is ``h = x + residual``, ``y = norm(h)``; without a residual ``h`` is ``x``.

    Raises ValueError where the trailing dimensions of the input are not ``normalized_shape``.

    Source: Ba, Kiros and Hinton 2016, arXiv:1607.06450. The trap: three layers carry this name for images.
    Over (C, H, W) it is ``GroupNorm(1, C)`` but for the shape of γ; ConvNeXt's, over C at each pixel, is another.

    >>> x = torch.randn(2, 5, 16)
    >>> torch.allclose(LayerNorm(16)(x).var(-1, correction=0), torch.ones(2, 5), atol=1e-4)
    True
    """

    def __init__(
        self,
        normalized_shape: int | list[int] | tuple[int, ...] | torch.Size,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str | None = None,
        add_first: bool = False,
        zero_centered: bool = False,
    ) -> None:
        shape = as_row_shape(self, normalized_shape)
        super().__init__(shape, eps, elementwise_affine, bias, device, dtype)  # type: ignore[arg-type]
        self._set_options(activation, add_first, zero_centered)

    def forward(self, input: Tensor, residual: Tensor | None = None, mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        if (type(input) is not Tensor or residual is not None) and is_symbol(input, residual):
            return as_node(self, input, residual, mask)
        eps = self._eps
        return self._normalize(input, formulas.instance_norm, eps, parameters_of(self), residual, mask)


class RMSNorm(_RowNorm, nn.RMSNorm):
    r"""Root mean square normalization over the trailing dimensions: a drop-in for `torch.nn.RMSNorm`.

    .. math:: y = f\left(\gamma\,\frac{x}{\sqrt{\overline{x^2} + \epsilon}} + \text{residual}\right)

    The mean square is that of each row over ``normalized_shape``; γ has that shape. No mean is subtracted.
    Training and evaluation are the same.

    Args: as torch's; ``eps=None`` is the machine epsilon of the dtype in which statistics are computed, fp32 for
    fp16, bf16 and fp32 input (1.2e-7) and fp64 for fp64. Keyword only: ``activation``, ``add_first`` and
    ``zero_centered``, as in `LayerNorm`. The RMSNorm of Gemma and Qwen3-Next is ``RMSNorm(C, eps=1e-6,
    zero_centered=True)`` and loads their checkpoints.

    ``forward(x, residual=None, mask=None)``, and ``add_first``: as in `LayerNorm`.

    Raises ValueError where the trailing dimensions of the input are not ``normalized_shape``.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467; their code adds ε outside the root, torch's inside.

    >>> RMSNorm(4)(torch.full((1, 4), 3.0))
    tensor([[1., 1., 1., 1.]], grad_fn=...)
    """

    eps_is_optional = True

    def __init__(
        self,
        normalized_shape: int | list[int] | tuple[int, ...] | torch.Size,
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str | None = None,
        add_first: bool = False,
        zero_centered: bool = False,
    ) -> None:
        shape = as_row_shape(self, normalized_shape)
        super().__init__(shape, eps, elementwise_affine, device, dtype)  # type: ignore[arg-type]
        self._set_options(activation, add_first, zero_centered)

    def forward(self, x: Tensor, residual: Tensor | None = None, mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        if (type(x) is not Tensor or residual is not None) and is_symbol(x, residual):
            return as_node(self, x, residual, mask)
        eps = epsilon(x, self._eps)
        return self._normalize(x, formulas.rms_norm, eps, (self.weight, None), residual, mask)
