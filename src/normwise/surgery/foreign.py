"""Load weights and statistics of other frameworks into the layers of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..core.model_change import ModelChange
from ..core.module_tree import Node, module_tree
from ..layers.remembering import memory_of
from ..signal.modules import unwrapped
from .foreign_matching import Matching, is_norm
from .foreign_names import SOURCES
from .foreign_state import groups_of
from .foreign_values import Reading
from .report import Report, Table
from .transition import check_closed

LAYOUTS = ("auto", "channels_first", "channels_last")
COLUMNS = {
    "name": "layer",
    "source": "in the state",
    "outcome": "outcome",
    "loaded": "loaded",
    "eps": "eps",
    "momentum": "momentum",
    "reason": "reason",
}
_NAME = "load_foreign"
_UNKNOWN = "has parameters that no other framework's state has"


class ForeignLayer(NamedTuple):
    """One layer of the model, or one layer that only the state has.

    source: the layer's name in the state.
    outcome: ``"loaded"``, or ``"left"`` for a layer that only one of the two has, or that cannot be loaded.
    loaded: the tensors that were written.
    eps, momentum: the values that were set, None if the state has none.
    reason: why it was left, or a remark, such as defaults of the source that differ from the layer's.
    """

    name: str
    source: str
    outcome: str
    loaded: str = ""
    eps: float | None = None
    momentum: float | None = None
    reason: str | None = None


class Foreign(Report):
    """The rows of `load_foreign`, and `undo`."""

    def __init__(self, change: ModelChange, rows: Sequence[ForeignLayer], source: str) -> None:
        self._change, self.rows, self.source = change, tuple(rows), source

    def undo(self) -> nn.Module:
        """Restore the earlier values of every layer.

        Raises ValueError, and changes nothing, if a value was changed since then or was restored already.
        """
        return self._change.undo()

    def table(self) -> Table:
        done = sum(row.outcome == "loaded" for row in self.rows)
        title = f"{type(self._change.model).__name__}: {done} of {len(self.rows)} layers loaded from {self.source}"
        return Table(title, COLUMNS, [row._asdict() | {"loaded": _shortened(row.loaded)} for row in self.rows])


def load_foreign(module_or_model: nn.Module, state: Mapping[str, Any], source: str, layout: str = "auto") -> Foreign:
    """Load another framework's state into a normalization layer, or into those of a model and its convolutions.

    In evaluation the layers then compute the same as in the source: a running standard deviation becomes its square
    minus the layer's eps, values of shape ``[1, 1, 1, C]`` become ``[C]``, kernels ``[*space, in, out]`` become torch's
    ``[out, in, *space]``. ``eps`` and ``momentum`` are set if the state has them (``{"epsilon": 1e-3, ...}``; momentum
    is converted to torch's, the weight of the new value); otherwise the report names the source's default if the
    layer's is different.

    Args:
        state: a dict from names to NumPy arrays, torch tensors or anything that NumPy reads, flat
            (``"block/bn/gamma:0"``) or nested as in Flax and Haiku. Settings at its top level apply to all layers.
        source: "keras", "tf", "flax", "haiku", "timm", "detectron2", "torch<0.4.1", or "ludvb" (batchrenorm).
        layout: the layout of kernels, "channels_last" or "channels_first"; by default that of the source.

    Layers are matched by name (``block/bn`` is the model's ``block.bn``). If the names differ, they are matched by
    shape, provided that the shape occurs once in the state and once in the model. They are never matched by order.

    Raises TypeError for arguments that are no module, no dict or no real arrays; ValueError for unknown sources and
    layouts, missing names, shapes that do not fit, NaN or infinite values, negative variances, and ambiguous layers.
    The model is then unchanged. The trap: Keras' eps is 1e-3 and torch's 1e-5; read the report.

    >>> import numpy as np
    >>> layer = nn.BatchNorm2d(2)
    >>> names = ("gamma", "beta", "moving_mean", "moving_variance")
    >>> result = load_foreign(layer, {"epsilon": 1e-3} | dict(zip(names, np.eye(4, 2) + 1)), source="keras")
    >>> layer.weight.tolist(), layer.running_mean.tolist(), layer.eps
    ([2.0, 1.0], [1.0, 1.0], 0.001)
    >>> result.undo().eps
    1e-05
    """
    _check_choice("source", source, tuple(SOURCES))
    _check_choice("layout", layout, LAYOUTS)
    model, known = unwrapped(module_or_model, _NAME), SOURCES[source]
    check_closed(model, _NAME)
    last = known.channels_last if layout == "auto" else layout == "channels_last"
    nodes = module_tree(model)
    if memory_of(model) is not None and not is_norm(model):
        raise ValueError(f"{_NAME}: {type(model).__name__} {_UNKNOWN}; load into a plain layer.")
    matching = Matching(nodes, groups_of(state, known, model._modules.keys()), known, last)
    if not matching.pairs:
        raise ValueError(
            f"{_NAME}: nothing in the state belongs to a normalization, convolution or linear layer of "
            f"{type(model).__name__}; the names of {source} are {', '.join(known.listed)}."
        )
    readings = {}
    for layer in (module for module in nodes if module in matching.pairs):
        reading = Reading(layer, nodes[layer].name, matching.pairs[layer], known, last)
        readings[layer] = reading.norm() if is_norm(layer) else reading.kernel()
    names = {layer: nodes[layer].name for layer in readings}
    _check_tied(readings, names)
    rows = [_row(names[layer], matching.pairs[layer].name, reading) for layer, reading in readings.items()]
    rows += [ForeignLayer("", group.name, "left", reason=reason) for group, reason in matching.left]
    rows += _rows_of_strangers(nodes)
    with ModelChange(model, _NAME) as change:
        for layer, reading in readings.items():
            _load(change, layer, names[layer], reading)
        return Foreign(change, rows, source)


def _shortened(loaded: str) -> str:
    return loaded.replace("running_", "").replace("num_batches_tracked", "batches")


def _check_choice(argument: str, chosen: object, known: Sequence[str]) -> None:
    if chosen in known:
        return
    near = get_close_matches(str(chosen).lower(), known, n=1, cutoff=0.5)
    meant = f"; is {near[0]!r} meant?" if near else "."
    raise ValueError(f"{_NAME}: {argument} must be one of {', '.join(map(repr, known))}, received {chosen!r}{meant}")


def _check_tied(readings: Mapping[nn.Module, Reading], names: Mapping[nn.Module, str]) -> None:
    """A parameter that several layers share can hold one layer's values only."""
    first: dict[int, tuple[str, Tensor]] = {}
    for layer, reading in readings.items():
        for tensor, name, values in reading.writes:
            full = f"{names[layer]}.{name}"
            owner, held = first.setdefault(id(tensor), (full, values))
            if not torch.equal(held, values):
                raise ValueError(f"{_NAME}: {owner} and {full} are one tensor, and the state has two values for it.")


def _row(name: str, source: str, reading: Reading) -> ForeignLayer:
    loaded = ", ".join(write.name for write in reading.writes)
    return ForeignLayer(name, source, "loaded", loaded, reading.eps, reading.momentum, "; ".join(reading.notes) or None)


def _rows_of_strangers(nodes: Mapping[nn.Module, Node]) -> list[ForeignLayer]:
    return [
        ForeignLayer(node.name, "", "left", reason=f"{type(layer).__name__} {_UNKNOWN}")
        for layer, node in nodes.items()
        if memory_of(layer) is not None and not is_norm(layer)
    ]


def _load(change: ModelChange, layer: nn.Module, name: str, reading: Reading) -> None:
    for tensor, own, values in reading.writes:
        change.write(tensor, values.to(tensor.device), f"{name}.{own}" if name else own)
    for setting in ("eps", "momentum"):
        value = getattr(reading, setting)
        if value is not None:
            change.set(layer, setting, value)
