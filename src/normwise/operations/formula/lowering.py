"""From a recording to a program: each tensor gets a place in one array, each operation becomes an instruction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from normwise.core.program import MOST_DIMENSIONS, Instruction, Operand, Port, Program

from .recording import OperatorCall, aten


class NotRecordableError(Exception):
    """A computation has an operation for which there is no instruction."""


class _Place(NamedTuple):
    """A tensor in a storage; storages are numbered."""

    storage: int
    at: int
    strides: tuple[int, ...]


class _Step(NamedTuple):
    """An instruction whose storages have no place in the array yet."""

    operation: str
    sizes: tuple[int, ...]
    target: _Place
    sources: tuple[_Place, ...]


_ELEMENTWISE = {
    **dict.fromkeys((aten.clone.default, aten.copy_.default, aten._to_copy.default), "copy"),
    **{getattr(aten, name).default: name for name in ("neg", "abs", "sqrt", "rsqrt", "reciprocal", "exp")},
    **dict.fromkeys((aten.sgn.default, aten.sign.default), "sign"),
    **{getattr(aten, name).Tensor: name for name in ("add", "sub", "mul", "div", "lt", "le", "gt", "ge", "eq")},
    **{getattr(aten, name).Scalar: name for name in ("add", "sub", "mul", "div", "lt", "le", "gt", "ge", "eq")},
    **{getattr(aten, name + "_").Tensor: name for name in ("add", "sub", "mul", "div")},
    **dict.fromkeys((aten.logical_and.default, aten.logical_and_.default, aten.bitwise_and.Tensor), "and"),
    **dict.fromkeys((aten.logical_or.default, aten.logical_or_.default, aten.bitwise_or.Tensor), "or"),
    aten.pow.Tensor_Tensor: "pow",
    aten.where.self: "where",
}
_REDUCTIONS = {aten.sum.default: "sum", aten.sum.dim_IntList: "sum", aten.amax.default: "amax"}
#: Operations that fill a new tensor: with this number, or with the argument of this index.
_FILLED = {
    **{getattr(aten, name).default: 0.0 for name in ("zeros", "zeros_like", "new_zeros")},
    **{getattr(aten, name).default: 1.0 for name in ("ones", "ones_like", "new_ones")},
}
_FILLED_WITH = {
    aten.scalar_tensor.default: 0,
    aten.full.default: 1,
    aten.full_like.default: 1,
    aten.new_full.default: 2,
}
_EMPTY = {aten.empty.memory_format, aten.empty_like.default, aten.new_empty.default}


class Lowering:
    """Recorded calls as steps on storages, from which programs are made.

    ``enter`` and ``take`` raise NotRecordableError for tensors and calls that they cannot represent.
    """

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        self.sizes: list[int] = []  # of the storages, in values
        self.numbers: dict[int, int] = {}
        self.constants: dict[float, int] = {}
        self.steps: list[_Step] = []
        self.enter(inputs)

    def enter(self, inputs: Sequence[Tensor]) -> None:
        """Add tensors that exist before the calls that are passed to `take` next."""
        for t in inputs:
            self._enter(t)

    def take(self, calls: Sequence[OperatorCall]) -> None:
        """Add steps for operations on the array."""
        for call in calls:
            operation, result = call.operation, call.result
            if operation in _ELEMENTWISE:
                self._elementwise(call)
            elif operation in _REDUCTIONS:
                self._reduction(_REDUCTIONS[operation], result, *call.arguments)
            elif operation in _FILLED:
                self._fill(result, _FILLED[operation])
            elif operation in _FILLED_WITH:
                self._fill(result, call.arguments[_FILLED_WITH[operation]])
            elif operation in _EMPTY:
                self._enter(result)
            elif not self._is_view(call):
                raise NotRecordableError(str(operation))

    def program(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Program:
        """The program that computes ``outputs`` from ``inputs``, contiguous fp32 or fp64 tensors, as the calls did."""
        numbers = [self._copied(t) for t in outputs]
        steps = self._needed(numbers)
        entering = [self._place(t).storage for t in inputs]
        starts, size = self._starts(steps, entering, numbers)

        def operand(place: _Place) -> Operand:
            return Operand(starts[place.storage] + place.at, place.strides)

        instructions = (
            Instruction(s.operation, s.sizes, operand(s.target), tuple(map(operand, s.sources))) for s in steps
        )
        entrances = (Port(starts[number], t.numel(), _wide(t)) for number, t in zip(entering, inputs, strict=True))
        exits = (Port(starts[number], t.numel(), _wide(t)) for number, t in zip(numbers, outputs, strict=True))
        return Program(tuple(instructions), tuple(self.constants), tuple(entrances), tuple(exits), size)

    def _copied(self, t: Tensor) -> int:
        """The storage of a contiguous copy of ``t``."""
        self.sizes.append(t.numel())
        target = _Place(len(self.sizes) - 1, 0, torch.empty(t.shape, device="meta").stride())
        self._emit("copy", t.shape, target, self._place(t))
        return target.storage

    def _fill(self, result: Tensor, value: float) -> None:
        self._enter(result)
        self._emit("copy", result.shape, self._place(result), self._constant(float(value)))

    def _elementwise(self, call: OperatorCall) -> None:
        """Add a step for an operation on each value of its arguments."""
        operation, sources, result = call.operation, call.arguments, call.result
        if result.dtype not in (torch.float64, torch.float32, torch.bool) or call.options.get("alpha", 1) != 1:
            raise NotRecordableError(f"{operation} with {call.options} gives {result.dtype}")
        name = _ELEMENTWISE[operation]
        if operation is aten.copy_.default:
            sources = sources[1:2]
        elif not operation._schema.is_mutable:
            self._enter(result)
        if name == "copy" and (result.dtype, sources[0].dtype) == (torch.float32, torch.float64):
            name = "round"
        self._emit(name, result.shape, self._place(result), *(self._spread(s, result.shape) for s in sources))

    def _reduction(self, name: str, result: Tensor, x: Tensor, dims: Any = None, _keepdim: bool = False) -> None:
        """Add a step for a sum over dimensions."""
        along = {d % x.dim() for d in dims} if dims else set(range(x.dim()))
        self._enter(result)
        kept = [d for d in range(x.dim()) if d not in along]
        target, source = self._place(result), self._place(x)
        strides = iter(target.strides if result.dim() < x.dim() else [target.strides[d] for d in kept])
        spread = target._replace(strides=tuple(0 if d in along else next(strides) for d in range(x.dim())))
        start = self._constant(0.0)
        if name == "amax":
            start = source._replace(strides=tuple(0 if d in along else n for d, n in enumerate(source.strides)))
        self._emit("copy", x.shape, spread, start)
        self._emit(name, x.shape, spread, source)

    def _is_view(self, call: OperatorCall) -> bool:
        found = call.result if isinstance(call.result, (tuple, list)) else [call.result]
        known = all(isinstance(t, Tensor) and _key(t) in self.numbers for t in found)
        return known and not call.operation._schema.is_mutable

    def _enter(self, t: Tensor) -> None:
        self.numbers[_key(t)] = len(self.sizes)
        self.sizes.append(t.untyped_storage().nbytes() // t.element_size())

    def _place(self, t: Tensor) -> _Place:
        if _key(t) not in self.numbers:
            raise NotRecordableError(f"a tensor of shape {tuple(t.shape)} that was there before")
        return _Place(self.numbers[_key(t)], int(t.storage_offset()), t.stride())

    def _spread(self, source: Any, shape: torch.Size) -> _Place:
        if isinstance(source, Tensor):
            place = self._place(source)
            return place if source.shape == shape else place._replace(strides=source.expand(shape).stride())
        if isinstance(source, (int, float)):
            return self._constant(float(source))
        raise NotRecordableError(f"an argument of type {type(source).__name__}")

    def _constant(self, value: float) -> _Place:
        if value not in self.constants:
            self.constants[value] = len(self.sizes)
            self.sizes.append(1)
        return _Place(self.constants[value], 0, ())

    def _emit(self, operation: str, shape: Sequence[int], target: _Place, *sources: _Place) -> None:
        places = [p if p.strides else p._replace(strides=(0,) * len(shape)) for p in (target, *sources)]
        sizes, strides = _collapsed(shape, [p.strides for p in places])
        first, *others = (p._replace(strides=s) for p, s in zip(places, strides, strict=True))
        self.steps.append(_Step(operation, sizes, first, tuple(others)))

    def _needed(self, outputs: Sequence[int]) -> list[_Step]:
        """The steps that some output depends on."""
        needed, steps = set(outputs), []
        for step in reversed(self.steps):
            if step.target.storage in needed:
                needed.update(source.storage for source in step.sources)
                steps.append(step)
        return steps[::-1]

    def _starts(self, steps: list[_Step], inputs: Sequence[int], outputs: Sequence[int]) -> tuple[dict[int, int], int]:
        """Where each storage begins, and the array's size; the place of a storage is reused after its last use."""
        starts = {number: place for place, number in enumerate(self.constants.values())}
        last = {p.storage: i for i, step in enumerate(steps) for p in (step.target, *step.sources)}
        staying = {*starts, *outputs}
        free: dict[int, list[int]] = defaultdict(list)
        size = len(starts)
        for number in inputs:
            starts[number], size = size, size + self.sizes[number]
        for i, step in enumerate(steps):
            number = step.target.storage
            if number not in starts:
                wanted = self.sizes[number]
                if free[wanted]:
                    starts[number] = free[wanted].pop()
                else:
                    starts[number], size = size, size + wanted
            for number in {p.storage for p in (step.target, *step.sources)} - staying:
                if last[number] == i:
                    free[self.sizes[number]].append(starts[number])
        return starts, size


def _key(t: Tensor) -> int:
    return t.untyped_storage()._cdata


def _wide(t: Tensor) -> bool:
    return t.dtype is torch.float64


def _collapsed(
    shape: Sequence[int], strides: Sequence[tuple[int, ...]]
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """The same loop with as few dimensions as possible: the kernels are fast on long lines."""
    kept: list[list[int]] = []  # for each dimension: its size, then its stride in every tensor
    for size, *steps in zip(shape, *strides, strict=True):
        if size == 1:
            continue
        if kept and all(outer == inner * size for outer, inner in zip(kept[-1][1:], steps, strict=True)):
            kept[-1] = [kept[-1][0] * size, *steps]
        else:
            kept.append([size, *steps])
    if len(kept) > MOST_DIMENSIONS:
        raise NotRecordableError(f"{len(kept)} dimensions")
    columns = list(zip(*kept, strict=True)) if kept else [()] * (1 + len(strides))
    return columns[0], list(columns[1:])
