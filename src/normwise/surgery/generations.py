"""Which layers come before which: those that depend on no other first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..backends import use_backend
from ..signal.modules import tensors_in
from .hooks import hooked


def generations(layers: Iterable[nn.Module], run: Callable[[], None]) -> list[list[nn.Module]]:
    """The layers in the order of their dependence, as one run of the model shows it.

    A layer is of the first generation if nothing of its input has been through another one, of the second if only the
    first has touched it, and so on. One that is called again on what came of itself belongs where it was called first;
    layers that do not run come last.

    >>> import torch
    >>> net = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2)).eval()
    >>> generations(net, lambda: net(torch.zeros(1, 2))) == [[net[0]], [net[1]]]
    True
    """
    layers = list(layers)
    found: dict[nn.Module, int] = {}
    depths = _Depths()
    around: list[int] = []

    def enter(layer: nn.Module, arguments: Any, named: Any) -> None:
        around.append(depths.of([arguments, named]))
        found.setdefault(layer, around[-1])

    def leave(*call: Any) -> None:
        depths.mark(call[-1], around.pop() + 1)

    handles = [layer.register_forward_pre_hook(enter, with_kwargs=True) for layer in layers]
    handles += [layer.register_forward_hook(leave) for layer in layers]
    with hooked(handles), use_backend("reference"), depths:  # kernels of our own would write unseen
        run()
    by_depth: dict[int, list[nn.Module]] = defaultdict(list)
    last = max(found.values(), default=0) + 1
    for layer in layers:
        by_depth[found.get(layer, last)].append(layer)
    return [by_depth[depth] for depth in sorted(by_depth)]


class _Depths(TorchDispatchMode):
    """Through how many of the layers what is in a tensor's memory has been, at most."""

    def __init__(self) -> None:
        super().__init__()
        self._depths: dict[int, int] = {}

    def of(self, value: Any) -> int:
        return max((self._depths.get(_memory(t), 0) for t in tensors_in(value)), default=0)

    def mark(self, value: Any, depth: int) -> None:
        self._depths.update((_memory(t), depth) for t in tensors_in(value))

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        # What is written in place or is a view has its own depth among the inputs'; memory used again is marked anew.
        self.mark(output, self.of([args, kwargs]))
        return output


def _memory(t: Tensor) -> int:
    return t.untyped_storage().data_ptr()
