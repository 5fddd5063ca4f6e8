"""Protection from tools of others that read a layer's numbers and build a module of them with another function.

`fuse_conv_bn_eval`, torch's `convert_sync_batchnorm` and timm's `freeze_batch_norm_2d` take every subclass of torch's
batch norm for one. The layers stay subclasses, for `update_bn` and others need that; what all these tools read is
``eps``, and there they are stopped where an activation or a formula would be lost. One that nobody here knows gets an
``eps`` that says where it is from, by which `diagnose` finds what such a tool has built.
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


class LentEpsilon(float):
    """``eps`` as a stranger reads it: what a module that is built from the layer's numbers may have lost.

    layer: the kind of layer. training, evaluation: what it does in that mode beyond torch's layer. by: who read it.
    A pickle holds a plain float, so that no checkpoint of another module needs this package.
    """

    layer: str
    training: str
    evaluation: str
    by: str

    @classmethod
    def of(cls, layer: Any, eps: float, by: str) -> LentEpsilon:
        lent = cls(eps)
        lent.layer, lent.by = type(layer).__name__, by
        lent.training, lent.evaluation = layer.lost_in("training"), layer.lost_in("evaluation")
        return lent

    def __deepcopy__(self, memo: object) -> LentEpsilon:
        return self

    def __reduce__(self) -> Any:
        return float, (float(self),)


class Epsilon:
    """``eps`` of a layer: at least 0, and not given to a tool that would lose something of the layer.

    It is stored twice. The layers read ``_eps``: it takes less time, and the compiler of torch 2.11 takes reading
    ``__dict__["eps"]`` for another access to this descriptor, without end. Torch's ``extra_repr`` and others that go by
    ``__dict__`` read ``eps`` there.
    """

    def __get__(self, layer: Any, _kind: type | None = None) -> Any:
        if layer is None:
            return self
        if "_eps" not in layer.__dict__:
            raise AttributeError("eps")
        eps = layer._eps
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
        elif type(eps) is float and not module.startswith("normwise."):
            return LentEpsilon.of(layer, eps, f"{module}.{function}")
        return eps

    def __set__(self, layer: Any, eps: Any) -> None:
        eps = float(eps) if isinstance(eps, LentEpsilon) else eps
        if eps is not None or not layer.eps_is_optional:
            check_eps(layer, eps)
        layer.__dict__["eps"] = layer._eps = eps


def _remedy(function: str) -> str:
    if "sync" in function:
        return "normwise.SyncBatchNorm.convert_sync_batchnorm(model) synchronizes it as it is"
    return "put a plain BatchNorm in its place, with the activation as a module behind it, or leave it out"
