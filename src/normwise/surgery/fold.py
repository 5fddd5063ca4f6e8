"""Fold normalizers into the layers before or after them, and prove that nothing else changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from ..core.model_change import ModelChange
from ..core.module_tree import module_tree
from ..weights.bake import bake_within
from .copying import copy_of
from .folding import layers, norms
from .folding.observation import observe
from .folding.plan import AFTER, BEFORE, Fold, Lone, Plan, Planner
from .folding.runs import on_example, own_dtype
from .folding.verification import Local, Yardstick, measure_each
from .given import check_model, several
from .report import Report, Table

FOLDED, KEPT = "folded", "kept"
SIDES = (BEFORE, AFTER)
_OF_EACH_INPUT = (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
#: Whether a normalizer without a neighbouring layer becomes an affine layer.
STANDALONE: dict[str | bool, bool] = {"keep": False, "affine": True, False: False, True: True}


class FoldRow(NamedTuple):
    """The outcome for one normalizer.

    ``into``: the layer that contains it now. ``max_error``: the largest difference between the outputs of the folded
    layers and of the original ones on the example, in fp32 (fp64 for a model in fp64).
    """

    name: str
    into: str | None
    outcome: str
    reason: str
    max_error: float | None


@dataclass
class Folded(Report):
    """A model with its normalizers folded, and a row for each of them.

    ``max_error``: the largest difference of the model's output before and after all folds, in fp32 (fp64 for a model in
    fp64), over the example and ``check``. ``own_error``: the same in the model's own dtype. ``bf16``: the distance of
    the output in bf16 from that in fp64, before and after; None if the model does not run in both. ``baked``: the
    normalized weights that were replaced by plain ones.
    """

    model: nn.Module
    rows: list[FoldRow]
    max_error: float
    own_error: float
    bf16: tuple[float, float] | None
    baked: list[str]

    def table(self) -> Table:
        folded = sum(row.outcome == FOLDED for row in self.rows)
        title = f"fold: {folded} of {len(self.rows)} normalizers folded, largest error {self.max_error:.3g}"
        columns = {"name": "layer", "outcome": "outcome", "into": "into", "max_error": "error", "reason": "reason"}
        notes = [f"In the model's own dtype: largest error {self.own_error:.3g}."]
        if self.bf16 is not None:
            notes.append("Distance from fp64 in bf16: {:.3g} before, {:.3g} after.".format(*self.bf16))
        others = Counter(type(m).__name__ for m in self.model.modules() if isinstance(m, _OF_EACH_INPUT))
        if others:
            counts = ", ".join(f"{count} {name}" for name, count in others.items())
            notes.append(f"Of each input's own statistics, and so never folded: {counts}.")
        if self.baked:
            notes.append(f"Written into plain weights first: {', '.join(self.baked)}.")
        return Table(title, columns, [row._asdict() for row in self.rows], notes)


@torch.inference_mode(False)
def fold(
    model: nn.Module,
    example_inputs: Any,
    into: str | Sequence[str] = SIDES,
    bake: bool = True,
    inplace: bool = False,
    *,
    standalone: str | bool = "keep",
    check: Any = None,
) -> Folded:
    r"""Write normalizers that are fixed in evaluation into the convolutions and linear layers around them.

    .. math:: \gamma\,\frac{Wx + b - \mu}{\sigma} + \beta = W'x + b', \quad
              W' = \frac{\gamma}{\sigma} W, \quad b' = \frac{\gamma}{\sigma}(b - \mu) + \beta

    The model must be in evaluation; the example of its input is a tensor, a tuple of arguments, or a dict of them. The
    example is run to find which layer feeds which. Every fold is compared with the original layers, and the whole model
    with the original one, in fp32 and in its own dtype; a fold with an error larger than rounding explains is undone.

    Args:
        into: ``"before"`` folds into the layer in front of the normalizer, ``"after"`` into the one behind it.
            Zero padding of a layer behind is replaced by a padding in front of it with the value −t/s of each channel,
            so that the result is exact.
        bake: first write weight standardization, spectral norm and weight norm into plain weights, see `bake`.
        inplace: change ``model`` itself, all or nothing; otherwise a deep copy is folded.
        standalone: for a normalizer without such a layer: ``"keep"`` (False) keeps it, ``"affine"`` (True) replaces it
            by a scale and shift.
        check: a second example to compare on.

    Returns a `Folded`: the model, a row for each normalizer (with the reason if it stays), and the errors.

    Raises TypeError or ValueError for models that are wrapped, compiled, scripted, quantized or without values, and for
    an example that does not fit the model; the model is then unchanged.

    The trap: a folded model is for inference. In training nothing is normalized any more.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    >>> x = torch.randn(2, 3, 8, 8)
    >>> folded = fold(net, x)
    >>> folded.rows[0].outcome, folded.rows[0].into, type(folded.model[1]).__name__
    ('folded', '0', 'Identity')
    >>> torch.allclose(folded.model(x), net(x), atol=1e-6)
    True
    """
    check_model(model, "fold")
    sides = _sides(into)
    if standalone not in STANDALONE:
        raise ValueError(f"fold: standalone must be 'keep' or 'affine', received {standalone!r}.")
    target = model if inplace else copy_of(model, "fold")
    examples = [example_inputs] if check is None else [example_inputs, check]
    with ModelChange(target, "fold") as baking:
        baked = [f"{name} ({normalization})" for name, normalization in bake_within(baking)] if bake else []
        yardsticks = [_yardstick(target, example) for example in examples]
        named = _norms(target)
        plan = _plan(target, named, example_inputs, sides, STANDALONE[standalone])
        errors = _undo_wrong_folds(plan, target, example_inputs)
        _undo_folds_that_change_the_output(plan, yardsticks)
        result = _result(target, named, plan, errors, yardsticks, baked)
        with ModelChange(target, "fold") as change:
            for part in plan.folds:
                part.apply(change)
            result.model = change.model
    return result


def _sides(into: str | Sequence[str]) -> tuple[str, ...]:
    sides = several(into)
    unknown = [side for side in sides if side not in SIDES]
    if unknown:
        raise ValueError(f"fold: into must be 'before', 'after' or both, received {unknown[0]!r}.")
    return sides


def _base_dtype(model: nn.Module) -> torch.dtype:
    return torch.float64 if own_dtype(model) is torch.float64 else torch.float32


def _yardstick(model: nn.Module, example: Any) -> Yardstick:
    judged = (_base_dtype(model), own_dtype(model))
    return Yardstick(model, example, judged, (torch.bfloat16,))


def _norms(model: nn.Module) -> dict[nn.Module, str]:
    return {m: node.name for m, node in module_tree(model).items() if norms.is_norm(m)}


def _plan(model: nn.Module, named: dict[nn.Module, str], example: Any, sides: Sequence[str], standalone: bool) -> Plan:
    watched = named | {m: node.name for m, node in module_tree(model).items() if layers.is_layer(m)}
    found = on_example(model, example, lambda forward: observe(model, watched, forward), "fold")
    return Planner(model, found).plan(list(named), sides, standalone)


def _undo_wrong_folds(plan: Plan, model: nn.Module, example: Any) -> dict[nn.Module, float]:
    """Measure each fold separately and undo those with an error larger than rounding; returns errors by normalizer."""
    found = measure_each(model, example, plan.folds, _base_dtype(model))
    for fold in list(plan.folds):
        local = found.get(fold, Local(torch.inf, torch.inf))
        if not local.share <= 1:
            _undo(plan, fold, f"folded it is off by {local.error:.3g}, {local.share:.3g} times what rounding explains")
    return {norm: found[fold].error for fold in plan.folds for norm in fold.norms}


def _undo(plan: Plan, fold: Fold | Lone, reason: str) -> None:
    plan.folds.remove(fold)
    plan.kept.update(dict.fromkeys(fold.norms, reason))


def _undo_folds_that_change_the_output(plan: Plan, yardsticks: Sequence[Yardstick]) -> None:
    """Undo the folds that change the model's output, alone or together."""

    def objection(folds: Sequence[Fold | Lone]) -> str | None:
        return next((refusal for y in yardsticks if (refusal := y.objection(folds))), None)

    def holding(folds: list[Fold | Lone]) -> list[Fold | Lone]:
        refusal = objection(folds) if folds else None
        if refusal is None:
            return folds
        if len(folds) == 1:
            _undo(plan, folds[0], refusal)
            return []
        middle = len(folds) // 2
        first, second = holding(folds[:middle]), holding(folds[middle:])
        refusal = objection([*first, *second]) if first and second else None
        for fold in second if refusal else ():
            _undo(plan, fold, f"together with the others {refusal}")
        return first if refusal else [*first, *second]

    holding(list(plan.folds))


def _result(
    model: nn.Module,
    named: dict[nn.Module, str],
    plan: Plan,
    errors: dict[nn.Module, float],
    yardsticks: Sequence[Yardstick],
    baked: list[str],
) -> Folded:
    into = {norm: fold for fold in plan.folds for norm in fold.norms}
    rows = []
    for norm, name in named.items():
        if norm in into:
            fold = into[norm]
            place = fold.call.name if isinstance(fold, Fold) else "affine"
            rows.append(FoldRow(name, place, FOLDED, "", errors[norm]))
        else:
            rows.append(FoldRow(name, None, KEPT, plan.kept[norm], None))
    base, own = _base_dtype(model), own_dtype(model)
    worst = {dtype: max(y.error(plan.folds, dtype) for y in yardsticks) for dtype in (base, own)}
    bf16 = yardsticks[0].distances(plan.folds, torch.bfloat16)
    return Folded(model, rows, worst[base], worst[own], bf16, baked)
