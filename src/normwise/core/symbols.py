"""Symbolic tracing by `torch.fx`: a layer is one node of the graph, as torch's own layers are."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.fx import Proxy


def is_symbol(x: object) -> bool:
    """Whether ``x`` stands for a tensor while `torch.fx` traces a model."""
    return isinstance(x, Proxy)


def as_node(layer: nn.Module, x: Any, *others: Any) -> Any:
    """The call ``layer(x, *others)``, of a symbol ``x``, as one ``call_module`` of the graph.

    A layer that is traced alone becomes the only submodule, ``layer``, of the graph's module.
    """
    tracer = x.tracer
    while others and others[-1] is None:
        others = others[:-1]
    path = tracer.path_of_module(layer)
    if path == "":
        tracer.root, path = nn.Module(), "layer"
        tracer.root.add_module(path, layer)
    return tracer.create_proxy("call_module", path, (x, *others), {})
