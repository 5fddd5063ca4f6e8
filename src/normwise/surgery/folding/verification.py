"""Verify folds: each one against the original layers, and the model as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...core.model_change import ModelChange
from ...core.precision import in_fp64
from . import layers
from .norms import channel_axis
from .plan import Fold, Lone
from .runs import Run, first_line, in_dtype, outputs, outputs_if_any

#: A factor on the rounding of one sum: orders of summation differ, and fast convolution algorithms round more often.
_ROUNDINGS = 32
#: The error of a folded model against fp64 may be this many times that of the model before.
_WORSE = 32


class Local(NamedTuple):
    """The largest error of one fold, and its largest ratio to the expected rounding: above 1 the fold is wrong."""

    error: float
    share: float


def deviation(actual: Tensor, expected: Tensor) -> Tensor:
    """The distance of each value; 0 where both are NaN or the same infinity, infinite where only one is."""
    a, b = in_fp64(actual), in_fp64(expected)
    same = (a == b) | (a.isnan() & b.isnan())
    return torch.where(same, 0.0, (a - b).abs()).nan_to_num(nan=torch.inf)


def largest(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest distance between two lists of outputs; infinite where they differ in number or shape."""
    if [t.shape for t in actual] != [t.shape for t in expected]:
        return torch.inf
    return max((deviation(a, e).max().item() for a, e in zip(actual, expected, strict=True) if e.numel()), default=0.0)


def measure_each(
    model: nn.Module, example: Any, folds: Sequence[Fold | Lone], dtype: torch.dtype
) -> dict[Fold | Lone, Local]:
    """Compare each fold with the layers that it replaces, on their inputs in the unchanged model."""
    found: dict[Fold | Lone, Local] = {}

    def work(forward: Run) -> None:
        for fold in folds:
            if isinstance(fold, Fold):
                _listen_to_layer(fold, found)
            else:
                _listen_to_norm(fold, found)
        forward(model)

    in_dtype(model, example, dtype, work)
    return found


def _listen_to_layer(fold: Fold, found: dict[Fold | Lone, Local]) -> None:
    waiting: list[tuple[Tensor, Tensor]] = []

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:  # noqa: ARG001
        x = next(iter((*args, *kwargs.values())))
        given = (fold.layer, fold.refit, x, fold.call.beside)
        waiting.append((layers.computed(*given), layers.sizes_of_terms(*given)))

    def leave(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
        y, sizes = waiting.pop()
        if fold.behind:
            beside = {name: value for name, value in kwargs.items() if args or name != next(iter(kwargs))}
            y = fold.rests[module](y, *args[1:], **beside)
        axis = layers.channel_axis(fold.layer, output.dim())
        found[fold] = _judged(y, output, sizes, fold.terms, axis)

    fold.first.module.register_forward_pre_hook(enter, with_kwargs=True)
    fold.last.module.register_forward_hook(leave, with_kwargs=True, prepend=True)


def _listen_to_norm(fold: Lone, found: dict[Fold | Lone, Local]) -> None:
    norm = fold.call.module

    def leave(module: nn.Module, args: Any, kwargs: Any, output: Tensor, y: Tensor, sizes: Tensor) -> None:  # noqa: ARG001
        found[fold] = _judged(y, output, sizes, fold.found.terms, channel_axis(norm, output.dim()))

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:  # noqa: ARG001
        x = next(iter((*args, *kwargs.values())))
        column = fold.found.scale.abs().view(-1, *[1] * (x.dim() - channel_axis(norm, x.dim()) - 1))
        sizes = x.abs() * column.to(x.device, x.dtype)
        norm.register_forward_hook(partial(leave, y=fold.affine()(x), sizes=sizes), with_kwargs=True, prepend=True)

    norm.register_forward_pre_hook(enter, with_kwargs=True)


def _judged(y: Tensor, expected: Tensor, sizes: Tensor, terms: Tensor, axis: int) -> Local:
    if y.shape != expected.shape:
        return Local(torch.inf, torch.inf)
    if expected.numel() == 0:
        return Local(0.0, 0.0)
    error = deviation(y, expected)
    of_channel = partial(torch.amax, dim=[d for d in range(error.dim()) if d != axis])
    rounding = _ROUNDINGS * torch.finfo(expected.dtype).eps
    sizes, values = (in_fp64(t).abs().nan_to_num(0.0, 0.0, 0.0) for t in (sizes, expected))
    bound = of_channel(sizes) + terms.to(error.device) + of_channel(values)
    share = torch.where(of_channel(error) == 0, 0.0, of_channel(error) / (rounding * bound))
    return Local(error.max().item(), share.nan_to_num(nan=torch.inf).max().item())


class Yardstick:
    """The outputs of the unfolded model for one example: in fp64 if possible, and in the dtypes that are checked or

    reported. Folds are tried on the model converted to that dtype: so in fp32 no weight is rounded to a narrow dtype.
    """

    def __init__(
        self, model: nn.Module, example: Any, judged: Sequence[torch.dtype], told: Sequence[torch.dtype]
    ) -> None:
        self._model, self._example = model, example
        self._judged = judged
        dtypes = dict.fromkeys((*judged, *told, torch.float64))
        self._known = {dtype: outputs_if_any(model, example, dtype) for dtype in dtypes}
        self._exact = self._known[torch.float64]

    def error(self, folds: Sequence[Fold | Lone], dtype: torch.dtype) -> float:
        """The largest difference that the folds cause; NaN if the model does not run in this dtype."""
        known = self._known[dtype]
        return torch.nan if known is None else largest(self._folded(folds, dtype), known)

    def distances(self, folds: Sequence[Fold | Lone], dtype: torch.dtype) -> tuple[float, float] | None:
        """The distance from fp64 of the model without and with folds, computed in ``dtype``."""
        known = self._known[dtype]
        if known is None or self._exact is None:
            return None
        return largest(known, self._exact), largest(self._folded(folds, dtype), self._exact)

    def objection(self, folds: Sequence[Fold | Lone]) -> str | None:
        """Why the model with these folds does not count as the same, or None.

        A model whose output differs between two runs cannot be compared as a whole; its folds were compared separately.
        """
        for dtype in self._judged:
            known = self._known[dtype]
            if known is None:
                continue
            try:
                folded = self._folded(folds, dtype)
            except Exception as failure:  # whatever the user's code raises
                return f"without it the model fails: {type(failure).__name__}: {first_line(failure)}"
            allowed = self._allowed(dtype, None if self._exact is None else largest(known, self._exact))
            away = largest(folded, known if self._exact is None else self._exact)
            if away > allowed and self.error([], dtype) <= allowed:
                moved = largest(folded, known)
                return f"the model's output would move by {moved:.3g} in {str(dtype).removeprefix('torch.')}"
        return None

    def _folded(self, folds: Sequence[Fold | Lone], dtype: torch.dtype) -> list[Tensor]:
        def change(trial: ModelChange) -> None:
            for fold in folds:
                fold.apply(trial)

        return outputs(self._model, self._example, dtype, change)

    def _allowed(self, dtype: torch.dtype, of_the_model: float | None) -> float:
        """The allowed difference; larger without fp64, because then the size of the rounding errors is not known."""
        values = self._known[dtype] or []
        eps = torch.finfo(dtype).eps
        sizes = [in_fp64(t).abs().nan_to_num(posinf=0, neginf=0).max().item() for t in values if t.numel()]
        size = max(sizes, default=0.0)
        return size * eps**0.5 if of_the_model is None else _WORSE * (of_the_model + eps * size)
