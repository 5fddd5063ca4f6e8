"""The state before each training pass, for activation checkpointing, which runs the pass again after an update."""

from __future__ import annotations

import secrets
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from normwise.core.lasting import fake_or_recorded, lasting
from normwise.core.layout import check_memory
from normwise.core.moments import Moments
from normwise.core.operators import LIBRARY, OPERATORS
from normwise.core.recomputing import recomputing
from normwise.core.running import RunningStatistics
from normwise.core.transforms import under_function_transform

#: How many forward passes are remembered, in case they are run again.
MOST = 256
#: The largest distance from its kept moments, in standard deviations and relative variance, at which a pass is found.
SLACK = 1e-4

LIBRARY.define(
    "before(Tensor mean, Tensor var, Tensor running_mean, Tensor running_var, Tensor batches, Tensor memory) "
    "-> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag, torch.Tag.cudagraph_unsafe),
)


class Before(NamedTuple):
    """Running statistics, ``[1, C]``, and the number of the step, at the start of a forward pass."""

    mean: Tensor
    var: Tensor
    step: Tensor

    @classmethod
    def now(cls, running: RunningStatistics) -> Before:
        """The present ones, copied, so that later updates do not change them."""
        known = running.moments()
        assert running.batches is not None
        check_memory(running.batches)
        return cls(known.mean, known.var, running.batches.to(known.mean.dtype, copy=True))


class _Pass:
    """A forward pass: the moments of its batch, by which it is recognized, and the statistics it started with."""

    def __init__(self, mean: Tensor, var: Tensor, before: Before) -> None:
        self.mean, self.var, self.before = mean, var, before
        self.was_found = False


class Passes:
    """The last `MOST` passes of a layer. Copies of the layer, and loaded layers, start without any."""

    def __init__(self) -> None:
        self._kept: list[_Pass] = []
        self._has_forgotten = False  # whether a pass was dropped that was never found again
        number = secrets.randbits(62)
        _of_layers[number] = self
        #: The key of this object in a graph: a tensor, since the same graph may serve other layers.
        with lasting():
            self.key = torch.tensor(number, device="cpu")

    def keep(self, batch: Moments, before: Before) -> None:
        """Keep a first pass; at the limit the oldest is dropped, beginning with those that were found again."""
        if all(one.was_found for one in self._kept):
            self._has_forgotten = False
        self._append(_Pass(batch.mean, batch.var, before))

    def _append(self, one: _Pass) -> None:
        if len(self._kept) == MOST:
            oldest = next((kept for kept in self._kept if kept.was_found), self._kept[0])
            self._has_forgotten |= not oldest.was_found
            self._kept.remove(oldest)
        self._kept.append(one)

    def find(self, batch: Moments, *, nested: bool) -> Before:
        """The start of the pass over this batch: the one with the same moments, the latest that was not found yet.

        Backward passes come in the reverse order; a ``nested`` pass will be run once more. Raises RuntimeError for a
        pass that is not kept.
        """
        alike = [one for one in self._kept if one.mean.shape == batch.mean.shape]
        if not alike:
            raise RuntimeError(_NOT_KEPT)
        far = torch.stack([_distance(one, batch) for one in alike])
        nearest = far.min().nan_to_num().item()
        same = [one for one, d in zip(alike, far.nan_to_num().tolist(), strict=True) if d <= nearest]
        found = next((one for one in reversed(same) if not one.was_found), same[-1])
        if self._has_forgotten and (nearest > SLACK or found.was_found):
            raise RuntimeError(_NOT_KEPT)
        found.was_found = True
        if nested:
            self._append(_Pass(found.mean, found.var, found.before))
        return found.before

    def __reduce__(self) -> Any:
        return Passes, ()


_NOT_KEPT = (
    "BatchRenorm: a forward pass is run again whose first run is not known any more; it would be corrected towards "
    f"other running statistics than at first. The last {MOST} passes are known that ran without a graph, in a "
    "checkpoint or compiled: run backward() after fewer of them, or leave this layer out of the checkpoint."
)
_of_layers: WeakValueDictionary[int, Passes] = WeakValueDictionary()
#: For exported graphs whose layer does not exist in this process.
_of_graphs: dict[int, Passes] = {}


def is_to_be_kept() -> bool:
    """Whether this pass may be run again: in a checkpoint there is no graph, or hooks take the saved tensors."""
    if torch.compiler.is_compiling() or under_function_transform() or fake_or_recorded():
        return False  # graphs decide for themselves, and tensors under a transform do not last
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)  # pyright: ignore[reportAttributeAccessIssue]
    waits = hooks is not None and "recomputation" not in getattr(hooks[0], "__qualname__", "")
    return waits or not torch.is_grad_enabled()


def before_in_graph(batch: Moments, running: RunningStatistics, passes: Passes) -> Before:
    """The start of this pass, or of its first run where it is run again; decided at each run of the graph."""
    mean, var = (t.detach() for t in (batch.mean, batch.var))
    return Before(*OPERATORS.before(mean, var, running.mean, running.var, running.batches, passes.key))


def _before(
    mean: Tensor, var: Tensor, running_mean: Tensor, running_var: Tensor, batches: Tensor, memory: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    number = int(memory)
    passes = _of_layers.get(number) or _of_graphs.get(number)
    if passes is None:
        passes = _of_graphs[number] = Passes()
    batch = Moments(mean.clone(), var.clone(), 1)
    if recomputing():
        return tuple(t.clone() for t in passes.find(batch, nested=False))  # type: ignore[return-value]
    before = Before.now(RunningStatistics(running_mean, running_var, batches, None))
    passes.keep(batch, before)
    return tuple(t.clone() for t in before)  # type: ignore[return-value]


def _fake(mean: Tensor, var: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(mean), torch.empty_like(var), mean.new_empty(())


def _of_many(
    info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """One after the other: each sample is a pass of its own."""
    rows = [
        OPERATORS.before(*(t if dim is None else t.select(dim, i) for t, dim in zip(tensors, in_dims, strict=True)))
        for i in range(info.batch_size)
    ]
    return tuple(torch.stack(column) for column in zip(*rows, strict=True)), (0, 0, 0)


def _distance(one: _Pass, batch: Moments) -> Tensor:
    var = one.var.clamp_min(torch.finfo(one.var.dtype).tiny)
    away = (batch.mean - one.mean).abs() / var.sqrt() + (batch.var - one.var).abs() / var
    return away.max()


LIBRARY.impl("before", _before, "CompositeExplicitAutograd")
torch.library.register_fake(f"{LIBRARY.ns}::before", _fake, lib=LIBRARY)
torch.library.register_vmap(f"{LIBRARY.ns}::before", _of_many, lib=LIBRARY)
