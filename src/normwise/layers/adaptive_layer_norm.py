"""Normalization of tokens whose affine map is predicted from a condition: the blocks of diffusion transformers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normwise.core import formulas
from normwise.core.arguments import check_floating
from normwise.core.bound import bound
from normwise.core.formulas import Formula
from normwise.core.layout import check_memory
from normwise.core.moments import epsilon
from normwise.core.numbers import check_rows, check_whole
from normwise.core.symbols import as_node, is_symbol
from normwise.core.tables import check_place, check_required
from normwise.operations.conditioned import modulated
from normwise.operations.saved import guarded

from ._shared import FusedActivation
from .scripting import ScriptedModulated, ScriptedModulatedWithGate


class _AdaptiveNorm(FusedActivation):
    """The base of `AdaptiveLayerNorm` and `AdaptiveRMSNorm`."""

    eps_is_optional = True

    def __init__(
        self,
        num_features: int,
        num_condition: int,
        eps: float | None = 1e-6,
        gate: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str | None = None,
    ) -> None:
        super().__init__()
        check_whole(self, "num_features", num_features, 1)
        check_whole(self, "num_condition", num_condition, 1)
        self.num_features, self.num_condition, self.eps, self.gate = num_features, num_condition, eps, gate
        self.linear = nn.Linear(num_condition, (3 if gate else 2) * num_features, device=device, dtype=dtype)
        self._set_activation(activation)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Make scale, shift and gate 0 for every condition: a block with a gate starts as the identity."""
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(
        self, x: Tensor, condition: Tensor, residual: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        if type(x) is not Tensor and is_symbol(x):
            return as_node(self, x, condition, residual, mask)
        check_floating(x, type(self).__name__)
        check_rows(self, x, (self.num_features,))
        self._check_condition(x, condition)
        shift, scale, *gate = self._projected(x, condition).chunk(3 if self.gate else 2, dim=-1)
        epilogue: dict[str, Any] = {"activation": self.activation, "residual": residual, "mask": mask}
        y = modulated(self, x, self._formula(x), scale, shift, **epilogue)
        if not self.gate:
            return y
        # In the dtype of x, since it multiplies the block's output.
        return y, gate[0].unflatten(0, (x.shape[0], *(1,) * (x.dim() - condition.dim())))

    def _projected(self, x: Tensor, condition: Tensor) -> Tensor:
        """The projection, in the widest dtype: a layer in bf16 beside fp32 rows rounds nothing but its weights."""
        weight, bias = self.linear.weight, self.linear.bias
        check_memory(condition, weight, bias)
        widest = torch.promote_types(torch.promote_types(x.dtype, condition.dtype), weight.dtype)
        opened = guarded(F.silu(condition.to(widest)), condition)
        return guarded(F.linear(opened, weight.to(widest), bias.to(widest)), condition, weight, bias)

    def _formula(self, x: Tensor) -> Formula:
        raise NotImplementedError

    def _check_condition(self, x: Tensor, condition: Tensor) -> None:
        """Require a condition for each sample or for each token, on the device of ``x``."""
        name, size = type(self).__name__, self.num_condition
        check_floating(condition, f"{name}: the condition")
        check_place(self, "the condition", condition, x)
        tokens = condition.dim() == x.dim() and condition.shape[:-1] == x.shape[:-1]
        samples = x.dim() > 1 and condition.dim() == 2 and condition.shape[0] == x.shape[0]
        if condition.shape[-1:] != (size,) or not (tokens or samples):
            raise ValueError(
                f"{name}: the condition must be [N, {size}], one for each sample, or {[*x.shape[:-1], size]}, one for "
                f"each token, for an input {list(x.shape)}; received {list(condition.shape)}."
            )
        rows = (3 if self.gate else 2) * self.num_features
        check_required(self, condition, (rows, size), **{"linear.weight": self.linear.weight})
        check_required(self, condition, (rows,), **{"linear.bias": self.linear.bias})

    def _scripted(self) -> nn.Module:
        kind = ScriptedModulatedWithGate if self.gate else ScriptedModulated
        return kind(self, center=isinstance(self, AdaptiveLayerNorm))

    def extra_repr(self) -> str:
        shown = f"{self.num_features}, num_condition={self.num_condition}, eps={self.eps}"
        return shown + (", gate=True" if self.gate else "") + super().extra_repr()


class AdaptiveLayerNorm(_AdaptiveNorm):
    r"""Layer normalization of tokens ``[N, *, C]``, scaled and shifted by a condition: AdaLN, and AdaLN-Zero.

    .. math:: y = f\left((1 + s(c))\,\frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + b(c) + \text{residual}\right),
              \qquad (b, s, g) = W\,\text{silu}(c) + w

    μ and σ² (**biased**) are those of each token's C values; c is the condition, such as the sum of the embeddings of a
    diffusion time and a class. W and w start at 0, so that the layer starts as LayerNorm without parameters.

    Args: ``num_features`` (C), ``num_condition`` (K), ``eps`` (1e-6, as in the papers' code), ``gate``: whether W
    also predicts a gate g (AdaLN-Zero), ``device``, ``dtype``; keyword only ``activation``.

    ``forward(x, condition, residual=None, mask=None)``: ``condition`` is ``[N, K]``, one for each sample, or
    ``[N, *, K]``, one for each token. With ``gate`` it returns ``(y, g)``, g of a shape that multiplies a block's
    output: ``y, g = norm(x, c); x = x + g * block(y)``, so that every block starts as the identity. ``residual`` and
    ``mask`` as in `LayerNorm`.

    The affine map is applied, and its gradients are summed, in the pass that normalizes: no normalized tensor is kept.
    The projection is computed in the widest dtype of x, c and W (under autocast in autocast's, like every linear
    layer), and the gate has that dtype. Where the projection is a layer of its own, as in DiT's blocks, which share one
    between two norms, pass its parts to `functional.modulated_layer_norm`.

    Raises ValueError if x has another number of features, and for a condition of another shape.

    Source: Peebles and Xie 2022, arXiv:2212.09748; ``linear`` is a checkpoint's ``adaLN_modulation.1`` of DiT's final
    layer, and the ``linear`` of diffusers' ``AdaLayerNormZeroSingle`` with ``gate``. The trap: the rows of W are shift,
    scale, gate; diffusers' ``AdaLayerNormContinuous`` has scale first.

    >>> x, c = torch.randn(2, 5, 8), torch.randn(2, 4)
    >>> y, gate = AdaptiveLayerNorm(8, 4, gate=True)(x, c)
    >>> torch.allclose(y, F.layer_norm(x, [8], eps=1e-6), atol=1e-6), gate.shape, gate.abs().max().item()
    (True, torch.Size([2, 1, 8]), 0.0)
    """

    def _formula(self, x: Tensor) -> Formula:
        return bound(formulas.modulated_layer_norm, eps=epsilon(x, self._eps))


class AdaptiveRMSNorm(_AdaptiveNorm):
    r"""Root mean square normalization of tokens ``[N, *, C]``, scaled and shifted by a condition.

    .. math:: y = f\left((1 + s(c))\,\frac{x}{\sqrt{\overline{x^2} + \epsilon}} + b(c) + \text{residual}\right),
              \qquad (b, s, g) = W\,\text{silu}(c) + w

    `AdaptiveLayerNorm` without the mean: its arguments, shapes and errors; ``eps=None`` is `RMSNorm`'s.

    Source: Peebles and Xie 2022, arXiv:2212.09748, with the normalizer of Zhang and Sennrich 2019, arXiv:1910.07467.

    >>> x, c = torch.randn(2, 5, 8), torch.randn(2, 4)
    >>> torch.allclose(AdaptiveRMSNorm(8, 4)(x, c), F.rms_norm(x, [8], eps=1e-6), atol=1e-6)
    True
    """

    def _formula(self, x: Tensor) -> Formula:
        return bound(formulas.modulated_rms_norm, eps=epsilon(x, self._eps))
