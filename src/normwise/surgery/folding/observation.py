"""Find which layer feeds which, in one run of the example: observe the calls of modules and all operations between.

The model itself runs, not a captured graph: so no model is excluded because it cannot be captured, and the order of
calls is the real one, not the order of registration.
"""

from __future__ import annotations

import gc
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ...signal.modules import constants_of, tensors_in

INPUT = "the model's input"


@dataclass(eq=False)
class ModuleCall:
    """A module that runs, and those that called it, the model first."""

    module: nn.Module
    name: str
    parents: tuple[ModuleCall, ...]


@dataclass(eq=False)
class LayerCall(ModuleCall):
    """A call of one of the watched layers.

    ``source``: the signal of its first argument, None if no watched layer made it; ``origin`` describes where it comes
    from. ``beside``: the other arguments by name or position; ``fixed``: those that are tensors of the model.
    """

    source: Signal | None
    origin: str
    beside: dict[str | int, Any]
    fixed: frozenset[str | int]
    shape: tuple[int, ...]
    dtype: torch.dtype | None
    result: Signal | None = None


@dataclass(eq=False)
class Signal:
    """The output of a watched layer, and its readers: other watched layers that take it as input, and others."""

    maker: LayerCall
    tensor: weakref.ref[Tensor]
    shape: tuple[int, ...]
    dtype: torch.dtype
    layers: list[LayerCall] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    takers: list[ModuleCall] = field(default_factory=list)


@dataclass
class Observation:
    """The calls of each watched layer in order, and other readers of its parameters and buffers."""

    calls: dict[nn.Module, list[LayerCall]] = field(default_factory=lambda: defaultdict(list))
    readers: dict[nn.Module, list[str]] = field(default_factory=lambda: defaultdict(list))


def observe(model: nn.Module, layers: Mapping[nn.Module, str], forward: Callable[[nn.Module], Any]) -> Observation:
    """Run the model by ``forward`` and observe where the outputs of ``layers`` go; ``layers`` maps them to names.

    It leaves hooks on the model's modules: call it only inside `as_it_was`.
    """
    observer = _Observer(model, layers)
    with torch.no_grad(), observer:
        output = forward(model)
    observer.note_outputs(output)
    observer.note_kept_signals()  # while the output is there, of whatever kind it is
    return observer.found


class _Observer(TorchDispatchMode):
    def __init__(self, model: nn.Module, layers: Mapping[nn.Module, str]) -> None:
        super().__init__()
        self.found = Observation()
        self._layers = layers
        self._stack: list[ModuleCall] = []
        self._signals: dict[int, Signal] = {}
        self._origins: dict[int, tuple[weakref.ref[Tensor], str]] = {}
        self._constants = {id(tensor) for tensor in constants_of(model)}
        self._owners: dict[int, list[nn.Module]] = defaultdict(list)
        for layer in layers:
            for tensor in (*layer._parameters.values(), *layer._buffers.values()):
                if tensor is not None:
                    self._owners[id(tensor)].append(layer)
        for name, module in model.named_modules():
            hooked = bool(module._forward_hooks or module._forward_pre_hooks)
            module.register_forward_pre_hook(partial(self._enter, name, hooked), with_kwargs=True)
            module.register_forward_hook(partial(self._leave, name, hooked), with_kwargs=True, prepend=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        taken = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        out = func(*args, **(kwargs or {}))
        where = self._stack[-1].name if self._stack else ""
        reader = f"{func.overloadpacket.__name__.rstrip('_')}{f' in {where}' if where else ''}"
        for tensor in taken:
            self._note_reading(tensor, reader)
        for made in tree_leaves(out):
            if isinstance(made, Tensor) and all(made is not tensor for tensor in taken):
                self._origins[id(made)] = weakref.ref(made), reader
        return out

    def _note_reading(self, tensor: Tensor, reader: str) -> None:
        open = [call for call in self._stack if isinstance(call, LayerCall)]
        signal = self._signal(tensor)
        if signal is not None and not any(call.source is signal or signal.maker is call for call in open):
            signal.others.append(reader)
        for owner in self._owners.get(id(tensor), ()):
            if all(call.module is not owner for call in open):
                self.found.readers[owner].append(reader)

    def _signal(self, tensor: Tensor) -> Signal | None:
        signal = self._signals.get(id(tensor))
        return signal if signal is not None and signal.tensor() is tensor else None

    def _enter(self, name: str, hooked: bool, module: nn.Module, args: Any, kwargs: Any) -> None:
        parents = tuple(self._stack)
        inside = any(call.module is module for call in parents)  # a layer that calls itself on another view
        if module in self._layers and not inside:
            call: ModuleCall = self._layer_call(module, parents, args, kwargs)
        else:
            call = ModuleCall(module, name, parents)
            self._note_passing(call, hooked, tensors_in([args, kwargs]))
        self._stack.append(call)

    def _note_passing(self, call: ModuleCall, hooked: bool, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            signal = self._signal(tensor)
            if signal is not None and all(parent is not signal.maker for parent in call.parents):
                signal.takers.append(call)
                if hooked:
                    signal.others.append(f"the hooks of {call.name or 'the model'}")

    def _layer_call(self, module: nn.Module, parents: tuple[ModuleCall, ...], args: Any, kwargs: Any) -> LayerCall:
        given = {**dict(enumerate(args)), **kwargs}
        first = next(iter(given), None)
        x = given.pop(first) if first is not None else None
        known = isinstance(x, Tensor)
        source = self._signal(x) if known else None
        shape, dtype = (tuple(x.shape), x.dtype) if known else ((), None)
        origin = self._origin(x) if known else "nothing"
        fixed = frozenset(key for key, value in given.items() if id(value) in self._constants)
        call = LayerCall(module, self._layers[module], parents, source, origin, given, fixed, shape, dtype)
        if source is not None:
            source.layers.append(call)
        for tensor in tensors_in(list(given.values())):
            signal = self._signal(tensor)
            if signal is not None:
                signal.others.append(f"{call.name} as another argument")
        self.found.calls[module].append(call)
        return call

    def _origin(self, x: Tensor) -> str:
        known = self._origins.get(id(x))
        return known[1] if known is not None and known[0]() is x else INPUT

    def _leave(self, name: str, hooked: bool, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:  # noqa: ARG002
        call = self._stack.pop()
        while call.module is not module:  # a call that failed and whose error the model caught
            call = self._stack.pop()
        if isinstance(call, LayerCall):
            if isinstance(output, Tensor):
                call.result = Signal(call, weakref.ref(output), tuple(output.shape), output.dtype)
                self._signals[id(output)] = call.result
            return
        for tensor in tensors_in(output):
            signal = self._signal(tensor)
            if signal is not None and hooked:
                signal.others.append(f"the hooks of {name or 'the model'}")
            if signal is not None and call in signal.takers and output is tensor:
                signal.takers.remove(call)  # it returns its input, as Identity does

    def note_outputs(self, output: Any) -> None:
        for tensor in tensors_in(output):
            signal = self._signal(tensor)
            if signal is not None:
                signal.others.append("the caller, as the model's output")

    def note_kept_signals(self) -> None:
        """A signal that still exists after the run is held by an attribute, a list, a hook or an unusual output."""
        made = [call.result for calls in self.found.calls.values() for call in calls]
        signals = [signal for signal in made if signal is not None and not signal.others]
        if any(signal.tensor() is not None for signal in signals):
            gc.collect()  # a cycle of garbage holds nothing
        for signal in signals:
            if signal.tensor() is not None:
                signal.others.append("something that keeps it after the run")
