"""The stack of running modules."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn


class RunningModule:
    """A running module. `leaf`: it has no modules inside. `childless`: it has called none so far."""

    __slots__ = ("childless", "leaf", "module", "name", "start")

    def __init__(self, module: nn.Module, name: str, start: int) -> None:
        self.module = module
        self.name = name
        self.start = start
        self.leaf = all(child == "parametrizations" for child, _ in module.named_children())
        self.childless = True


class RunningModules:
    """The stack of running modules; inside those of ``blocks`` additions are ignored."""

    def __init__(self, blocks: Mapping[str, str | None]) -> None:
        self._blocks = blocks
        self._stack: list[RunningModule] = []

    @property
    def current(self) -> RunningModule:
        return self._stack[-1]

    def leaf(self) -> RunningModule | None:
        return self._stack[-1] if self._stack and self._stack[-1].leaf else None

    def looks_for_additions(self) -> bool:
        return bool(self._stack) and self._stack[-1].name not in self._blocks

    def enter(self, call: RunningModule) -> bool:
        """Push a call; returns whether it is the outermost."""
        if self._stack:
            self._stack[-1].childless = False
        self._stack.append(call)
        return len(self._stack) == 1

    def leave(self, module: nn.Module) -> RunningModule | None:
        """Pop the call of a module; None if its beginning was not observed."""
        if not self._stack or self._stack[-1].module is not module:
            return None
        return self._stack.pop()
