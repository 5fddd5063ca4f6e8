"""The structure of a net: the calls of its forward and their modules, captured without running it."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import fx, nn

from ..modules import type_name
from .modules import rule_of


class LeafCall(NamedTuple):
    """A call of a module that calls no other: its name as a tap, its path, its output."""

    name: str
    path: str
    node: fx.Node


class Structure(NamedTuple):
    """A graph whose nodes have their module in ``meta["scope"]``, the calls of leaf modules, and the tensors it reads.

    ``returned``: the path of the innermost module whose call returned a node. ``entered``: the number of calls of each
    module, also of those that call others.
    """

    root: nn.Module
    graph: fx.Graph
    calls: tuple[LeafCall, ...]
    attributes: dict[str, Any]
    returned: dict[fx.Node, str]
    entered: Mapping[str, int]


def structure_of(model: nn.Module) -> Structure:
    """Trace `forward` symbolically; ValueError if that is impossible. The model is not changed."""
    tracer = _Tracer()
    with _attributes_kept(model):
        try:
            graph = tracer.trace(model)
        except Exception as error:  # the user's forward may raise anything
            raise ValueError(
                f"predict cannot follow {type(model).__name__}.forward{tracer.where()} without running it "
                f"({_first_line(error)}). `normwise.trace` measures any model."
            ) from error
        reads = [str(node.target) for node in graph.nodes if node.op == "get_attr"]
        # Tensors created in forward are attributes of the model only during the tracing.
        attributes = {name: operator.attrgetter(name)(model) for name in reads}
    return Structure(model, graph, tuple(tracer.calls), attributes, tracer.returned, tracer.entered)


def numbered(path: str, root: nn.Module, times: int) -> str:
    """A tap's name: the path (for the model itself its class), with a number from the second call on."""
    name = path or type_name(root)
    return name if times == 1 else f"{name}#{times}"


class _Tracer(fx.Tracer):
    # Otherwise the forward of a custom normalizer would update its buffers while it is followed.
    proxy_buffer_attributes = True

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[LeafCall] = []
        self.returned: dict[fx.Node, str] = {}
        self.entered: Counter[str] = Counter()
        self._times: Counter[str] = Counter()
        self._scopes: list[str] = [""]
        self._children = [0]

    def where(self) -> str:
        """The module in which tracing is or was."""
        return f" at {self._scopes[-1]}" if self._scopes[-1] else ""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return rule_of(m) is not None or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:  # noqa: ARG002
        path = self.path_of_module(m)
        self._children[-1] += 1
        self.entered[path] += 1
        if self.is_leaf_module(m, path):
            output = self.create_proxy("call_module", path, args, kwargs)
            self._called(path, output)
            return output
        self._scopes.append(path)
        self._children.append(0)
        output = m.forward(*args, **kwargs)  # not m(...): hooks are not part of the structure
        self._scopes.pop()
        calls_none = self._children.pop() == 0
        if isinstance(output, fx.Proxy):
            if calls_none:
                self._called(path, output)
            self.returned.setdefault(output.node, path)
        return output

    def _called(self, path: str, output: fx.Proxy) -> None:
        self._times[path] += 1
        self.calls.append(LeafCall(numbered(path, self.root, self._times[path]), path, output.node))
        self.returned.setdefault(output.node, path)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        node.meta["scope"] = self._scopes[-1]
        return node


@contextmanager
def _attributes_kept(model: nn.Module) -> Iterator[None]:
    """Restore attributes afterwards: a forward that stores something on its module would leave symbols there."""
    before = [(module, dict(module.__dict__)) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes in before:
            module.__dict__.clear()
            module.__dict__.update(attributes)


def _first_line(error: Exception) -> str:
    line = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {line.rstrip('.')}"
