"""A computation on small tables as data: instructions on one array of fp64, which a backend runs in a single call."""

from __future__ import annotations

from typing import NamedTuple

from .responses import Response

#: What an instruction does with each value of its sources; `sum` adds to what is in the target, `round` is to fp32.
OPERATIONS = (
    *("copy", "round", "neg", "abs", "sign", "sqrt", "rsqrt", "reciprocal", "exp"),
    *("add", "sub", "mul", "div", "pow", "lt", "le", "gt", "ge", "eq", "and", "or"),
    *("where", "sum", "amax"),
)
#: No table of a formula has more dimensions.
MOST_DIMENSIONS = 4


class Operand(NamedTuple):
    """A tensor in the array: where its first value is, and the distances between neighbours in each dimension."""

    at: int
    strides: tuple[int, ...]


class Instruction(NamedTuple):
    """``target = operation(*sources)`` for every index below ``sizes``."""

    operation: str
    sizes: tuple[int, ...]
    target: Operand
    sources: tuple[Operand, ...]


class Port(NamedTuple):
    """Where a contiguous tensor enters or leaves the array; it is fp64 if ``wide``, otherwise fp32."""

    at: int
    count: int
    wide: bool


class Program(NamedTuple):
    """The array begins with ``constants``; whatever else it holds is written before it is read."""

    instructions: tuple[Instruction, ...]
    constants: tuple[float, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    size: int


class RecordedFormula(NamedTuple):
    """A formula on the moments of a tensor, and what differentiates it.

    ``forward`` makes of the mean, the variance, where they differ the counts, and whatever else the formula takes: what
    the kernels center on, the tables of ``response`` (None: scale and shift of an affine map), and further results.
    ``backward`` makes of the same and of the gradients of those tables: the gradients of what the formula takes, and,
    where the moments were measured, what flows back through them, slope and offset.
    """

    forward: Program
    backward: Program
    tables: int
    response: Response | None
