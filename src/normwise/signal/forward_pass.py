"""Observe one forward pass: its function calls, to find residual additions, and its modules, for their outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from normwise.core.observed import is_mapped
from normwise.core.transforms import under_function_transform

from .axes import carried_axis
from .flow import Flow
from .functions import Functions
from .modules import constants_of, tensors_in, watched_modules
from .readings import Reading
from .running_modules import RunningModule, RunningModules
from .sightings import Sightings


class ForwardPass:
    """Context manager that observes a model; afterwards `sightings` holds the measurements.

    blocks: modules whose outputs count as residual additions, by name, each with the module whose output is the end of
        the branch, or None. Additions inside these modules are ignored.
    heard: also measure the gradients of the activations in the backward pass, and call this at each.
    start_gradients: let the graph begin at the first activations if neither input nor parameters require a gradient;
        `roots` are those activations.
    root: whether calls of the model itself are observed; otherwise the caller reports them.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Mapping[str, str | None],
        *,
        heard: Callable[[], None] | None = None,
        start_gradients: bool = False,
        histograms: bool = False,
        root: bool = True,
    ) -> None:
        self._model = model
        self._names = watched_modules(model)
        self._blocks = blocks
        self._start_gradients = start_gradients
        self._root = root
        self._flow = Flow(constants_of(model))
        self._calls = RunningModules(blocks)
        self._ends = {end for end in blocks.values() if end is not None}
        self._end_readings: dict[str, Reading | None] = {}
        self._handles: list[RemovableHandle] = []
        self.sightings = Sightings(heard=heard, histograms=histograms)
        self.roots: list[Tensor] = []
        #: Modules that ran inside `torch.vmap`, where nothing can be measured.
        self.unseen: list[str] = []
        self._functions = Functions(self._flow, self._calls, self.sightings)

    def __enter__(self) -> ForwardPass:
        for module in self._names:
            if self._root or module is not self._model:
                self._handles.append(module.register_forward_pre_hook(self.enter_call, with_kwargs=True))
                # Also on errors: a model may catch them and continue.
                leave = module.register_forward_hook(self.leave_call, with_kwargs=True, always_call=True)
                self._handles.append(leave)
        self._functions.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._functions.__exit__(*error)
        self.sightings.name_decoder(self._functions.parts)
        for handle in self._handles:
            handle.remove()

    def enter_call(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """A forward pre-hook of every module."""
        if is_mapped():
            self.unseen.append(self._names[module])
            return
        with self._functions.paused():
            if self._calls.enter(RunningModule(module, self._names[module], self._flow.size)):
                for x in tensors_in([args, kwargs]):
                    if not self._flow.knows(x):
                        self._flow.add_input(x)

    def leave_call(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """A forward hook of every module; None, or the output to go on with."""
        if is_mapped():
            return None
        with self._functions.paused():
            call = self._calls.leave(module)
            if call is None:
                return None
            outputs = [x for x in tensors_in(output) if x.is_floating_point()]
            started = self._started(output) if call.childless else None
            if started is not None:
                outputs = [started]
            inputs = list(tensors_in([args, kwargs]))
            for x in outputs:
                self._place(x, inputs, call)
            self._see(call, outputs)
            return started

    def _place(self, x: Tensor, inputs: list[Tensor], call: RunningModule) -> None:
        """Give the output of a module a node, as the output of a layer that is visible outside the module."""
        if call.leaf and not self._flow.knows(x):
            self._flow.add(x, [node for t in inputs if (node := self._flow.of(t)) is not None], None)
        node = self._flow.of(x)
        if node is None:
            return
        if node.inside is call:
            node.inside = None
        if call.childless and node.index >= call.start:
            self._flow.mark_layer(node)
        for t in inputs if node.axis is None else ():
            source = self._flow.of(t)
            if source is not None and source.axis is not None and t.shape == x.shape:
                node.axis = carried_axis(t, source.axis, x)

    def _see(self, call: RunningModule, outputs: list[Tensor]) -> None:
        if call.childless:
            nodes = [self._flow.of(x) for x in outputs]
            seen = [(self.sightings.reading(x, node), node) for x, node in zip(outputs, nodes, strict=True)]
            self.sightings.add_layer(call, [(reading, node) for reading, node in seen if reading is not None])
        if outputs and call.name in self._ends:
            self._end_readings[call.name] = self.sightings.reading(outputs[0], self._flow.of(outputs[0]))
        if outputs and call.name in self._blocks:
            end = self._blocks[call.name]
            node = self._flow.of(outputs[0])
            output = self.sightings.reading(outputs[0], node)
            self.sightings.add_block(call, None if end is None else self._end_readings.get(end), output, node)

    def _started(self, output: Any) -> Tensor | None:
        """The output as the first node of a gradient graph, if it has no graph yet; else None."""
        wanted = self._start_gradients and isinstance(output, Tensor) and output.is_floating_point()
        if not wanted or output.requires_grad or under_function_transform():
            return None
        node = self._flow.of(output)
        root = output.detach().requires_grad_()
        self.roots.append(root)
        # A copy, because the next operation may work in place, which a leaf of the graph does not allow.
        with torch.enable_grad():
            started = root.clone()
        if node is not None:
            self._flow.share(started, node)
        return started
