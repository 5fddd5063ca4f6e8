"""Recorded formulas and their programs on the kernels of `cpu.py`."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from normwise.core.activations import Activation
from normwise.core.moments import statistics_dtype
from normwise.core.program import MOST_DIMENSIONS, Instruction, Operand, Port, Program, RecordedFormula

from .cpu_library import OPERATION_NUMBERS, RESPONSE_NUMBERS, activation_number, call
from .cpu_tensors import dense, matched, of_bytes, room, shape_of, span
from .huge_pages import empty_like

_SOURCES = 3
_NOTHING = Operand(0, ())


class _Program(ctypes.Structure):
    """``nw::Program``."""

    _fields_ = (
        ("instructions", ctypes.c_void_p),
        ("number", ctypes.c_int64),
        ("size", ctypes.c_int64),
        ("constants", ctypes.c_void_p),
        ("constant", ctypes.c_int64),
        ("ports", ctypes.c_void_p),
        ("inputs", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
    )

    def __init__(self, program: Program) -> None:
        codes = _array(ctypes.c_int64, [n for instruction in program.instructions for n in _encoded(instruction)])
        constants = _array(ctypes.c_double, program.constants)
        ports = _array(ctypes.c_int64, [int(n) for port in (*program.inputs, *program.outputs) for n in port])
        self.arrays = (codes, constants, ports)  # references, to keep them alive as long as the program
        places = [ctypes.addressof(array) for array in self.arrays]
        sizes = (len(program.instructions), program.size, len(program.constants))
        ends = (len(program.inputs), len(program.outputs))
        super().__init__(places[0], *sizes[:2], places[1], sizes[2], places[2], *ends)


class _Formula(ctypes.Structure):
    """``nw::Formula``."""

    _fields_ = (
        ("forward", _Program),
        ("backward", _Program),
        ("tables", ctypes.c_int64),
        ("response", ctypes.c_int64),
    )


def run(program: Program, dtype: torch.dtype, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    """See `Formulas.run`."""
    call(
        "nw_run",
        dtype,
        ctypes.byref(_Program(program)),
        *_spans(inputs, program.inputs),
        *_rooms(outputs),
    )


class Prepared:
    """A recorded formula in the form of the kernels' C structures."""

    def __init__(self, recorded: RecordedFormula) -> None:
        programs = _Program(recorded.forward), _Program(recorded.backward)
        number = -1 if recorded.response is None else RESPONSE_NUMBERS[recorded.response.name]
        self.kept = programs
        self.formula = ctypes.byref(_Formula(*programs, recorded.tables, number))
        self.tables = 1 + recorded.tables
        self.entering = recorded.forward.inputs


def prepare(recorded: RecordedFormula) -> Prepared:
    """See `Formulas.prepare`."""
    return Prepared(recorded)


def normalize(
    formula: Prepared,
    x: Tensor,
    residual: Tensor | None,
    activation: Activation | None,
    mask: Tensor | None,
    entering: Sequence[Tensor],
    leaving: Sequence[Tensor],
    measured: bool,
) -> tuple[Tensor, Tensor]:
    """See `Formulas.normalize`."""
    x, last = dense(x)
    residual = matched(x, residual)
    mask = of_bytes(mask)
    y = empty_like(x)
    tables = torch.empty(formula.tables, *x.shape[:2], dtype=statistics_dtype(x.dtype), device=x.device)
    call(
        "nw_normalize",
        x.dtype,
        *shape_of(x, last),
        formula.formula,
        measured,
        *_spans(entering, formula.entering),
        *_rooms(leaving),
        *span(x),
        *span(residual),
        *span(mask),
        activation_number(activation),
        *room(y),
        *room(tables),
    )
    return y, tables


def normalize_backward(
    formula: Prepared,
    grad_y: Tensor,
    x: Tensor,
    residual: Tensor | None,
    activation: Activation | None,
    mask: Tensor | None,
    entering: Sequence[Tensor],
    leaving: Sequence[Tensor],
    tables: Tensor,
    measured: bool,
    values: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """See `Formulas.normalize_backward`."""
    x, last = dense(x)
    grad_y, residual = matched(x, grad_y), matched(x, residual)
    mask = of_bytes(mask)
    grad_x = empty_like(x) if values else None
    grad_residual = empty_like(x) if values and residual is not None else None
    call(
        "nw_normalize_backward",
        x.dtype,
        *shape_of(x, last),
        formula.formula,
        measured,
        *_spans(entering, formula.entering),
        *_rooms(leaving),
        *span(grad_y),
        *span(x),
        *span(residual),
        *span(mask),
        activation_number(activation),
        *span(tables),
        *room(grad_x),
        *room(grad_residual),
    )
    return grad_x, grad_residual


def _spans(tensors: Sequence[Tensor], ports: Sequence[Port]) -> tuple[Any, int]:
    """An array of ``nw::Span`` and its length, after a check that each tensor has its port's dtype."""
    if len(tensors) != len(ports):
        raise ValueError(f"The formula's program takes {len(ports)} tensors, received {len(tensors)}.")
    numbers: list[Any] = []
    for t, port in zip(tensors, ports, strict=True):
        if t.dtype is not (torch.float64 if port.wide else torch.float32):
            raise ValueError(
                f"A formula's input of shape {list(t.shape)} must keep the dtype with which the formula was recorded, "
                f"received {t.dtype}; do not assign to its .data between forward and backward."
            )
        numbers += span(t)
    return _array(ctypes.c_int64, numbers), len(numbers) // 2


def _rooms(tensors: Sequence[Tensor]) -> tuple[Any, int]:
    """As `_spans`, for tensors that were allocated for the call."""
    return _array(ctypes.c_int64, [number for t in tensors for number in room(t)]), len(tensors)  # type: ignore[arg-type]


def _array(array_of: Callable[..., Any], values: Sequence[float]) -> Any:
    return (array_of * len(values))(*values)  # type: ignore[operator]


def _encoded(instruction: Instruction) -> list[int]:
    """The numbers of ``nw::Instruction``; missing sizes and strides are filled in at the front."""
    missing = MOST_DIMENSIONS - len(instruction.sizes)
    numbers = [OPERATION_NUMBERS[instruction.operation], *(1,) * missing, *instruction.sizes]
    absent = (_NOTHING,) * (_SOURCES - len(instruction.sources))
    for operand in (instruction.target, *instruction.sources, *absent):
        numbers += [operand.at, *(0,) * (MOST_DIMENSIONS - len(operand.strides)), *operand.strides]
    return numbers
