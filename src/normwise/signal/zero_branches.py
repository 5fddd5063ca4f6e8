"""A note about branches that are 0 because the last weight in them starts at 0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, takewhile

from torch import nn

from .modules import has_zero_weight, module_name, type_name
from .records import Tap


def zero_branches(model: nn.Module, taps: Sequence[Tap]) -> Iterator[str]:
    """A note for each class of modules whose zero weight makes residual branches 0."""
    modules = dict(model.named_modules())
    found = []
    for place, tap in enumerate(taps):
        if tap.kind == "branch" and tap.variance == tap.squared_mean == 0 and not tap.nonfinite:
            end = _zeroed(modules, taps[:place])
            if end is not None:
                found.append((type_name(modules[module_name(end)]), end, tap.name))
    for layer, group in groupby(sorted(found), key=lambda entry: entry[0]):
        entries = list(group)
        yield (
            f"{len(entries)} of the branches are 0, from {entries[0][2]} on: the weight of the last {layer} in them "
            f"({entries[0][1]}) is 0, a usual initial value, so each block returns its input."
            if len(entries) > 1
            else f"The branch of {entries[0][2]} is 0: the weight of the last {layer} in it ({entries[0][1]}) is 0, "
            "a usual initial value, so the block returns its input."
        )


def _zeroed(modules: dict[str, nn.Module], before: Sequence[Tap]) -> str | None:
    """The last layer since the previous block whose output is 0 because its weight is 0; a shortcut may follow it."""
    for tap in takewhile(lambda tap: tap.kind != "block", reversed(before)):
        module = modules.get(module_name(tap.name))
        if tap.kind != "layer" or tap.variance or tap.squared_mean or module is None:
            continue
        if has_zero_weight(module):
            return tap.name
    return None
