"""Given statistics are constants: nothing is differentiated with respect to them, in any mode of differentiation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .transforms import under_function_transform


def without_history(t: Tensor) -> Tensor:
    """``t`` as a constant: without a gradient, and without the tangent of forward mode, which `detach` would keep.

    >>> import warnings
    >>> with warnings.catch_warnings(), forward_ad.dual_level():
    ...     warnings.simplefilter("ignore")  # torch itself calls torch.jit.script on the first use, which is deprecated
    ...     dual = forward_ad.make_dual(torch.ones(2), torch.ones(2))
    ...     forward_ad.unpack_dual(without_history(dual)).tangent is None
    True
    """
    if torch.compiler.is_compiling() or not under_function_transform():
        return t.detach()
    with torch.no_grad(), forward_ad._set_fwd_grad_enabled(False):
        return t.clone()
