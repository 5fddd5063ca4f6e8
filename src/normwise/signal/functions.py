"""Observe all calls of PyTorch's functions in a forward pass: the origin of tensors, and residual additions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from normwise.core.observed import is_mapped

from .axes import CHANNELS_LAST, axis_by_operation, carried_axis
from .flow import Flow, Node, Residual, branch_end
from .modules import tensors_in
from .parts import Parts
from .running_modules import RunningModules
from .sightings import Sightings
from .statistics import measurable

ADDITIONS = frozenset({"add", "add_"})
FUSED_ADDITIONS = frozenset({"addcmul", "addcmul_"})
PRODUCTS = frozenset({"mul", "mul_", "multiply", "multiply_"})
QUOTIENTS = frozenset({"div", "div_", "divide", "divide_", "true_divide", "true_divide_"})
REARRANGEMENTS = frozenset(
    {"permute", "transpose", "swapaxes", "movedim", "flatten", "unflatten", "view", "reshape", "contiguous", "clone"}
    | {"squeeze", "unsqueeze", "t", "to", "float", "half", "bfloat16", "double", "type_as", "__get__"}
)
# These functions use only the shape of their argument.
FACTORIES = re.compile(r"new_\w+$|\w+_like$")
CONVOLUTION = re.compile(r"conv(_transpose)?[123]d$")


class Functions(TorchFunctionMode):
    """Observes function calls while it is active, except under `paused`."""

    def __init__(self, flow: Flow, calls: RunningModules, sightings: Sightings) -> None:
        super().__init__()
        self._flow = flow
        self._calls = calls
        self._sightings = sightings
        self.parts = Parts()

    @staticmethod
    @contextmanager
    def paused() -> Iterator[None]:
        """Inside the block calls are ignored: they are ours, not the model's."""
        with torch._C.DisableTorchFunction():
            yield

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if is_mapped():
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        # In-place functions overwrite their operand, so it is examined before they run.
        if name in ADDITIONS or name in FUSED_ADDITIONS:
            return self._added(name, func, args, kwargs)
        if name in PRODUCTS or name in QUOTIENTS:
            return self._scaled(name, func, args, kwargs)
        out = func(*args, **kwargs)
        if name == "__setitem__":
            self._record(name, args[0], [args[0], *tensors_in(args[1:])])
            return out
        operands = [] if FACTORIES.match(name) else [*tensors_in(args), *tensors_in(kwargs)]
        for x in tensors_in(out):
            node = self._record(name, x, operands)
            if node is not None and name in REARRANGEMENTS and args and isinstance(args[0], Tensor):
                node.moved = self._flow.of(args[0])
        return out

    def _record(self, name: str, x: Tensor, operands: list[Tensor]) -> Node | None:
        """The new node of ``x``, computed from the operands; None if ``x`` is a constant or known already."""
        if self._flow.knows(x):
            return None
        return self._put(name, x, [(t, node) for t in operands if (node := self._flow.of(t)) is not None])

    def _put(self, name: str, x: Tensor, operands: list[tuple[Tensor, Node]]) -> Node | None:
        axis = axis_by_operation(name, x)
        if axis is None:
            known = [(t, node.axis) for t, node in operands if node.axis is not None]
            same = [pair for pair in known if pair[0].shape == x.shape]
            axis = next((carried_axis(t, of_t, x) for t, of_t in same or known), None)
        layer = name in CHANNELS_LAST or CONVOLUTION.match(name) is not None
        node = self._flow.add(x, [node for _, node in operands], axis, layer=layer)
        if node is not None:
            node.inside = self._calls.leaf()
            self.parts.note(name, node, x, operands)
        return node

    def _added(self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operands = self._operands(args, kwargs)
        summands = operands if name in ADDITIONS or (operands and operands[0][0] is args[0]) else []
        residual = self._residual(summands)
        if residual is not None:
            branch = next(t for t, node in summands if node is residual.branch)
            end = branch_end(residual.branch)
            self._sightings.reading(branch, residual.branch)
        out = func(*args, **kwargs)
        node = self._put(name, out, operands)
        if residual is not None and node is not None:
            output = self._sightings.reading(out, node)
            self._sightings.add_block(self._calls.current, end.reading, output, node, self.parts.of_branch(residual))
        return out

    def _operands(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[Tensor, Node]]:
        """The arguments that are not constants."""
        given = [*tensors_in(args), *tensors_in({key: value for key, value in kwargs.items() if key != "out"})]
        return [(t, node) for t in given if (node := self._flow.of(t)) is not None]

    def _residual(self, summands: list[tuple[Tensor, Node]]) -> Residual | None:
        if len(summands) != 2 or not self._calls.looks_for_additions():
            return None
        (a, of_a), (b, of_b) = summands
        if a.shape != b.shape or a.dim() < 2 or not (measurable(a) and measurable(b)):
            return None
        return self._flow.residual(of_a, of_b)

    def _scaled(self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operands = self._operands(args, kwargs)
        one = len(operands) == 1 and (name in PRODUCTS or operands[0][0] is args[0])
        if one and operands[0][1].inside is None:
            # It may be the end of a residual branch, and deleted or overwritten when that is known.
            self._sightings.reading(*operands[0])
        out = func(*args, **kwargs)
        node = self._put(name, out, operands)
        if node is not None and one and out.shape == operands[0][0].shape:
            node.scaled = operands[0][1]
        return out
