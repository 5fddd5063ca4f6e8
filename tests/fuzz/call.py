"""A call as one line of text: everything that decides what happens, so that a find comes back wherever the line goes."""

from __future__ import annotations

import json
from typing import NamedTuple

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


def to_line(call: Call) -> str:
    """What differs from the defaults, as JSON."""
    shown = {
        name: value
        for name, value in call._asdict().items()
        if name not in Call._field_defaults or value != Call._field_defaults[name]
    }
    return json.dumps(shown, ensure_ascii=False)


def from_line(line: str) -> Call:
    """The call that `to_line` wrote."""
    fields = json.loads(line)
    fields["shape"] = tuple(fields["shape"])
    if fields.get("fault") is not None:
        fields["fault"] = Fault(*fields["fault"])
    return Call(**fields)
