"""Fused layers of other packages, if they are installed."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import nn

from ..layers.normalizers import default_groups
from .cases import Case


def liger(case: Case) -> nn.Module | None:
    """The layer of liger_kernel, if it has one for this case."""
    if case.activation or case.residual or find_spec("liger_kernel") is None:
        return None
    package = import_module("liger_kernel.transformers")
    if case.layer == "token-rms":
        return package.LigerRMSNorm(case.shape[-1], eps=1e-6)
    if case.layer == "token-layer":
        return package.LigerLayerNorm(case.shape[-1], eps=1e-5, bias=True)
    if case.layer == "group":
        return package.LigerGroupNorm(case.shape[1], default_groups(case.shape[1]), eps=1e-5)
    return None


class _QuackRMSNorm(nn.RMSNorm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return import_module("quack").rmsnorm(x, self.weight, eps=self.eps)


def quack(case: Case) -> nn.Module | None:
    """The layer of quack, if it has one for this case."""
    if case.activation or case.residual or case.layer != "token-rms" or find_spec("quack") is None:
        return None
    return _QuackRMSNorm(case.shape[-1], eps=1e-6)


PEERS: dict[str, Callable[[Case], nn.Module | None]] = {"liger": liger, "quack": quack}
