"""A computation on small tables as data: instructions on one array of fp64, run by a backend in a single call."""

from __future__ import annotations

from typing import NamedTuple

from .responses import Response

#: Operations on each value of the sources; `sum` adds to the target, `round` rounds to fp32.
OPERATIONS = (
    *("copy", "round", "neg", "abs", "sign", "sqrt", "rsqrt", "reciprocal", "exp"),
    *("add", "sub", "mul", "div", "pow", "lt", "le", "gt", "ge", "eq", "and", "or"),
    *("where", "sum", "amax"),
)
#: The most dimensions that a table of a formula has.
MOST_DIMENSIONS = 4


class Operand(NamedTuple):
    """A tensor in the array: the index of its first value, and the strides of its dimensions."""

    at: int
    strides: tuple[int, ...]


class Instruction(NamedTuple):
    """``target = operation(*sources)`` for every index below ``sizes``."""

    operation: str
    sizes: tuple[int, ...]
    target: Operand
    sources: tuple[Operand, ...]


class Port(NamedTuple):
    """Where a contiguous tensor is copied into or out of the array; it is fp64 if ``wide``, otherwise fp32."""

    at: int
    count: int
    wide: bool


class Program(NamedTuple):
    """Instructions and their array, which begins with ``constants``; other entries are written before they are read."""

    instructions: tuple[Instruction, ...]
    constants: tuple[float, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    size: int


class RecordedFormula(NamedTuple):
    """A formula on the moments of a tensor, and its derivative, as two programs.

    ``forward`` reads the mean, the variance, the counts where they differ, and the formula's further arguments. It
    writes the means that the kernels subtract, the tables of ``response`` (None: scale and shift of an affine map), and
    further results. ``backward`` reads the same and the gradients of those tables. It writes the gradients of the
    formula's arguments and, where the moments were measured, what flows back through them: a slope and an offset.
    """

    forward: Program
    backward: Program
    tables: int
    response: Response | None
