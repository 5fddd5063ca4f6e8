"""What the rules look at: a trace with gradients, the inputs of the normalizers, the outputs in both modes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from normwise.core.precision import in_fp64
from normwise.layers import NORMALIZERS
from normwise.weights.layers import LAYERS

from ..inputs import Forward, is_shape, run
from ..modules import tensors_in, watched_modules
from ..records import Tap, Trace
from ..statistics import channel_moments
from ..tracing import trace

BATCH = (nn.modules.batchnorm._BatchNorm,)
INSTANCE = (nn.modules.instancenorm._InstanceNorm,)
NORMALIZER_CLASSES = (
    *BATCH,
    *INSTANCE,
    *(nn.GroupNorm, nn.LayerNorm, nn.RMSNorm),
    *(kind for name, row in NORMALIZERS.items() if name != "none" for kind in row.layers.values()),
)


@dataclass
class Site:
    """A normalizer, the shape of its input, and per batch the moments of its channels."""

    name: str
    module: nn.Module
    shape: torch.Size
    after: str | None = None
    """The layer with a bias whose output it gets."""
    means: list[Tensor] = field(default_factory=list)
    variances: list[Tensor] = field(default_factory=list)

    @property
    def samples(self) -> int:
        return self.shape[0]

    @property
    def values_per_channel(self) -> int:
        return self.shape.numel() // self.shape[1]

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance ``[C]`` over the batches: what running statistics should be."""
        return torch.stack(self.means).mean(0), torch.stack(self.variances).mean(0)


@dataclass
class Evidence:
    """``trace`` is None where the model did not get through, and ``failure`` says why.

    ``real`` tells data from noise: what a net remembers says nothing about noise.
    """

    model: nn.Module
    real: bool
    given: bool
    sites: dict[str, Site]
    trace: Trace | None = None
    failure: str | None = None
    gap: float | None = None

    @property
    def batch_sites(self) -> Iterator[Site]:
        return (site for site in self.sites.values() if isinstance(site.module, BATCH))

    def path(self) -> tuple[Tap, ...]:
        """The taps along which the signal can be compared: blocks, or the outputs of layers with weights."""
        if self.trace is None:
            return ()
        if self.trace.blocks:
            return self.trace.blocks
        modules = dict(self.model.named_modules())
        return tuple(tap for tap in self.trace.layers if isinstance(modules.get(tap.name.split("#")[0]), LAYERS))


class Batches:
    """A loader that can be read again, whatever was given."""

    def __init__(self, items: list[Any]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)


def gather(model: nn.Module, data: Any, *, skip_gain: float | None, forward: Forward | None, batches: int) -> Evidence:
    """Run the model on the data by its batches' statistics with gradients, and by its running statistics without."""
    real = not (data is None or is_shape(data))
    if real and not isinstance(data, (Tensor, tuple, list, Mapping)) and isinstance(data, Iterable):
        data = Batches(list(islice(data, batches)))
    evidence = Evidence(model, real, data is not None, {})
    call, outputs = forward or run, {True: [], False: []}

    def recorded(batch_statistics: bool) -> Forward:
        def forward(model: nn.Module, batch: Any) -> Any:
            output = call(model, batch)
            outputs[batch_statistics] += [in_fp64(t.detach()) for t in tensors_in(output) if t.is_floating_point()][:1]
            return output

        return forward

    options: dict[str, Any] = {"skip_gain": skip_gain, "batches": batches}
    try:
        with _listening(evidence):
            evidence.trace = trace(model, data, forward=recorded(True), backward=True, **options)
    except ValueError as error:
        if "more than 1" not in str(error):
            raise
        evidence.failure = str(error)
        return evidence
    if real and any(_has_memory(site.module) for site in evidence.sites.values()):
        trace(model, data, forward=recorded(False), batch_statistics=False, **options)
        evidence.gap = _gap(outputs[True], outputs[False])
    return evidence


def _has_memory(module: nn.Module) -> bool:
    return isinstance(getattr(module, "running_mean", None), Tensor)


def _gap(by_batch: list[Tensor], by_memory: list[Tensor]) -> float | None:
    """Mean squared difference of the outputs over their variance."""
    pairs = [(a, b) for a, b in zip(by_batch, by_memory, strict=False) if a.shape == b.shape]
    if not pairs:
        return None
    first, second = (torch.cat([t.flatten() for t in column]) for column in zip(*pairs, strict=True))
    spread = first.var(correction=0)
    return float((first - second).square().mean() / spread) if spread > 0 else None


@contextmanager
def _listening(evidence: Evidence) -> Iterator[None]:
    """Note what the normalizers get, and from which layer it comes directly."""
    source: list[tuple[Tensor, str] | None] = [None]

    def leave(name: str, _module: nn.Module, _args: Any, output: Any) -> None:
        source[0] = (output, name) if isinstance(output, Tensor) else None

    def arrive(name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        if not args or not isinstance(args[0], Tensor) or args[0].dim() < 2:
            return
        x = args[0]
        site = evidence.sites.setdefault(name, Site(name, module, x.shape))
        if source[0] is not None and source[0][0] is x:
            site.after = source[0][1]
        if isinstance(module, BATCH) and x.numel():
            table, _ = channel_moments(x, 1)
            site.means.append(table.mean.flatten().cpu())
            site.variances.append(table.var.flatten().cpu())

    with ExitStack() as stack:
        for module, name in watched_modules(evidence.model).items():
            if isinstance(module, NORMALIZER_CLASSES):
                stack.callback(module.register_forward_pre_hook(partial(arrive, name)).remove)
            elif isinstance(module, LAYERS) and module.bias is not None:
                stack.callback(module.register_forward_hook(partial(leave, name)).remove)
        yield
