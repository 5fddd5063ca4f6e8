"""Symbolic tracing by `torch.fx`: a layer or a function becomes one node of the graph, as torch's own do."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.fx import Proxy

F = TypeVar("F", bound=Callable[..., Any])
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def is_symbol(*values: object) -> bool:
    """Whether one of the values stands for a tensor while `torch.fx` traces a model."""
    return any(isinstance(value, Proxy) for value in values)


def as_node(layer: nn.Module, *values: Any) -> Any:
    """The call ``layer(*values)``, in which some values are symbols, as one ``call_module`` of the graph.

    A layer that is traced alone becomes the only submodule, ``layer``, of the graph's module. Where fx records the
    layer's surroundings itself (the forward of a user's subclass, hooks), the node is the layer without them,
    `Traceable.traced`.
    """
    tracer: Any = _symbol_in(values).tracer  # type: ignore[union-attr]
    while values[-1] is None:
        values = values[:-1]
    path = tracer.path_of_module(layer)
    if path == "":
        tracer.root, path = nn.Module(), "layer"
        tracer.root.add_module(path, layer)
    if _surrounded(layer):
        path += ".traced"
    return tracer.create_proxy("call_module", path, values, {})


class Traceable:
    """A module that becomes one node while `torch.fx` traces it."""

    @property
    @torch.jit.unused  # TorchScript's compiler looks at every property of a module
    def traced(self: Any) -> nn.Module:
        """The same parameters and buffers with the package's own forward, and without hooks."""
        cls: Any = _home(self) if _has_a_forward_of_its_own(self) else type(self)
        module = cls.__new__(cls)
        module.__dict__.update(self.__dict__)
        module.__dict__.update({name: OrderedDict() for name in _HOOKS})
        return module


def _surrounded(layer: nn.Module) -> bool:
    return _has_a_forward_of_its_own(layer) or any(getattr(layer, name) for name in _HOOKS)


def _has_a_forward_of_its_own(layer: nn.Module) -> bool:
    return not type(layer).forward.__module__.startswith("normwise.")


def _home(layer: nn.Module) -> type:
    """The package's class that a user's class inherits from."""
    return next(cls for cls in type(layer).__mro__ if cls.__module__.startswith("normwise."))


#: The usual classes of arguments; looking for a symbol in each would take as long as a kernel's call.
_NO_SYMBOLS = frozenset((Tensor, nn.Parameter, int, float, bool, str, type(None)))


def one_node(function: F) -> F:
    """Let a public function become one ``call_function`` of the graph where an argument is a symbol.

    The graph names it by its public module, ``normwise.functional``, so that the graph can be pickled.
    """

    @wraps(function)
    def call(*given: Any, **options: Any) -> Any:
        for value in (*given, *options.values()):
            if type(value) in _NO_SYMBOLS:
                continue
            symbol = _symbol_in(value)
            if symbol is not None:
                return symbol.tracer.create_proxy("call_function", call, given, options)
        return function(*given, **options)

    call.__module__ = "normwise.functional"
    return call  # type: ignore[return-value]


def as_node_of_formula(function: Callable[..., Any], formula: Callable[..., Any], *values: Any, **options: Any) -> Any:
    """The call ``function(values[0], formula, *values[1:], **options)`` as one ``call_function`` of the graph.

    A graph takes no function as an argument, so the node calls a new function that holds the formula.
    """

    def call(x: Any, *parameters: Any, **options: Any) -> Any:
        return function(x, formula, *parameters, **options)

    call.__name__ = f"{function.__name__}_by_{getattr(formula, '__name__', 'formula')}"
    tracer: Any = _symbol_in((*values, *options.values())).tracer  # type: ignore[union-attr]
    return tracer.create_proxy("call_function", call, values, options)


def _symbol_in(value: object) -> Proxy | None:
    """The first symbol in a value: the value itself, or an entry of a tuple such as statistics or a style."""
    if isinstance(value, Proxy):
        return value
    if isinstance(value, tuple):
        for one in value:
            symbol = _symbol_in(one)
            if symbol is not None:
                return symbol
    return None
