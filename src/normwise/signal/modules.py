"""The modules of a model: their names, wrappers around them, and their tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

WRAPPERS = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(\.|$)")


def unwrapped(model: nn.Module, caller: str) -> nn.Module:
    """The original module inside `torch.compile`, DataParallel or DistributedDataParallel.

    Raises TypeError if it is not a module, or does not call its submodules (TorchScript), and ValueError for modules
    without values.
    """
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(model, nn.Module) and "_orig_mod" in model._modules:
            model = model.get_submodule("_orig_mod")
        else:
            break
    if not isinstance(model, nn.Module):
        raise TypeError(f"{caller} expects a torch.nn.Module, received {type(model).__name__}.")
    if is_scripted(model):
        raise TypeError(
            f"{caller}: {type(model).__name__} runs in TorchScript, where no module can be observed; "
            f"{caller} the model from before torch.jit.script or torch.jit.trace."
        )
    if isinstance(model, torch.fx.GraphModule) and not calls_modules(model):
        raise TypeError(
            f"{caller}: {type(model).__name__} is a graph of operations made by torch.export, without calls of modules "
            f"that could be observed; {caller} the model from before, or torch.export.unflatten(program)."
        )
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if nn.parameter.is_lazy(tensor):
            raise ValueError(f"{caller}: {name} is not initialized yet; run the lazy model once on a batch first.")
        if tensor.is_meta:
            raise ValueError(f"{caller}: {name} is on the meta device and has no values; move the model to a real one.")
    return model


def calls_modules(graph: torch.fx.GraphModule) -> bool:
    """Whether a graph calls any module besides the input check that torch.export adds."""
    return any(node.op == "call_module" and node.target != "_guards_fn" for node in graph.graph.nodes)


def is_scripted(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)


def watched_modules(model: nn.Module) -> dict[nn.Module, str]:
    """Every module that can be observed with its name, the model first.

    The parametrizations of weights have no activations, and TorchScript calls no hooks.
    """
    return {
        module: WRAPPERS.sub("", name).rstrip(".") or type_name(model)
        for name, module in model.named_modules()
        if "parametrizations" not in name.split(".") and not is_scripted(module)
    }


def module_name(tap: str) -> str:
    """The module's path in the name of a tap, without the number of the call and of the output.

    >>> module_name("layer1.0.relu#2"), module_name("lstm[1]")
    ('layer1.0.relu', 'lstm')
    """
    return tap.partition("#")[0].partition("[")[0]


def has_zero_weight(module: nn.Module) -> bool:
    """Whether a weight or gain of the module is 0 everywhere, as often at the end of a new residual branch."""
    own = (parameter for name, parameter in module.named_parameters(recurse=False) if "bias" not in name)
    return not all(bool(weight.any()) for weight in own)


def type_name(module: nn.Module) -> str:
    return parametrize.type_before_parametrizations(module).__name__


def constants_of(model: nn.Module) -> list[Tensor]:
    """Parameters, buffers and tensor attributes: all tensors that do not depend on the input."""
    attributes = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    return [*model.parameters(), *model.buffers(), *attributes]


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
