"""The model under examination, with its batch size, processes and target."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import nn

from ...core.module_tree import module_tree
from ...layers.remembering import memory_of
from ...signal.diagnosis.findings import Finding, Severity, listed
from ...signal.diagnosis.sites import BATCH, NORMALIZER_CLASSES
from ..folding import norms
from ..freezing import is_frozen

TARGETS = ("onnx", "tensorrt", "openvino", "coreml", "quantization")
Named = dict[str, nn.Module]


@dataclass(frozen=True)
class Subject:
    """A model, its training (samples in the batch of a process, processes) and its target; None if unknown.

    ``diagnosed``: the rules for which a diagnosis has findings already.
    """

    model: nn.Module
    batch_size: int | None = None
    world_size: int = 1
    target: str | None = None
    diagnosed: frozenset[str] = field(default_factory=frozenset)

    @cached_property
    def modules(self) -> Named:
        """Every module by its first name."""
        return {node.name: module for module, node in module_tree(self.model).items()}

    @cached_property
    def normalizers(self) -> Named:
        return self.where(lambda m: isinstance(m, NORMALIZER_CLASSES) or norms.is_norm(m))

    @cached_property
    def remembering(self) -> Named:
        """Normalizers with running statistics whose use depends on the mode, because they are not frozen."""
        return {name: m for name, m in self.normalizers.items() if memory_of(m) is not None and not is_frozen(m)}

    @cached_property
    def over_batch(self) -> Named:
        """Normalizers that use batch statistics in training."""
        return {name: m for name, m in self.normalizers.items() if isinstance(m, BATCH) and not is_frozen(m)}

    def where(self, wanted: Callable[[Any], bool]) -> Named:
        return {name: module for name, module in self.modules.items() if wanted(module)}


def found(
    severity: Severity, rule: str, names: Iterable[str], problem: str, remedy: str, value: float | None = None
) -> Finding:
    """One finding for all the modules; ``{names}`` and ``{s}`` (the verb's ending) in ``problem`` are filled in."""
    every = [name or "the model" for name in names]
    text = problem.format(names=listed(every), s="s" if len(every) == 1 else "")
    return Finding(severity, rule, every[0], text, remedy, float(len(every)) if value is None else value)
