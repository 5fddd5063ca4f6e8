"""Compute the signals of all nodes of a graph."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from ..protection import SKIP_GAINS
from .functions import FUNCTIONS, METHODS, attribute, unchanged
from .gaussian import Signal
from .graph import Structure
from .modules import rule_of
from .options import Options

# Wrapped for fx in torchvision, timm and others: the branch is dropped in training only.
_BY_NAME = {"stochastic_depth": unchanged, "drop_path": unchanged, "drop_block2d": unchanged}
_IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv)


#: A function that is called with each module and its arguments, before the module is followed.
Listener = Callable[[nn.Module, tuple[Any, ...]], None]


def walk(
    structure: Structure, inputs: Mapping[str, Any], options: Options, before: Listener | None = None
) -> dict[fx.Node, Any]:
    """The original value of each node: a `Signal`, or a number, size or parameter."""
    arisen: dict[fx.Node, Any] = {}
    now: dict[fx.Node, Any] = {}  # the current values, after in-place operations of later nodes
    for node in structure.graph.nodes:
        args, kwargs = (map_arg(part, now.__getitem__) for part in (node.args, node.kwargs))
        if before is not None and node.op == "call_module":
            before(structure.root.get_submodule(str(node.target)), args)
        try:
            arisen[node] = now[node] = _value(structure, node, args, kwargs, inputs, options)
        except (NotImplementedError, TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
            raise ValueError(
                f"predict cannot follow {_words(structure.root, node)}"
                f"{' in ' + node.meta['scope'] if node.meta.get('scope') else ''}: {error}. "
                "`normwise.trace` measures any model."
            ) from error
        if _in_place(structure.root, node) and node.args and isinstance(node.args[0], fx.Node):
            now[node.args[0]] = now[node]
    return arisen


def _value(
    structure: Structure, node: fx.Node, args: Any, kwargs: Any, inputs: Mapping[str, Any], options: Options
) -> Any:
    if node.op == "placeholder":
        return _input(node, args, inputs)
    if node.op == "output":
        return args[0]
    if node.op == "get_attr":
        return _parameter(str(node.target), structure.attributes, options)
    if node.op == "call_module":
        module = structure.root.get_submodule(str(node.target))
        rule = rule_of(module)
        if rule is None:
            raise NotImplementedError("there is no rule for this class of module")
        return rule(module, options, *args, **kwargs)
    return _call(node, args, kwargs)


def _call(node: fx.Node, args: Any, kwargs: Any) -> Any:
    target = node.target
    if not _has_signal((args, kwargs)):
        return target(*args, **kwargs) if callable(target) else getattr(args[0], target)(*args[1:], **kwargs)
    if target is getattr:
        return attribute(*args)
    if target is operator.getitem and not isinstance(args[0], Signal):
        return args[0][args[1]]
    rule = METHODS.get(target) if isinstance(target, str) else FUNCTIONS.get(target)  # type: ignore[arg-type]
    rule = rule or _BY_NAME.get(getattr(target, "__name__", ""))
    if rule is None:
        raise NotImplementedError("there is no rule for it")
    return rule(*args, **kwargs)


def _input(node: fx.Node, default: Any, inputs: Mapping[str, Any]) -> Any:
    if node.target in inputs:
        return inputs[str(node.target)]
    if default:
        return default[0]
    raise ValueError("no value was given for it")


def _parameter(path: str, attributes: Mapping[str, Any], options: Options) -> Any:
    value = attributes[path]
    if not isinstance(value, Tensor):
        return value
    if options.skip_gain is not None and path.rpartition(".")[2] in SKIP_GAINS:
        return torch.full_like(value, options.skip_gain).detach().cpu()
    return value.detach().cpu().clone()  # later operations may write into it


def _has_signal(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_signal, value.values()))
    if isinstance(value, (tuple, list)):
        return any(map(_has_signal, value))
    return isinstance(value, Signal)


def _in_place(root: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return bool(getattr(root.get_submodule(str(node.target)), "inplace", False))
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    return bool(node.kwargs.get("inplace")) or node.target in _IN_PLACE


def _words(root: nn.Module, node: fx.Node) -> str:
    if node.op == "call_module":
        return f"the module {node.target} ({type(root.get_submodule(str(node.target))).__name__})"
    if node.op == "placeholder":
        return f"the input {node.target}"
    return str(getattr(node.target, "__name__", node.target))
