"""Other people's tools that read a layer's numbers and build a module from them, which is then another function.

`fuse_conv_bn_eval`, torch's `convert_sync_batchnorm` and timm's `freeze_batch_norm_2d` take every subclass of torch's
batch norm for one. The layers stay subclasses, for `update_bn` and others need that; what all these tools read is
``eps``, and there they are stopped where an activation or a formula would be lost.
"""

from __future__ import annotations

import math
import re
import sys
from typing import Any

import torch

from normwise.core.numbers import check_eps

#: Modules of such tools, by the beginning of their names.
_REBUILDERS = re.compile(
    r"torch\.nn\.(modules\.batchnorm|utils\.fusion)$|(torch\.ao|torchao|torchvision|timm|opacus|fvcore|detectron2|mm\w+)\."
)
#: Functions of theirs that make what stands for the layer in evaluation alone.
_FOR_EVALUATION = re.compile(r"fuse|freeze|frozen")
#: Reads ``eps`` to see whether a kernel may stand for two layer norms: one that is not equal to itself may not.
_COMPARES = "torch.nn.modules.transformer"


class Epsilon:
    """``eps`` of a layer: at least 0, and not given to a tool that would lose something of the layer.

    The layers themselves read ``self.__dict__["eps"]``, in less time.
    """

    def __get__(self, layer: Any, _kind: type | None = None) -> Any:
        if layer is None:
            return self
        if "eps" not in layer.__dict__:
            raise AttributeError("eps")
        eps = layer.__dict__["eps"]
        if torch.compiler.is_compiling() or not (layer.lost_in("training") or layer.lost_in("evaluation")):
            return eps
        caller = sys._getframe(1)
        module, function = caller.f_globals.get("__name__", ""), caller.f_code.co_name
        if module == _COMPARES and layer.lost_in("evaluation"):
            return math.nan
        if _REBUILDERS.match(module):
            lost = layer.lost_in("evaluation" if _FOR_EVALUATION.search(function) else "training")
            if lost:
                raise TypeError(
                    f"{type(layer).__name__}: {module}.{function} builds another module from the layer's numbers, "
                    f"which would lose {lost}; {_remedy(function)}."
                )
        return eps

    def __set__(self, layer: Any, eps: Any) -> None:
        if eps is not None or not layer.eps_is_optional:
            check_eps(layer, eps)
        layer.__dict__["eps"] = eps


def _remedy(function: str) -> str:
    if "sync" in function:
        return "normwise.SyncBatchNorm.convert_sync_batchnorm(model) synchronizes it as it is"
    return "put a plain BatchNorm in its place, with the activation as a module behind it, or leave it out"
