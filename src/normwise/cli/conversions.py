"""What `normwise convert` does to a model: each conversion returns the new model and what is to be said of it."""

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

#: A drift below this share is rounding: the new normalizer computes what the old one did.
ROUNDING = 1e-3
TO_BE_TRAINED = (
    "Warning: this is another function than the old model's, by the drift above, measured on random noise. It is a "
    "start and has to be fine-tuned before it is used; nw.swap(model, {!r}) starts from the old function and trains "
    "towards the new one."
)
Result = TypeVar("Result")


class Converted(NamedTuple):
    """A model, and the report on it."""

    model: nn.Module
    report: str


def in_words(work: Callable[[], Result]) -> Result:
    """What a tool says about a model that it cannot convert is for the user, too."""
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
    """The new normalizers with γ and β from the running statistics.

    A file holds no transition, so nothing of `swap`'s exact start can be written: the model computes something else,
    and the report says how far off it is.
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
    """Without normalizers; the report says what has to be trained."""
    result = normalizer_free(net, example, inplace=True)
    return Converted(result.model, str(result))


def recalibrated(net: nn.Module, samples: Samples) -> Converted:
    """Running statistics of the samples; its doubts are part of the report."""
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
    """Raise InputError where the model does not run on a batch."""
    try:
        net(batch)
    except Exception as error:  # what a model's own code raises could be anything
        shape = "×".join(map(str, batch.shape))
        raise InputError(f"{type(net).__name__} does not take {what}, {shape}: {first_line(error)}") from error


def _sentences(text: str) -> str:
    return textwrap.fill(text, WIDTHS[0])
