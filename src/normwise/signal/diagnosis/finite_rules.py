"""Rules about values that are not finite."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from ..statistics import nonfinite_values
from .evidence import Evidence
from .findings import Finding

RULE = "not finite"


def not_finite(evidence: Evidence) -> Iterator[Finding]:
    """The first NaN or infinite value: in the data, in a parameter, in the output of a layer, or in its gradient."""
    found = next((f for look in (_in_data, _in_parameters, _in_outputs, _in_gradients) for f in look(evidence)), None)
    if found is not None:
        yield found


def _in_data(evidence: Evidence) -> Iterator[Finding]:
    if evidence.nonfinite_input:
        yield Finding(
            "error",
            RULE,
            "input",
            f"{evidence.nonfinite_input} values of the data are NaN or infinite, before any layer.",
            "Leave such samples out or fill them in; frequent causes are masks, and data normalized by a standard "
            "deviation of 0.",
            float(evidence.nonfinite_input),
        )


def _in_parameters(evidence: Evidence) -> Iterator[Finding]:
    for name, parameter in evidence.model.named_parameters():
        broken = nonfinite_values(parameter)
        if broken:
            module, _, own = name.rpartition(".")
            yield Finding(
                "error",
                RULE,
                module or type(evidence.model).__name__,
                f"{_in_words(parameter, broken)} of the {parameter.numel()} values of its {own}.",
                "Training has diverged: go back to an earlier checkpoint, with a smaller learning rate, clipped "
                "gradients or a loss in fp32.",
                float(broken),
            )


def _in_words(x: Tensor, broken: int) -> str:
    nan = int(x.detach().isnan().sum())
    return f"NaN in {nan}" if nan == broken else f"Infinite in {broken}" if not nan else f"NaN or infinite in {broken}"


def _in_outputs(evidence: Evidence) -> Iterator[Finding]:
    broken = [tap for tap in evidence.taps if tap.nonfinite]
    if broken:
        first = broken[0]
        yield Finding(
            "error",
            RULE,
            first.name,
            f"{first.nonfinite} of its output values are NaN or infinite (shape {list(first.shape)}), the first of "
            f"{len(broken)} such places.",
            "Look for a division, logarithm or root at zero, and for overflow in half precision.",
            float(first.nonfinite),
        )
    elif evidence.nonfinite_result:
        yield Finding(
            "error",
            RULE,
            "forward",
            "The result of forward is NaN or infinite, behind layers with finite outputs.",
            "Check the loss: a logarithm of 0, an empty mean, targets that are NaN.",
            float(evidence.nonfinite_result),
        )


def _in_gradients(evidence: Evidence) -> Iterator[Finding]:
    broken = [tap for tap in evidence.taps if tap.gradient is not None and not math.isfinite(tap.gradient)]
    if broken:
        last = broken[-1]
        yield Finding(
            "error",
            RULE,
            last.name,
            "The gradient with respect to its output is NaN or infinite, behind finite values.",
            "Look for a root or a norm at 0, and for a division inside torch.where: its gradient is still NaN.",
            float(len(broken)),
        )


def poisoned_statistics(evidence: Evidence) -> Iterator[Finding]:
    """A single NaN or infinity in a batch stays in torch's running statistics for ever."""
    for name, module in evidence.model.named_modules():
        memory = [b for key, b in module.named_buffers(recurse=False) if key in ("running_mean", "running_var")]
        broken = sum(map(nonfinite_values, memory))
        if broken:
            yield Finding(
                "error",
                "poisoned statistics",
                name,
                f"{broken} of the {sum(b.numel() for b in memory)} running means and variances are NaN or "
                "infinite: in evaluation the output is NaN for every input.",
                "Reset them (module.reset_running_stats()), then nw.recalibrate(model, loader) on clean data; "
                "normwise's BatchNorm skips batches that are not finite.",
                float(broken),
            )
