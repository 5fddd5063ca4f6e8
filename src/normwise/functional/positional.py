"""Functions that normalize positions and return their moments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from normwise.core.arguments import as_mask
from normwise.operations import positional

from .running import Options, check_maps

if TYPE_CHECKING:
    from typing_extensions import Unpack


def positional_norm(x: Tensor, *, eps: float = 1e-5, **options: Unpack[Options]) -> tuple[Tensor, Tensor, Tensor]:
    """`PositionalNorm2d`: ``y``, and the mean and (unbiased) deviation of each position, both ``[N, 1, *space]``.

    >>> import torch
    >>> from normwise.functional import moment_shortcut
    >>> x = torch.randn(2, 8, 4, 4)
    >>> torch.allclose(moment_shortcut(*positional_norm(x)), x, atol=1e-5)
    True
    """
    check_maps("positional_norm", x, eps)
    if x.shape[1] < 2:
        raise ValueError(
            f"positional_norm: the unbiased variance needs at least 2 channels, got {list(x.shape)}; "
            "layer_norm2d has the biased one, instance_norm normalizes one channel over space."
        )
    mask = options.get("mask")
    options["mask"] = None if mask is None else as_mask(mask, x)
    return positional.positional_norm(x, eps, **options)
