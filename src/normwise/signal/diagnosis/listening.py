"""Observe a running model: the sources of the normalizers' inputs, and dropout before normalizers."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from normwise.weights.layers import LAYERS

from ..functions import Functions
from ..modules import tensors_in, watched_modules
from ..statistics import channel_moments
from .sites import NORMALIZER_CLASSES, Site, Source

DROPOUTS = frozenset(
    name + ending
    for name in ("dropout", "alpha_dropout", "feature_alpha_dropout", "feature_dropout")
    for ending in ("", "_")
) | {"dropout1d", "dropout2d", "dropout3d"}
# Operations that pass a bias on: the maximum or the mean of a channel's values contains the bias of the values.
POOL = re.compile(r"_?(adaptive_)?(max|avg)_pool[123]d")
REARRANGEMENTS = frozenset({"flatten", "reshape", "view", "contiguous", "squeeze", "unsqueeze"})


@dataclass
class Heard:
    """The normalizers by name, and for those behind dropout the name of the last module that drops."""

    sites: dict[str, Site] = field(default_factory=dict)
    dropouts: dict[str, str] = field(default_factory=dict)
    outputs: list[Tensor] = field(default_factory=list)
    """For each batch the first tensor with more than one value in the output of the last module that returns one: the
    model's output, not its loss."""


@contextmanager
def listening(model: nn.Module, *, dropping: bool = False) -> Iterator[Heard]:
    """Listen to a model while it runs; with ``dropping`` dropout is on, as in training."""
    listener = _Listener(dropping=dropping)
    with ExitStack() as stack:
        for module, name in watched_modules(model).items():
            enter, leave = partial(listener.enter, name), partial(listener.leave, name)
            stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(leave, always_call=True).remove)
        stack.enter_context(listener)
        yield listener.heard


class _Listener(TorchFunctionMode):
    def __init__(self, *, dropping: bool) -> None:
        super().__init__()
        self.heard = Heard()
        self._dropping = dropping
        self._running: list[str] = []
        self._normalizing = 0
        self._sources: dict[int, tuple[weakref.ref[Tensor], Source]] = {}
        self._dropout: str | None = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in DROPOUTS and _probability(args, kwargs) > 0:
            self._dropout = self._running[-1] if self._running else name
            if self._dropping:
                args, kwargs = _in_training(func, args, kwargs)
        out = func(*args, **kwargs)
        if not self._normalizing and next(tensors_in(out), None) is not None:
            self._pass_on(name, out, args, kwargs)
        return out

    def _pass_on(self, name: str, out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A function has read a layer's output: note whether it is the only reader and passes a bias on."""
        for x in tensors_in([args, kwargs]):
            source = self._source_of(x)
            if source is None or out is x:
                continue
            biased = isinstance(source.module, LAYERS)
            if isinstance(out, Tensor) and (name in REARRANGEMENTS or (biased and POOL.fullmatch(name))):
                self._sources[id(out)] = weakref.ref(out), source
            else:
                source.shared = True

    def enter(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        """A forward pre-hook of every module."""
        if not self._running:
            self._dropout = None
            self._sources.clear()
            self.heard.outputs.append(torch.empty(0))
        self._running.append(name)
        if isinstance(module, NORMALIZER_CLASSES):
            self._normalizing += 1
            x = next(tensors_in([args, kwargs]), None)
            if x is not None and x.dim() > 1:
                with Functions.paused():
                    self._arrive(name, module, x)

    def leave(self, name: str, module: nn.Module, _args: Any, output: Any) -> None:
        """A forward hook of every module."""
        normalizer = isinstance(module, NORMALIZER_CLASSES)
        self._normalizing -= normalizer
        if self._running:
            self._running.pop()
        with Functions.paused():
            if isinstance(output, Tensor) and (normalizer or (isinstance(module, LAYERS) and module.bias is not None)):
                self._sources[id(output)] = weakref.ref(output), Source(name, module)
            tensors = [x for x in tensors_in(output) if x.is_floating_point() and x.numel() > 1]
            if tensors and self.heard.outputs:
                self.heard.outputs[-1] = tensors[0].detach()

    def _source_of(self, x: Tensor) -> Source | None:
        entry = self._sources.get(id(x))
        return entry[1] if entry is not None and entry[0]() is x else None

    def _arrive(self, name: str, module: nn.Module, x: Tensor) -> None:
        site = self.heard.sites.setdefault(name, Site(name, module, x.shape, self._source_of(x)))
        if self._dropout is not None:
            self.heard.dropouts.setdefault(name, self._dropout)
        if site.over_batch and x.numel():
            table, _ = channel_moments(x, 1)
            site.means.append(table.mean.flatten().cpu())
            site.variances.append(table.var.flatten().cpu())
            site.samples_seen.append(_by_sample(x))


def _by_sample(x: Tensor) -> tuple[Tensor, Tensor]:
    """For every sample the mean of each channel, and its mean squared distance from the batch's mean."""
    values = x.detach().float().reshape(*x.shape[:2], -1)
    variance, mean = torch.var_mean(values, dim=2, correction=0)
    return mean.cpu(), (variance + (mean - mean.mean(0)).square()).cpu()


def _probability(args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    return float(kwargs.get("p", args[1] if len(args) > 1 else 0.5))


def _in_training(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a dropout with the third one, `training`, set to True."""
    if len(args) > 2:
        return (*args[:2], True, *args[3:]), kwargs
    name = "training" if getattr(func, "__module__", "") == "torch.nn.functional" else "train"
    return args, {**kwargs, name: True}
