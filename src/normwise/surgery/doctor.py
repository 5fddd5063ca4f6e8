"""`doctor`: find the problems of a model, and for each the call that fixes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from ..core.numbers import check_whole
from ..signal.diagnosing import diagnose
from ..signal.diagnosis.findings import Finding, Findings
from ..signal.modules import unwrapped
from .examination import loss_rules, mode_rules, process_rules, settings_rules, target_rules
from .examination.subject import TARGETS, Subject
from .folding.runs import first_line

_NAME = "doctor"

#: The rules that need no run of the model, in the order of their findings within one severity.
RULES: tuple[Callable[[Subject], Iterator[Finding]], ...] = (
    loss_rules.negative_variances,
    settings_rules.odd_eps,
    mode_rules.training_within_evaluation,
    mode_rules.evaluation_within_training,
    mode_rules.half_frozen,
    mode_rules.unfinished_swap,
    settings_rules.no_momentum,
    settings_rules.narrow_statistics,
    settings_rules.average_restarts,
    loss_rules.trained_after_folding,
    process_rules.unsynchronized,
    process_rules.small_batch,
    process_rules.synchronized_alone,
    target_rules.exported_in_training,
    target_rules.exported_synchronized,
    target_rules.eps_in_half,
    target_rules.exported_parametrized,
    target_rules.exported_unfolded,
    target_rules.quantized_statistics,
    settings_rules.tracked_instance_norm,
    settings_rules.several_eps,
)


def doctor(
    model: nn.Module,
    loader: Any = None,
    batch_size: int | None = None,
    world_size: int = 1,
    target: str | None = None,
) -> Findings:
    """Find the problems of a model's normalizers, and for each the call that fixes it.

    The findings are those of `diagnose` about signal and statistics, and those that need no run: mixed modes,
    half-frozen layers, implausible momentum and eps, statistics in half precision, variances below 0, a lost batch
    counter, an unfinished swap, a folded model in training; a batch per process that is too small, statistics that are
    not synchronized; and the problems of an export or a quantization. No problem is reported twice. The model is
    unchanged afterwards.

    Args:
        loader: data as for `diagnose`. Without it the signal is that of noise; if the input shape cannot be read from
            the model, the signal is left out with a note.
        batch_size: number of samples in the batch of each process in training.
        world_size: number of processes in training.
        target: the deployment: ``"onnx"``, ``"tensorrt"``, ``"openvino"``, ``"coreml"`` or ``"quantization"``.

    Raises TypeError if the model is no module or runs in TorchScript; ValueError for modules without values, unknown
    targets and numbers below 1; and the errors of the model on the loader's batches. The trap: `batch_size` is that of
    one process, not the sum over all.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()).eval()
    >>> print(doctor(net, target="onnx"))
    Sequential: 1 note
    note: 1: unfolded normalizers
        In evaluation 1 only scales and shifts each channel, which a layer beside it
        can hold. nw.fold(model.eval(), example) before onnx: exact, and what cannot
        be folded is named.
    """
    model = unwrapped(model, _NAME)
    if batch_size is not None:
        check_whole(_NAME, "batch_size", batch_size, 1)
    check_whole(_NAME, "world_size", world_size, 1)
    if target is not None and target not in TARGETS:
        raise ValueError(f"{_NAME}: target must be one of {', '.join(map(repr, TARGETS))}, received {target!r}.")
    signal = _of_the_signal(model, loader)
    subject = Subject(model, batch_size, world_size, target, frozenset(finding.rule for finding in signal))
    findings = [*signal, *examine(subject)]
    return Findings(type(model).__name__, findings, signal.notes)


def examine(subject: Subject) -> list[Finding]:
    """The findings that need no run of the model."""
    return [finding for rule in RULES for finding in rule(subject)]


def _of_the_signal(model: nn.Module, loader: Any) -> Findings:
    try:
        return diagnose(model, loader)
    except Exception as error:  # the guessed input may be wrong while the model is in order
        if loader is not None:
            raise
        name = type(model).__name__
        return Findings(name, [], [f"The signal was not measured ({first_line(error)}); pass data: loader=..."])
