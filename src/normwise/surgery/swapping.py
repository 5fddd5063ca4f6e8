"""`swap`: replace the normalizers of a trained model."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from ..core.model_change import ModelChange
from ..core.numbers import check_number
from ..layers import Norm
from ..signal.batches import Forward
from .candidates import chosen_normalizers, follow, ranks_for, row_of, successors_for
from .distillation import Distilled, distill
from .drifting import Example, local_drifts
from .given import Where, check_model
from .optimizers import Move
from .successors import Maker, why_kept
from .swapped import SwappedLayer, SwapReport
from .transition import Transition

STARTS = ("copy", "data-free", "exact")
_NAME = "swap"


def swap(
    model: nn.Module,
    norm: Norm,
    where: Where | None = None,
    groups: int | str = "auto",
    start: str = "exact",
    optimizer: torch.optim.Optimizer | None = None,
    *,
    channels_per_group: int | None = None,
    example_inputs: Any = None,
) -> Swap:
    r"""Replace each BatchNorm, InstanceNorm and GroupNorm of a model by another normalizer.

    It finds the layers of torch, timm, torchvision and this package. A subclass with its own forward is kept, with the
    reason in the report. Hooks, modes, device, dtype, ``requires_grad``, eps, momentum, a missing γ or β, shared layers
    and tied parameters are preserved; the report lists exceptions.

    Args:
        norm: a name of `NORMALIZERS` (``"group"``, ``"group:8"``, ``"layer"``, ``"none"``), a class, or a factory that
            is called with the channels.
        where: a predicate ``(name, module)``, or names or globs; a name includes everything below it.
        groups: for "group" and "evo-s0". ``"auto"`` is the divisor of the channels nearest to 32 with at least 8
            channels in a group, and 1 if there is none.
        channels_per_group: instead of ``groups``.
        start: ``"copy"`` copies γ and β. ``"data-free"`` computes them from the running statistics, so that an average
            sample is normalized as before; for a normalizer with unknown pools it copies, and the report says so.
            ``"exact"`` inserts a `Transition`, which computes the old function at ``t = 0`` and the new normalizer
            from its data-free start at ``t = 1``: `Swap.advance`, `Swap.distill`, `Swap.finish`.
        optimizer: its groups and state are moved to the new parameters, and back in `Swap.undo`. An optimizer that is
            not passed still has the old parameters: create a new one.
        example_inputs: a batch (a tuple is the positional arguments) on which the report measures the drift.

    Raises TypeError and ValueError, with the model unchanged, for models that are wrapped, scripted, compiled,
    quantized or without values, for a model within another swap, a ``where`` that matches nothing, unknown norms, and
    groups that do not fit.

    The trap: normalizing by the statistics of a sample is a different function than by running statistics. Computed γ
    and β are a good start for shallow nets only, as measured on a MobileNetV2 of 52 layers in docs/swap.md. Only at
    ``t = 0`` does a net keep what it has learned; from there it has to be trained.

    >>> model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), nn.ReLU())
    >>> x = torch.randn(2, 3, 4, 4)
    >>> before = model.eval()(x)
    >>> change = swap(model, "group", example_inputs=x)
    >>> torch.equal(model.train()(x), before), change.rows[0].new
    (True, 'GroupNorm(2, 16)')
    >>> change.advance(1.0)
    >>> change.finish()[1].num_groups, type(change.undo()[1]).__name__
    (2, 'BatchNorm2d')
    """
    if start not in STARTS:
        raise ValueError(f"{_NAME}: start must be {', '.join(map(repr, STARTS))}, received {start!r}.")
    maker = Maker(norm, groups, channels_per_group, start)
    check_model(model, _NAME)
    chosen = chosen_normalizers(model, where)
    kept = {layer: why_kept(layer) for layer in chosen}
    swapped = {layer: node for layer, node in chosen.items() if kept[layer] is None}
    ranks = ranks_for(model, list(swapped), example_inputs)
    successors = successors_for(maker, swapped, ranks)
    new = {old: made.layer for old, made in successors.items()}
    example, drifts = None, {}
    if example_inputs is not None:
        example, drifts = Example(model, example_inputs, _NAME), local_drifts(model, new, example_inputs)
    rows = [row_of(node, kept[layer], successors.get(layer), drifts.get(layer)) for layer, node in chosen.items()]
    return Swap(model, new, rows, maker.rule, start, optimizer, example)


class Swap:
    """A swap that was made, with methods to continue and to undo it. ``model`` is the model; a new object if the model
    itself was a normalizer. ``rows`` are `SwappedLayer`; ``rule`` is the rule by which groups were chosen."""

    def __init__(
        self,
        model: nn.Module,
        successors: dict[nn.Module, nn.Module],
        rows: list[SwappedLayer],
        rule: str | None,
        start: str,
        optimizer: torch.optim.Optimizer | None,
        example: Example | None,
    ) -> None:
        self.rows, self.rule = tuple(rows), rule
        self._example, self._successors, self._undone = example, successors, False
        self._teacher: nn.Module | None = None
        self._move: Move | None = None
        self._flags = {p: p.requires_grad for old in successors for p in old.parameters(recurse=False)}
        self._transitions: list[Transition] = []
        modes = {old: old.training for old in successors}
        try:
            with ModelChange(model, _NAME) as self._change:
                for old, new in successors.items():
                    self._put(old, new, exact=start == "exact")
                if any(isinstance(new, nn.Identity) for new in successors.values()):
                    self._keep_inputs(model)
                if optimizer is not None:
                    self._move = Move(optimizer, successors.items())
        except BaseException:
            _set_modes(modes)
            raise
        for p in self._flags if start == "exact" else ():
            p.requires_grad_(False)
        self._versions = {p: p._version for p in self.model.parameters()}

    def _put(self, old: nn.Module, new: nn.Module, *, exact: bool) -> None:
        mode, layer = old.training, new
        if exact:
            layer = Transition(old, new)
            self._transitions.append(layer)
        self._change.replace(old, layer)
        layer.train(mode)

    def _keep_inputs(self, model: nn.Module) -> None:
        """Make in-place activations ordinary: without a normalizer in front they would overwrite a shortcut's input."""
        for module in model.modules():
            if getattr(module, "inplace", None) is True:
                self._change.set(module, "inplace", False)

    def __repr__(self) -> str:
        return f"Swap({type(self.model).__name__}, t={self.t:g})"

    def __str__(self) -> str:
        return str(self.report())

    @property
    def model(self) -> nn.Module:
        return self._change.model

    @property
    def t(self) -> float:
        """The state of the transition, from 0 (old) to 1 (new)."""
        return self._transitions[0].t if self._transitions else 1.0

    def advance(self, t: float) -> None:
        """Set every layer to ``(1 - t)`` of the old normalizer and ``t`` of the new one."""
        self._check_open("advance")
        check_number("Swap.advance", "t", t, 0.0, 1.0)
        for transition in self._transitions:
            transition.t = float(t)

    def distill(
        self,
        loader: Any,
        steps: int,
        lr: float = 1e-3,
        *,
        forward: Forward | None = None,
        teacher: nn.Module | None = None,
    ) -> Distilled:
        """Train the model towards the outputs of the old one on unlabelled batches, from ``t`` to 1.

        ``t`` grows linearly over the first three quarters of the steps. All parameters that require a gradient are
        trained (Adam, ``lr`` falling to 0); only the new layers are in training mode. The loader is repeated as often
        as needed; batches and ``forward`` are as in `recalibrate`. ``teacher`` is by default the model at the time of
        the swap.

        Raises the errors of loader and model, and ValueError for a loss that is not finite and an iterator that is too
        short, with the parameters as before; ValueError if the parameters were trained since the swap and no teacher is
        given.
        """
        self._check_open("distill")
        if teacher is None:
            teacher = self._teacher = self._teacher or self._old_model()
        return distill(self.model, teacher, self._transitions, loader, forward, steps, lr)

    def finish(self) -> nn.Module:
        """Remove the old layers, keep the new ones, and return the model.

        Raises ValueError before ``t = 1``, because this would change the output of the model.
        """
        if self._undone:
            raise ValueError("Swap.finish: the swap was undone.")
        if self.t != 1:
            raise ValueError(
                f"Swap.finish: the transition is at t = {self.t:g}, and removing the old layers would change the "
                "output of the model; call advance(1.0) first."
            )
        for transition in self._transitions:
            new, flags = transition.after, [p.requires_grad for p in transition.after.parameters()]
            self._change.remove(transition, "after")
            self._change.replace(transition, new)
            for p, flag in zip(new.parameters(), flags, strict=True):
                p.requires_grad_(flag)
        self._transitions, self._teacher = [], None
        return self.model

    def undo(self) -> nn.Module:
        """Restore the old layers and return the model; changes of other parameters by training are kept.

        Raises ValueError, and changes nothing, if another module has been put into a place, or after an earlier undo.
        """
        modes = {old: new.training for old, new in self._successors.items()}
        model = self._change.undo()
        if self._move is not None:
            self._move.undo()
        for p, flag in self._flags.items():
            p.requires_grad_(flag)
        for old, new in self._successors.items():
            follow(old, new)
        _set_modes(modes)
        self._transitions, self._teacher, self._undone = [], None, True
        return model

    def report(self) -> SwapReport:
        """The rows, and the present drift of the whole model on the example."""
        distance = None if self._example is None else self._example.distance(self.model)
        return SwapReport(type(self.model).__name__, self.rows, self.rule, self.t, distance)

    def _check_open(self, method: str) -> None:
        if not self._transitions:
            raise ValueError(
                f"Swap.{method} needs a transition, and there is none; swap with start='exact', and call it before "
                "finish() and undo()."
            )

    def _old_model(self) -> nn.Module:
        new = {p for transition in self._transitions for p in transition.after.parameters()}
        if any(p._version != version for p, version in self._versions.items() if p not in new):
            raise ValueError(
                "Swap.distill: the parameters were trained since the swap, so the old model is lost; distill first, or "
                "pass a copy of it as teacher=."
            )
        teacher = copy.deepcopy(self.model)
        for module in teacher.modules():
            if isinstance(module, Transition):
                module.t = 0.0
        return teacher


def _set_modes(modes: dict[nn.Module, bool]) -> None:
    for layer, mode in modes.items():
        layer.train(mode)
