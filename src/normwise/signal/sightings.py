"""The readings of one forward pass, each with its place, in the order of execution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .axes import default_axis
from .flow import Node
from .modules import type_name
from .parts import Part, Parts
from .readings import Reading
from .records import Kind
from .running_modules import RunningModule
from .statistics import measurable


class Sighting(NamedTuple):
    """A reading and its place. `node` is the activation's node, from which the end of the pass derives the decoder."""

    kind: Kind
    name: str
    type_name: str
    reading: Reading
    node: Node | None
    part: Part = ""


class Sightings(list[Sighting]):
    """The list of sightings, which also does the measurements: each activation once, even if it has several places."""

    def __init__(self, *, heard: Callable[[], None] | None, histograms: bool) -> None:
        super().__init__()
        self._heard = heard
        self._histograms = histograms
        self._times: Counter[tuple[Kind, str]] = Counter()

    def reading(self, x: Tensor, node: Node | None) -> Reading | None:
        """The reading of ``x``; None if it cannot be measured."""
        reading = None if node is None else node.reading
        if reading is None:
            if not measurable(x):
                return None
            axis = default_axis(x) if node is None or node.axis is None else node.axis
            reading = Reading(x, axis, histogram=self._histograms)
            if node is not None:
                node.reading = reading
        # Inside an autograd function its output has no graph yet; it is measured again as the output of its module.
        if self._heard is not None and not reading.listens and x.requires_grad and torch.is_grad_enabled():
            reading.listen(x, self._heard)
        return reading

    def add_layer(self, call: RunningModule, readings: list[tuple[Reading, Node | None]]) -> None:
        """The outputs of a module, of which the second and later ones are numbered."""
        name = self._numbered("layer", call.name)
        for i, (reading, node) in enumerate(readings):
            self.append(Sighting("layer", f"{name}[{i}]" if i else name, type_name(call.module), reading, node))

    def add_block(
        self, call: RunningModule, end: Reading | None, output: Reading | None, node: Node | None, part: Part = ""
    ) -> None:
        """A residual addition and the end of its branch, which is of this part."""
        name = self._numbered("block", call.name)
        if end is not None:
            self.append(Sighting("branch", name, type_name(call.module), end, node, part))
        if output is not None:
            self.append(Sighting("block", name, type_name(call.module), output, node, part))

    def name_decoder(self, parts: Parts) -> None:
        """Name the part "decoder" of sightings without another part; call it at the end of the pass."""
        for i, sighting in enumerate(self):
            part = sighting.part or ("decoder" if parts.in_decoder(sighting.node) else "")
            self[i] = sighting._replace(part=part, node=None)

    def _numbered(self, kind: Kind, name: str) -> str:
        self._times[kind, name] += 1
        times = self._times[kind, name]
        return name if times == 1 else f"{name}#{times}"
