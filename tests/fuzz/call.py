"""Calls as one line of text: everything that decides what happens, so that a find comes back wherever the line goes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

#: The element types by the names that the kernels have for them.
DTYPES = {"fp32": torch.float32, "fp64": torch.float64, "bf16": torch.bfloat16, "fp16": torch.float16}


class Fault(NamedTuple):
    """One thing that is wrong: ``change`` (a name in `faults.CHANGES`) of a tensor, before the call or behind it."""

    target: str
    change: str
    between: bool = False  # after the forward pass, before the backward pass


class Call(NamedTuple):
    """What is called with what. The defaults are the simplest call, towards which a find is shrunk."""

    subject: str
    shape: tuple[int, ...]
    dtype: str = "fp32"
    kept: str = "fp32"  # of the parameters and statistics
    layout: str = "contiguous"  # of x; a name in `tests.any_tensor.LAYOUTS`
    cotangent: str = "contiguous"
    residual: str | None = None  # its layout
    mask: float | None = None  # the share of what counts
    activation: str | None = None
    distance: float = 0.0  # mean over deviation
    training: bool = True
    graph: bool = True
    meta: bool = False
    warm: bool = False  # the same call without the fault came before: what it recorded must change nothing
    threads: int = 1
    seed: int = 0
    fault: Fault | None = None

    def without_fault(self) -> Call:
        return self._replace(fault=None)


def to_line(history: Sequence[Call]) -> str:
    """One call after the other, of each what differs from the defaults, as JSON."""
    return json.dumps([_shown(call) for call in history], ensure_ascii=False)


def from_line(line: str) -> list[Call]:
    """The calls that `to_line` wrote."""
    return [_call(fields) for fields in json.loads(line)]


def _shown(call: Call) -> dict[str, Any]:
    return {
        name: value
        for name, value in call._asdict().items()
        if name not in Call._field_defaults or value != Call._field_defaults[name]
    }


def _call(fields: dict[str, Any]) -> Call:
    fault = fields.get("fault")
    return Call(**fields | {"shape": tuple(fields["shape"]), "fault": fault and Fault(*fault)})
