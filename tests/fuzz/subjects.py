"""What is called: every layer of `NORMALIZERS` with its options, every function, own formulas. One table, by name.

A subject is a callable of ``x`` and of tensors that it names; the tensors of a layer are its parameters, its buffers
and what its ``forward`` takes besides, and they are replaced by whatever a call brings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from normwise.layers import NORMALIZERS

from .functions import FORMULAS, FUNCTIONS, Function, table_shapes

#: What `forward` takes besides x, by the name that NORMALIZERS has for it.
CONDITIONS = ("style", "labels", "segmentation", "vector", "gate")
#: Of a layer whose input lacks the dimension.
CHANNELS = 4
_NO_MEMORY = {"affine": False, "track_running_stats": False}
_LEARNED = {"affine": True, "track_running_stats": True}
#: Options that change which way a call goes, beyond what the table's own `make` gives.
_VARIANTS: dict[str, dict[str, Any]] = {
    "batch": {"plain": _NO_MEMORY, "cumulative": {"momentum": None}, "fixed": {"affine": False}},
    "instance": {"plain": _NO_MEMORY, "tracked": _LEARNED},
    "ghost": {"2": {"ghost_size": 2}},
    "filter-response": {"threshold": {"activation": "tlu"}, "learned eps": {"learnable_eps": True}},
}


class Subject(NamedTuple):
    """``rank``: dimensions of space that it takes, None for any; ``channel``: where the channels are."""

    name: str
    rank: int | None
    channel: int
    least: int  # dimensions
    make: Callable[[tuple[int, ...]], Instance]
    takes: tuple[str, ...]  # of residual, mask and activation
    broadcasts: bool = False


class Instance:
    """A subject for inputs of one shape: `tensors` as they should be, and the call."""

    def __init__(self, tensors: dict[str, Tensor], learned: set[str]) -> None:
        self.tensors = tensors
        self.learned = learned  # those that get a gradient

    def use(self, tensors: dict[str, Tensor], training: bool, activation: str | None) -> None:
        raise NotImplementedError

    def __call__(self, x: Tensor, **options: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The output, and what was remembered."""
        raise NotImplementedError


class LayerInstance(Instance):
    """A layer; its tensors are put into place as they are, whatever a constructor promised."""

    def __init__(self, layer: nn.Module, condition: str | None, shape: tuple[int, ...]) -> None:
        self.layer, self.condition = layer, condition
        tensors = {name: p.detach().clone() for name, p in layer.named_parameters()}
        learned = set(tensors)
        tensors |= {name: b.clone() for name, b in layer.named_buffers()}
        if condition is not None:
            tensors[condition] = _condition(condition, shape)
        super().__init__(tensors, learned)

    def use(self, tensors: dict[str, Tensor], training: bool, activation: str | None) -> None:
        self.layer.train(training)
        if activation is not None:
            self.layer.activation = activation  # type: ignore[assignment]
        self.given = tensors
        for name, t in tensors.items():
            path, _, last = name.rpartition(".")
            module = self.layer.get_submodule(path)
            if name in self.learned:
                module._parameters[last] = t  # type: ignore[assignment]
            elif name != self.condition:
                module._buffers[last] = t

    def __call__(self, x: Tensor, **options: Any) -> tuple[Tensor, dict[str, Tensor]]:
        condition = () if self.condition is None else (self.given[self.condition],)
        y = self.layer(x, *condition, **options)
        return y, dict(self.layer.named_buffers())


class FunctionInstance(Instance):
    """A function; what it returns besides the output is compared like what a layer remembers."""

    def __init__(self, function: Function, shape: tuple[int, ...]) -> None:
        self.function = function
        shapes = table_shapes(function, shape)
        tensors = {name: torch.zeros(size) for name, size in shapes.items()}
        super().__init__(tensors, set(tensors) - {"mean", "var", "style"})

    def use(self, tensors: dict[str, Tensor], training: bool, activation: str | None) -> None:
        self.given = tensors
        self.activation = {} if activation is None else {"activation": activation}

    def __call__(self, x: Tensor, **options: Any) -> tuple[Tensor, dict[str, Tensor]]:
        found = self.function.call(x, self.given, **options, **self.activation)
        if isinstance(found, Tensor):
            return found, {}
        y, statistics = found
        return y, {"statistics.mean": statistics.mean, "statistics.var": statistics.var}


def _condition(kind: str, shape: tuple[int, ...]) -> Tensor:
    samples, channels = (*shape, CHANNELS, CHANNELS)[:2]
    if kind == "labels":
        return torch.arange(samples) % 2
    if kind == "style":
        return torch.zeros(samples, channels, 4, 3)
    if kind == "gate":
        return torch.zeros(shape)
    if kind == "vector":
        return torch.zeros(*shape[:1], 2) if len(shape) > 1 else torch.zeros(2)
    return torch.zeros(samples, 2, *shape[2:])


def _layer_subjects() -> list[Subject]:
    found = []
    for name, row in NORMALIZERS.items():
        if name in ("none", "sync"):  # which needs processes
            continue
        for rank, kind in row.layers.items():
            makers = {"": lambda channels, row=row, rank=rank: row.make(channels, rank, None)}
            for variant, options in _VARIANTS.get(name, {}).items():
                makers[f" {variant}"] = lambda channels, kind=kind, options=options: kind(channels, **options)
            for variant, make in makers.items():
                subject = f"{name}-{rank or 'n'}d{variant}", rank or None, row.of_maps, row.condition, make
                found.append(_layer_subject(*subject))
    return found


def _layer_subject(
    name: str, rank: int | None, maps: bool, condition: str | None, make: Callable[[int], nn.Module]
) -> Subject:
    channel = 1 if maps else -1

    def build(shape: tuple[int, ...]) -> Instance:
        return LayerInstance(make(shape[channel] if len(shape) > max(channel, 0) else CHANNELS), condition, shape)

    takes = ("residual", "activation") if "tanh" in name or "erf" in name else ("residual", "mask", "activation")
    if "filter" in name and " " in name:
        takes = takes[:-1]  # the threshold is the activation
    return Subject(name, rank, channel, 2 if maps else 1, build, takes)


def _function_subjects() -> list[Subject]:
    found = []
    for table, broadcasts in ((FUNCTIONS, False), (FORMULAS, True)):
        for name, function in table.items():
            takes = (("residual", "activation") if function.epilogue else ()) + (("mask",) if function.masks else ())
            channel = 1 if function.maps else -1
            build = lambda shape, function=function: FunctionInstance(function, shape)  # noqa: E731
            found.append(Subject(name, None, channel, 2 if function.maps else 1, build, takes, broadcasts))
    return found


SUBJECTS = {subject.name: subject for subject in (*_layer_subjects(), *_function_subjects())}
