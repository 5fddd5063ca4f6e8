"""Root mean square normalization with a gate: the norm at the end of Mamba-2's and Gated DeltaNet's mixers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from normwise.core.arguments import check_floating
from normwise.core.moments import epsilon
from normwise.core.numbers import check_rows, check_whole
from normwise.core.symbols import as_node, is_symbol
from normwise.operations.conditioned import gated

from ._shared import FusedActivation
from .scripting import ScriptedGatedRMSNorm


class GatedRMSNorm(FusedActivation):
    r"""Root mean square normalization of tokens ``[*, C]``, times a gate.

    .. math:: y = f\left(\gamma\,\frac{x}{\sqrt{\overline{x^2}_g + \epsilon}}\,\text{silu}(z) + \text{residual}\right),
              \qquad \text{or} \quad \text{norm}(x\,\text{silu}(z)) \quad \text{where norm_before_gate is False}

    The mean square is that of each token's C values, or of each group of ``group_size`` neighbouring ones; γ, the
    parameter ``weight``, is always ``[C]`` and starts at 1. Everything is computed in fp32 (fp64) and rounded once.

    Args: ``num_features`` (C), ``eps`` (1e-5; None as in `RMSNorm`), ``group_size``, a divisor of C or None for C,
    ``norm_before_gate``, ``device``, ``dtype``; keyword only ``activation``, applied last.

    ``forward(x, gate=None, residual=None, mask=None)``: ``gate`` is z, of the shape of x; without it the layer is the
    norm alone. ``residual`` and ``mask`` as in `RMSNorm`.

    Raises ValueError if x has another number of features, for a gate of another shape, and for a ``group_size`` that
    does not divide C.

    Source: Dao and Gu 2024, arXiv:2405.21060. It is ``RMSNorm`` of mamba_ssm's ``layernorm_gated`` (same arguments),
    and in transformers, with its own ``eps``: ``Qwen3NextRMSNormGated`` (default order), ``MambaRMSNormGated``
    (``norm_before_gate=False``), ``Zamba2RMSNormGated`` (with ``group_size`` as well). The trap: a checkpoint does not
    hold the order. The code in transformers rounds to the input's dtype before it multiplies by γ, in bf16 and fp16
    twice.

    >>> x, z = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    >>> y = torch.nn.functional.rms_norm(x, [8], eps=1e-5) * torch.nn.functional.silu(z)
    >>> torch.allclose(GatedRMSNorm(8)(x, z), y, atol=1e-6)
    True
    """

    eps_is_optional = True

    def __init__(
        self,
        num_features: int,
        eps: float | None = 1e-5,
        group_size: int | None = None,
        norm_before_gate: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str | None = None,
    ) -> None:
        super().__init__()
        check_whole(self, "num_features", num_features, 1)
        if group_size is not None:
            check_whole(self, "group_size", group_size, 1)
            if num_features % group_size:
                divisors = ", ".join(str(d) for d in range(1, num_features + 1) if num_features % d == 0)
                raise ValueError(
                    f"GatedRMSNorm: {num_features} features do not divide into groups of {group_size}; divisors of "
                    f"{num_features}: {divisors}."
                )
        self.num_features, self.eps, self.group_size = num_features, eps, group_size
        self.norm_before_gate = norm_before_gate
        self.weight = nn.Parameter(torch.empty(num_features, device=device, dtype=dtype))
        self._set_activation(activation)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """γ = 1."""
        nn.init.ones_(self.weight)

    def forward(
        self, x: Tensor, gate: Tensor | None = None, residual: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        if type(x) is not Tensor and is_symbol(x):
            return as_node(self, x, gate, residual, mask)
        check_floating(x, "GatedRMSNorm")
        check_rows(self, x, (self.num_features,))
        return gated(
            self,
            x,
            gate,
            self.weight,
            eps=epsilon(x, self._eps),
            groups=self.num_features // (self.group_size or self.num_features),
            norm_before_gate=self.norm_before_gate,
            activation=self.activation,
            residual=residual,
            mask=mask,
        )

    def _scripted(self) -> nn.Module:
        return ScriptedGatedRMSNorm(self)

    def extra_repr(self) -> str:
        shown = f"{self.num_features}, eps={self.eps}"
        shown += "" if self.group_size is None else f", group_size={self.group_size}"
        return shown + ("" if self.norm_before_gate else ", norm_before_gate=False") + super().extra_repr()
