"""Update an optimizer when parameters are replaced by new ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Move:
    """Replace parameters in an optimizer's groups, including their state; `undo` restores the old ones.

    ``pairs`` are the old and the new layer of each place. A parameter is replaced by the one of the same name, with a
    copy of its state. A parameter that the new layer lacks is removed; one that only the new layer has is added to the
    group of its layer.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, pairs: Iterable[tuple[nn.Module, nn.Module]]) -> None:
        self._optimizer = optimizer
        self._old = {id(p): p for group in optimizer.param_groups for p in group["params"]}
        self._state = {id(p): optimizer.state[p] for p in self._old.values() if p in optimizer.state}
        successors = _successors(pairs)
        self._new = {id(new): id(old) for old, new in successors if new is not None}
        follows: dict[int, list[Tensor]] = {}
        for old, new in successors:
            follows.setdefault(id(old), []).extend([] if new is None else [new])
        self._before = [list(group["params"]) for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["params"] = _unique(q for p in group["params"] for q in follows.get(id(p), [p]))
        for old, new in successors:
            state = optimizer.state.pop(old, None)
            state = self._state.get(id(old)) if state is None else state
            if state is not None and new is not None and old.shape == new.shape and id(new) not in self._old:
                optimizer.state[new] = {key: _copied(value) for key, value in state.items()}

    def undo(self) -> None:
        """Restore the old parameters and their state in their groups; groups that were added since are kept."""
        for group, before in zip(self._optimizer.param_groups, self._before, strict=False):
            known = {id(p) for p in before} | self._new.keys()
            group["params"] = [*before, *(p for p in group["params"] if id(p) not in known)]
        for p in [p for p in self._optimizer.state if id(p) in self._new]:
            del self._optimizer.state[p]
        for key, state in self._state.items():
            self._optimizer.state[self._old[key]] = state


def _successors(pairs: Iterable[tuple[nn.Module, nn.Module]]) -> list[tuple[Tensor, Tensor | None]]:
    """Each old parameter with the new one of its name; new names are paired with the first parameter of the layer."""
    found: list[tuple[Tensor, Tensor | None]] = []
    for old, new in pairs:
        theirs = dict(old.named_parameters(recurse=False))
        ours = dict(new.named_parameters())
        by_name = {name.rpartition(".")[2]: p for name, p in ours.items()}
        found += [(p, by_name.get(name)) for name, p in theirs.items()]
        anchor = next(iter(theirs.values()), None)
        if anchor is not None:
            found += [(anchor, p) for name, p in by_name.items() if name not in theirs]
    return found


def _unique(tensors: Iterable[Tensor]) -> list[Tensor]:
    return list({id(t): t for t in tensors}.values())


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
