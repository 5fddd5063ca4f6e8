"""Spectral normalization of a vector, such as a bias: its only singular value is its length."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from normwise.operations.context import without_autocast
from normwise.operations.saved import guarded

from .layers import check_numbers, computing_dtype


class VectorNorm(nn.Module):
    """The parametrization that `spectral_norm` registers for a vector: W / |W|, and W itself where |W| ≤ ``eps``."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, weight: Tensor) -> Tensor:
        check_numbers(weight, "spectral_norm")
        with without_autocast(weight):
            wide = weight.to(computing_dtype(weight))
            length = torch.linalg.vector_norm(wide)
            unit = (wide / torch.where(length > self.eps, length, torch.ones_like(length))).to(weight.dtype)
        return guarded(unit, weight)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Make ``module.weight = ...`` set the weight before normalization."""
        return weight

    def extra_repr(self) -> str:
        return f"eps={self.eps}"
