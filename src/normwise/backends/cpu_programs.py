"""Programs of `core.program` on the kernels of `cpu.py`."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from normwise.core.program import MOST_DIMENSIONS, OPERATIONS, Instruction, Operand, Program

from .cpu_library import call

_NUMBERS = {name: number for number, name in enumerate(OPERATIONS)}
_SOURCES = 3
_NOTHING = Operand(0, ())


def load(program: Program, dtype: torch.dtype) -> Callable[[Sequence[Tensor], Sequence[Tensor]], None]:
    """See `Programs.load`."""
    codes = _array(ctypes.c_int64, [n for instruction in program.instructions for n in _encoded(instruction)])
    constants = _array(ctypes.c_double, program.constants)
    ports = _array(ctypes.c_int64, [int(n) for port in (*program.inputs, *program.outputs) for n in port])
    sizes = (len(program.inputs), len(program.outputs))
    fixed = (codes, len(program.instructions), program.size, constants, len(program.constants), ports, *sizes)
    pointers = ctypes.c_void_p * sum(sizes)

    def run(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        call("nw_run", dtype, *fixed, pointers(*[t.data_ptr() for t in (*inputs, *outputs)]))

    return run


def _array(kind: type, values: Sequence[float]) -> ctypes.Array[ctypes.c_int64]:
    return (kind * len(values))(*values)


def _encoded(instruction: Instruction) -> list[int]:
    """The numbers of ``nw::Instruction``; the sizes and strides that are not there come first."""
    missing = MOST_DIMENSIONS - len(instruction.sizes)
    numbers = [_NUMBERS[instruction.operation], *(1,) * missing, *instruction.sizes]
    absent = (_NOTHING,) * (_SOURCES - len(instruction.sources))
    for operand in (instruction.target, *instruction.sources, *absent):
        numbers += [operand.at, *(0,) * (MOST_DIMENSIONS - len(operand.strides)), *operand.strides]
    return numbers
