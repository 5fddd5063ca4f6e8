"""Functions that normalize rows with a condition."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from normwise.core import formulas
from normwise.core.arguments import check_floating
from normwise.core.bound import bound
from normwise.core.formulas import Formula
from normwise.core.moments import epsilon
from normwise.core.numbers import check_eps, check_groups
from normwise.operations import conditioned

from .running import Options, check_options

if TYPE_CHECKING:
    from typing_extensions import Unpack


def modulated_layer_norm(
    x: Tensor, scale: Tensor | None, shift: Tensor | None = None, *, eps: float = 1e-6, **options: Unpack[Options]
) -> Tensor:
    r"""Rows ``[N, *, C]``, normalized, scaled and shifted: ``modulate(norm(x), shift, scale)`` of DiT, in one pass.

    .. math:: y = (1 + s)\,\frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + b

    ``scale`` and ``shift`` are None, or ``[N, C]``, one row for each sample, or have as many dimensions as ``x``, of
    size 1 where rows are shared (``[N, 1, C]``, ``[N, L, C]``). `AdaptiveLayerNorm` predicts them.

    >>> import torch
    >>> x, s, b = torch.randn(2, 5, 4), torch.randn(2, 4), torch.randn(2, 4)
    >>> y = torch.nn.functional.layer_norm(x, [4], eps=1e-6) * (1 + s.unsqueeze(1)) + b.unsqueeze(1)
    >>> torch.allclose(modulated_layer_norm(x, s, b), y, atol=1e-6)
    True
    """
    return _modulated("modulated_layer_norm", x, formulas.modulated_layer_norm, scale, shift, eps, options)


def modulated_rms_norm(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None = None,
    *,
    eps: float | None = 1e-6,
    **options: Unpack[Options],
) -> Tensor:
    r"""`modulated_layer_norm` by the root mean square: :math:`(1 + s)\,x/\sqrt{\overline{x^2} + \epsilon} + b`.

    >>> import torch
    >>> modulated_rms_norm(torch.full((1, 2, 4), 3.0), torch.ones(1, 4))[0, 0]
    tensor([2.0000, 2.0000, 2.0000, 2.0000])
    """
    return _modulated("modulated_rms_norm", x, formulas.modulated_rms_norm, scale, shift, eps, options)


def gated_rms_norm(
    x: Tensor,
    gate: Tensor | None,
    weight: Tensor | None = None,
    *,
    num_groups: int = 1,
    norm_before_gate: bool = True,
    eps: float | None = 1e-5,
    **options: Unpack[Options],
) -> Tensor:
    """`GatedRMSNorm` of rows ``[*, C]``: ``norm(x) · silu(gate)``, or the norm of ``x · silu(gate)``.

    >>> import torch
    >>> gated_rms_norm(torch.full((1, 4), 3.0), torch.zeros(1, 4))
    tensor([[0., 0., 0., 0.]])
    """
    caller = "gated_rms_norm"
    _check_rows(caller, x, eps)
    check_groups(caller, num_groups, x.shape[-1])
    check_options(caller, options)
    order = {"groups": num_groups, "norm_before_gate": norm_before_gate}
    return conditioned.gated(caller, x, gate, weight, eps=epsilon(x, eps), **order, **options)  # type: ignore[arg-type]


def _modulated(
    caller: str,
    x: Tensor,
    formula: Formula,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float | None,
    options: Options,
) -> Tensor:
    _check_rows(caller, x, eps)
    check_options(caller, options)
    return conditioned.modulated(caller, x, bound(formula, eps=epsilon(x, eps)), scale, shift, **options)


def _check_rows(caller: str, x: Tensor, eps: float | None) -> None:
    check_floating(x, caller)
    if x.dim() < 1:
        raise ValueError(f"{caller} expects rows [*, C], received a tensor without dimensions; write x.view(1, 1).")
    if eps is not None:
        check_eps(caller, eps)
