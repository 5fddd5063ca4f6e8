"""The tensors of a call, and the call done once: what came out, or what was raised."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from normwise.core.layout import values_in_memory
from tests import any_tensor

from .call import DTYPES, Call
from .faults import BETWEEN, changed, differs
from .subjects import SUBJECTS, Instance

#: Deviation of the data where its mean is far from zero: the values stay finite in fp16.
SPREAD = 1.5


class Scene:
    """Every tensor of a call, with its fault; the same call gives the same numbers in every process."""

    def __init__(self, call: Call) -> None:
        self.call, self.subject = call, SUBJECTS[call.subject]
        torch.manual_seed(call.seed)
        self.instance: Instance = self.subject.make(call.shape)
        self.generator = torch.Generator().manual_seed(call.seed)
        self.applied = call.fault is not None and call.fault.between
        self.x = self._given("x", self._data(call.layout, call.distance))
        self.dtype, self.shape = self.x.dtype, self.x.shape  # before anything happens to it
        self.residual = None if call.residual is None else self._given("residual", self._data(call.residual))
        self.mask = None if call.mask is None else self._given("mask", self._mask(call.mask))
        self.tensors = {name: self._tensor(name, t) for name, t in self.instance.tensors.items()}
        cotangent = self._data(call.cotangent).to("meta" if call.meta else "cpu")
        if self.dtype in DTYPES.values() and self.dtype is not cotangent.dtype:
            cotangent = cotangent.to(self.dtype).to(cotangent.dtype)  # as y rounds it
        self.cotangent = cotangent

    def everything(self) -> dict[str, Tensor]:
        """All that was handed in, by name."""
        given = {"x": self.x, "residual": self.residual, "mask": self.mask}
        return {name: t for name, t in given.items() if t is not None} | self.tensors

    def leaves(self) -> dict[str, Tensor]:
        """What gets a gradient."""
        if not self.call.graph:
            return {}
        found = {name: t for name, t in self.everything().items() if name != "mask" and t.is_leaf}
        return {name: t for name, t in found.items() if t.requires_grad}

    def _given(self, name: str, t: Tensor) -> Tensor:
        fault = self.call.fault
        if self.call.meta:
            t = t.to("meta")
        if fault is not None:
            after = changed(fault, name, t)
            self.applied = self.applied or differs(t, after)
            t = after
        floating = t.is_floating_point() or t.is_complex()
        learns = name in ("x", "residual") or name in self.instance.learned
        return t.detach().requires_grad_() if floating and learns and self.call.graph else t

    def _data(self, layout: str, distance: float = 0.0) -> Tensor:
        numbers = torch.randn(self.call.shape, generator=self.generator, dtype=torch.float64)
        return any_tensor.LAYOUTS[layout]((numbers * SPREAD + distance * SPREAD).to(DTYPES[self.call.dtype]))

    def _mask(self, share: float) -> Tensor:
        sizes = self.call.shape if self.subject.channel == -1 else (*self.call.shape[:1], *self.call.shape[2:])
        return torch.rand(sizes, generator=self.generator) < share

    def _tensor(self, name: str, t: Tensor) -> Tensor:
        if t.is_floating_point():
            t = _values(name, t.shape, self.generator).to(DTYPES[self.call.kept])
        t = self._given(name, t)
        # A layer's parameters are Parameters, if only by the kind of their object.
        if name in self.instance.learned and hasattr(self.instance, "layer") and t.layout is torch.strided:
            t = nn.Parameter(t.detach(), requires_grad=t.requires_grad)
        return t


def _values(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Within every valid range, and away from the special points 0 and 1."""
    last = name.rpartition(".")[2]
    if last in ("mean", "running_mean", "style", "segmentation"):
        return torch.randn(shape, generator=generator, dtype=torch.float64)
    low, high = (0.1, 0.9) if last == "gate" else (0.3, 1.3)
    scale = 1 / math.sqrt(max(math.prod(shape[1:]), 1)) if len(shape) > 2 else 1.0  # of a convolution
    return (torch.rand(shape, generator=generator, dtype=torch.float64) * (high - low) + low) * scale


class Outcome(NamedTuple):
    """``values``: output, gradients and what was remembered, by name; or ``error``, raised by which pass."""

    values: dict[str, Tensor]
    error: BaseException | None
    stage: str


def perform(scene: Scene) -> Outcome:
    """The call, forward and backward, with its fault in between."""
    call, instance = scene.call, scene.instance
    options = {"residual": scene.residual, "mask": scene.mask}
    options = {name: t for name, t in options.items() if name in scene.subject.takes and t is not None}
    stage, values = "forward", {}
    try:
        instance.use(scene.tensors, call.training, call.activation)
        with torch.set_grad_enabled(call.graph):
            y, remembered = instance(scene.x, **options)
        values["y"] = y.detach()
        # A fault may have released what evaluation does not read, and neither must this.
        values |= {
            name: t.detach().clone() for name, t in remembered.items() if values_in_memory(t) > 0 or t.numel() == 0
        }
        leaves = {name: leaf for name, leaf in scene.leaves().items() if y.requires_grad}
        if leaves:
            stage = "backward"
            if call.fault is not None and call.fault.between:
                BETWEEN[call.fault.change](scene.everything()[call.fault.target])
            cotangent = scene.cotangent.to(y.dtype) if scene.cotangent.shape == y.shape else torch.ones_like(y)
            found = torch.autograd.grad(y, list(leaves.values()), cotangent, allow_unused=True)
            values |= {f"{n} gradient": g for n, g in zip(leaves, found, strict=True) if g is not None}
    except BaseException as error:
        return Outcome(values, error, stage)
    return Outcome(values, None, stage)
