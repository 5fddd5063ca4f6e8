"""Protection from other libraries' tools that read a layer's numbers and build a module with another function.

`fuse_conv_bn_eval`, torch's `convert_sync_batchnorm` and timm's `freeze_batch_norm_2d` treat every subclass of torch's
batch norm as one. The layers must stay subclasses, since `update_bn` and others need that. All these tools read
``eps``: at that moment known tools are stopped if an activation or a formula would be lost. An unknown tool gets an
``eps`` that records which layer it came from, so that `diagnose` finds modules that were built with it.
"""

from __future__ import annotations

import math
import re
import sys
from typing import Any

import torch

from normwise.core.numbers import check_eps

#: The modules of known tools, by the beginning of their names.
_REBUILDERS = re.compile(
    r"torch\.nn\.(modules\.batchnorm|utils\.fusion)$|(torch\.ao|torchao|torchvision|timm|opacus|fvcore|detectron2|mm\w+)\."
)
#: Names of their functions whose result replaces the layer in evaluation only.
_FOR_EVALUATION = re.compile(r"fuse|freeze|frozen")
#: Compares two layer norms' ``eps`` to see whether one kernel can replace both; NaN, unequal to itself, prevents that.
_COMPARES = "torch.nn.modules.transformer"


class LentEpsilon(float):
    """``eps`` as read by an unknown module, with the properties that a module built from the layer's numbers loses.

    layer: the layer's class. training, evaluation: what torch's layer would lack in that mode. by: the reader.
    Pickled as a plain float, so that a checkpoint of another module does not need this package.
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
    """The attribute ``eps`` of a layer: at least 0, and refused to a tool that would lose a property of the layer.

    It is stored twice. The layers read ``_eps``: it takes less time, and the compiler of torch 2.11 takes reading
    ``__dict__["eps"]`` for another access to this descriptor, without end. Torch's ``extra_repr`` and other readers of
    ``__dict__`` find ``eps`` there.
    """

    kept_as = ("eps", "_eps")

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
