"""Checks of the arguments of tools: the model, and the selection of its modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from ..core.module_tree import Node
from ..signal.diagnosis.findings import listed
from ..signal.modules import calls_modules
from .transition import check_closed

#: Which modules: a predicate (name, module), a name or glob, or several of them.
Where = Callable[[str, nn.Module], bool] | str | Iterable[str]
_WRAPPED = (nn.DataParallel, nn.parallel.DistributedDataParallel)
_QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")


def check_model(model: object, caller: str) -> None:
    """Check that the modules of a model can be replaced and its tensors read.

    Raises TypeError if it is no module, or wrapped, scripted, compiled, exported or quantized, and ValueError for
    tensors without values (lazy modules, the meta device) and for a model in the middle of a swap.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"{caller} expects a torch.nn.Module, received {type(model).__name__}.")
    for name, module in model.named_modules():
        unfit = _unfit(module)
        if unfit:
            where = f"{name} ({type(module).__name__})" if name else f"the model ({type(module).__name__})"
            raise TypeError(f"{caller}: {where} {unfit}")
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if nn.parameter.is_lazy(tensor):
            raise ValueError(f"{caller}: {name} is not initialized yet; run the lazy model once on a batch first.")
        if tensor.is_meta:
            raise ValueError(f"{caller}: {name} is on the meta device and has no values; load them first.")
    if isinstance(model, torch.fx.GraphModule) and not calls_modules(model):
        raise TypeError(
            f"{caller}: {type(model).__name__} is a graph of operations made by torch.export, which calls no modules; "
            "pass the original model, or torch.export.unflatten(program)."
        )
    check_closed(model, caller)


def _unfit(module: nn.Module) -> str | None:
    """Why a module cannot be changed, as the end of a sentence; None if it can."""
    if isinstance(module, torch.jit.ScriptModule):
        return "runs in TorchScript; pass the model from before torch.jit.script or torch.jit.trace."
    if "_orig_mod" in module._modules:
        return "is compiled; pass the model from before torch.compile, which is its attribute _orig_mod."
    if isinstance(module, _WRAPPED):
        return "wraps the model for several devices; pass its attribute module, and wrap the result again."
    if "_fsdp_wrapped_module" in module._modules or type(module).__name__.startswith("FSDP"):
        return "shards its tensors (FSDP); pass the model from before sharding."
    if type(module).__module__.startswith(_QUANTIZED):
        return "is quantized; pass the model from before quantization."
    return None


def home_of_forward(module: nn.Module) -> type | None:
    """The class that defines the `forward` of a module; None if the instance itself has one."""
    bases = parametrize.type_before_parametrizations(module).__mro__
    return None if "forward" in vars(module) else next(base for base in bases if "forward" in vars(base))


def matching(candidates: Mapping[nn.Module, Node], where: Where | None, caller: str) -> list[nn.Module]:
    """The candidates that ``where`` matches by one of their names; None matches all.

    A name also matches everything below it, and ``*`` also matches dots.

    Raises ValueError, with names of candidates, if nothing matches.
    """
    matches = _predicate(where, caller)
    found = [m for m, node in candidates.items() if any(matches(n, m) for n in node.names)]
    if not found:
        names = listed([node.name for node in candidates.values()])
        raise ValueError(f"{caller}: where={where!r} matches none of the layers; there are {names}.")
    return found


def several(given: Any) -> tuple[Any, ...]:
    """The items of a sequence as a tuple; any other value, which the caller checks, as a tuple of one.

    >>> several("a"), several(["a", "b"]), several(3)
    (('a',), ('a', 'b'), (3,))
    """
    return tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (given,)


def _predicate(where: Where | None, caller: str) -> Callable[[str, nn.Module], bool]:
    if where is None:
        return lambda name, module: True  # noqa: ARG005 as every predicate
    if callable(where):
        return where
    patterns = several(where)
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(f"{caller}: where must be a predicate (name, module), a name or names, received {where!r}.")
    return lambda name, module: any(  # noqa: ARG005
        fnmatchcase(name, pattern) or name.startswith(f"{pattern}.") for pattern in patterns
    )
