"""The conversions of `normwise convert`: each returns the new model and a report."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from ..comparison import InputError
from ..comparison.contestants.models import first_line
from ..surgery import fold, normalizer_free, recalibrate, swap, unsync
from ..surgery.report import WIDTHS, Table, as_text
from .samples import Samples

#: A drift below this share is rounding: old and new normalizer compute the same function.
ROUNDING = 1e-3
TO_BE_TRAINED = (
    "Warning: the new model computes a different function than the old one; the drift above was measured on random "
    "noise. Fine-tune it before use; nw.swap(model, {!r}) starts from the old function and trains "
    "towards the new one."
)
Result = TypeVar("Result")


class Converted(NamedTuple):
    """A model, and the report on it."""

    model: nn.Module
    report: str


def in_words(work: Callable[[], Result]) -> Result:
    """Run a tool and turn its errors about the model into InputError, which the user sees as a sentence."""
    try:
        return work()
    except InputError:
        raise
    except (ValueError, TypeError) as error:
        raise InputError(str(error)) from error


def folded(net: nn.Module, example: Tensor) -> Converted:
    result = fold(net, example, inplace=True)
    return Converted(result.model, str(result))


def swapped(net: nn.Module, example: Tensor, norm: str) -> Converted:
    """Replace the normalizers, with γ and β from the running statistics.

    A file cannot hold a transition, so `swap`'s exact start cannot be written: the new model computes a different
    function, and the report has the drift.
    """
    check_takes(net, example, "the example")
    change = swap(net, norm, start="data-free", example_inputs=example)
    model, report = change.finish(), change.report()
    if all(row.outcome == "kept" for row in report.rows):
        raise InputError(f"None of {len(report.rows)} normalizers can be swapped: {report.rows[0].reason}.")
    drifts = [row.drift for row in report.rows if row.outcome == "swapped"]
    same = all(drift is not None and drift < ROUNDING for drift in drifts)
    return Converted(model, str(report) if same else f"{report}\n{_sentences(TO_BE_TRAINED.format(norm))}")


def freed(net: nn.Module, example: Tensor) -> Converted:
    """Remove the normalizers; the report says what has to be trained."""
    result = normalizer_free(net, example, inplace=True)
    return Converted(result.model, str(result))


def recalibrated(net: nn.Module, samples: Samples) -> Converted:
    """Compute running statistics from the samples; warnings are part of the report."""
    check_takes(net, samples.example, "these data")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="recalibrate: ")
        result = recalibrate(net, samples.batches)
    return Converted(net, f"{_sentences(samples.description)}\n{result}")


def unsynced(net: nn.Module, example: Any) -> Converted:
    before = {name: type(module).__name__ for name, module in net.named_modules()}
    plain = unsync(net, example)
    rows = [
        {"name": name or "the model", "was": before[name], "is": type(module).__name__}
        for name, module in plain.named_modules()
        if before.get(name, type(module).__name__) != type(module).__name__
    ]
    if not rows:
        raise InputError(f"{type(net).__name__} has no SyncBatchNorm; there is nothing to convert.")
    columns = {"name": "layer", "was": "was", "is": "is"}
    return Converted(plain, as_text(Table(f"unsync: {len(rows)} layers", columns, rows), WIDTHS[0]))


@torch.no_grad()
def check_takes(net: nn.Module, batch: Tensor, what: str) -> None:
    """Raise InputError if the model does not run on a batch."""
    try:
        net(batch)
    except Exception as error:  # a model's code may raise anything
        shape = "×".join(map(str, batch.shape))
        raise InputError(f"{type(net).__name__} does not take {what}, {shape}: {first_line(error)}") from error


def _sentences(text: str) -> str:
    return textwrap.fill(text, WIDTHS[0])
