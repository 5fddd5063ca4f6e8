"""Order layers by their dependence: those that depend on no other come first."""

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
    """The layers in the order of their dependence, observed in one run of the model.

    A layer belongs to the first generation if its input does not depend on any other of the layers, to the second if it
    depends only on the first generation, and so on. A layer that is called again on its own output belongs to the
    generation of its first call; layers that do not run come last.

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
    with hooked(handles), use_backend("reference"), depths:  # writes of our own kernels would not be observed
        run()
    by_depth: dict[int, list[nn.Module]] = defaultdict(list)
    last = max(found.values(), default=0) + 1
    for layer in layers:
        by_depth[found.get(layer, last)].append(layer)
    return [by_depth[depth] for depth in sorted(by_depth)]


class _Depths(TorchDispatchMode):
    """For each tensor's memory the largest number of the layers on any path to its values."""

    def __init__(self) -> None:
        super().__init__()
        self._depths: dict[int, int] = {}

    def of(self, value: Any) -> int:
        return max((self._depths.get(_memory(t), 0) for t in tensors_in(value)), default=0)

    def mark(self, value: Any, depth: int) -> None:
        self._depths.update((_memory(t), depth) for t in tensors_in(value))

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        # A tensor written in place and a view have their own depth among the inputs; reused memory is marked again.
        self.mark(output, self.of([args, kwargs]))
        return output


def _memory(t: Tensor) -> int:
    return t.untyped_storage().data_ptr()
