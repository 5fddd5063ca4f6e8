"""The grid of the layer tests: every public layer with torch's twin, inputs in every layout, float64 oracles."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import normwise as nw


class Case(NamedTuple):
    """A layer as people build it, torch's twin, and an input shape (odd and prime sizes find index slips)."""

    id: str
    ours: type[nn.Module]
    theirs: type[nn.Module]
    args: tuple[Any, ...]
    options: dict[str, Any]
    shape: tuple[int, ...]

    def build(self, **more: Any) -> nn.Module:
        return self.ours(*self.args, **self.options, **more)

    @property
    def family(self) -> str:
        return self.ours.__name__.rstrip("123d")

    @property
    def rank(self) -> int:
        return len(self.shape) - 2

    @property
    def factors(self) -> tuple[Any, ...]:
        """What a covering subset must combine with other arguments: not each layer with each option."""
        return self.family, len(self.shape), (self.args, self.options)

    @property
    def remembers(self) -> bool:
        """Whether the layer has running statistics."""
        return getattr(self.build(), "running_mean", None) is not None


def _cases() -> list[Case]:
    maps = {1: (3, 6, 7), 2: (3, 6, 5, 7), 3: (2, 6, 3, 5, 2)}
    cases = [Case("BatchNorm1d[N,C]", nw.BatchNorm1d, nn.BatchNorm1d, (6,), {}, (5, 6))]
    for rank, shape in maps.items():
        name = f"BatchNorm{rank}d"
        cases.append(Case(name, getattr(nw, name), getattr(nn, name), (6,), {}, shape))
        name = f"InstanceNorm{rank}d"
        ours, theirs = getattr(nw, name), getattr(nn, name)
        tracked = {"affine": True, "track_running_stats": True}
        cases.append(Case(f"{name}-plain", ours, theirs, (6,), {}, shape))
        cases.append(Case(f"{name}-affine", ours, theirs, (6,), {"affine": True}, shape))
        cases.append(Case(f"{name}-tracked", ours, theirs, (6,), tracked, shape))
        cases.append(Case(f"GroupNorm-{rank}d", nw.GroupNorm, nn.GroupNorm, (3, 6), {}, shape))
    untracked = {"affine": False, "track_running_stats": False}
    return [
        *cases,
        Case("BatchNorm2d-untracked", nw.BatchNorm2d, nn.BatchNorm2d, (6,), untracked, maps[2]),
        Case("GroupNorm[N,C]", nw.GroupNorm, nn.GroupNorm, (2, 6), {}, (5, 6)),
        Case("GroupNorm-layer", nw.GroupNorm, nn.GroupNorm, (1, 6), {}, maps[2]),
        Case("GroupNorm-instance", nw.GroupNorm, nn.GroupNorm, (6, 6), {}, maps[2]),
        Case("GroupNorm-plain", nw.GroupNorm, nn.GroupNorm, (3, 6), {"affine": False}, maps[2]),
        Case("LayerNorm", nw.LayerNorm, nn.LayerNorm, (7,), {}, (3, 5, 7)),
        Case("LayerNorm-2", nw.LayerNorm, nn.LayerNorm, ((5, 7),), {}, (3, 2, 5, 7)),
        Case("LayerNorm-no-bias", nw.LayerNorm, nn.LayerNorm, (7,), {"bias": False}, (4, 7)),
        Case("LayerNorm-plain", nw.LayerNorm, nn.LayerNorm, (7,), {"elementwise_affine": False}, (4, 7)),
        Case("RMSNorm", nw.RMSNorm, nn.RMSNorm, (7,), {}, (3, 5, 7)),
        Case("RMSNorm-2", nw.RMSNorm, nn.RMSNorm, ((5, 7), 1e-3), {}, (3, 2, 5, 7)),
        Case("RMSNorm-plain", nw.RMSNorm, nn.RMSNorm, (7,), {"elementwise_affine": False}, (4, 7)),
    ]


CASES = _cases()
#: One case for each public class, where the options do not matter.
ONE_EACH = list({case.ours: case for case in reversed(CASES)}.values())[::-1]
#: Layers of [N, C, *space] maps.
MAP_CASES = [case for case in CASES if case.family in ("BatchNorm", "InstanceNorm", "GroupNorm")]


def ids(case: Case) -> str:
    return case.id


def randomize(layer: nn.Module) -> nn.Module:
    """Parameters and buffers as after some training, so that no error hides behind ones and zeros."""
    with torch.no_grad():
        for name, tensor in layer.state_dict().items():
            if name.endswith(("weight", "running_var")):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith(("bias", "running_mean")):
                tensor.normal_()
    return layer


def twins(case: Case, **more: Any) -> tuple[nn.Module, nn.Module]:
    """Our layer and torch's with the same random parameters and buffers."""
    ours = randomize(case.build(**more))
    theirs = case.theirs(*case.args, **case.options)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def in_double(layer: nn.Module) -> nn.Module:
    """A float64 copy: the oracle that decides how far off a narrower result may be."""
    return copy.deepcopy(layer).double()


def _transposed(x: Tensor) -> Tensor:
    return x.transpose(0, -1).contiguous().transpose(0, -1)


def _strided(x: Tensor) -> Tensor:
    wide = x.new_full([2 * size for size in x.shape], torch.nan)
    step = (slice(1, None, 2),) * x.dim()
    wide[step] = x
    return wide[step]


def _expanded(x: Tensor) -> Tensor:
    """Stride 0 along a dimension that no layer's statistics collapse to a point on."""
    return x[:, :1].expand_as(x) if x.dim() == 2 else x[:1].expand_as(x)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": Tensor.contiguous,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "channels_last_3d": lambda x: x.contiguous(memory_format=torch.channels_last_3d),
    "transposed": _transposed,
    "strided": _strided,
    "expanded": _expanded,
}
_LAYOUT_DIMS = {"channels_last": 4, "channels_last_3d": 5}


def layouts_of(case: Case) -> list[str]:
    names = [n for n in LAYOUTS if _LAYOUT_DIMS.get(n, len(case.shape)) == len(case.shape)]
    if case.ours is nw.GroupNorm and len(case.shape) == 2:
        names.remove("expanded")  # equal channels: every group's variance would be zero
    return names


def memory_format(layout: str) -> torch.memory_format:
    formats = {"channels_last": torch.channels_last, "channels_last_3d": torch.channels_last_3d}
    return formats.get(layout, torch.contiguous_format)


def gradients(y: Tensor, inputs: list[Tensor], cotangent: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(y, inputs, cotangent.to(y.dtype), retain_graph=True))


def valid_where(mask: Tensor | None, x: np.ndarray) -> np.ndarray:
    """A torch mask of [N, *space] as a NumPy array of x's shape."""
    if mask is None:
        return np.ones(x.shape, bool)
    return np.broadcast_to(mask.numpy()[:, None], x.shape)


def by_the_paper(case: Case, layer: nn.Module, x: Tensor, mask: Tensor | None = None) -> np.ndarray:
    """The paper's equation in float64 NumPy, with explicit loops over the pools; training mode."""
    values = x.detach().double().numpy()
    valid = valid_where(mask, values)
    y = np.empty_like(values)
    for pool in _pools(case, values.shape):
        members = values[pool][valid[pool]]
        mean = 0.0 if case.family == "RMSNorm" else members.sum() / members.size
        eps = np.finfo(np.float64 if x.dtype == torch.float64 else np.float32).eps
        eps = eps if layer.eps is None else layer.eps
        y[pool] = (values[pool] - mean) / np.sqrt(((members - mean) ** 2).sum() / members.size + eps)
    return _affine(layer, y)


def _pools(case: Case, shape: tuple[int, ...]) -> list[Any]:
    """An index for each set of values that shares one mean and variance."""
    if case.family == "BatchNorm":
        return [(slice(None), c) for c in range(shape[1])]
    if case.family == "InstanceNorm":
        return [(n, c) for n in range(shape[0]) for c in range(shape[1])]
    if case.family == "GroupNorm":
        size = case.args[1] // case.args[0]
        starts = range(0, shape[1], size)
        return [(n, slice(c, c + size)) for n in range(shape[0]) for c in starts]
    dims = len(case.args[0]) if isinstance(case.args[0], tuple) else 1
    return list(np.ndindex(shape[: len(shape) - dims]))


def _affine(layer: nn.Module, y: np.ndarray) -> np.ndarray:
    def over_channels(parameter: Tensor) -> np.ndarray:
        table = parameter.detach().double().numpy()
        rows = isinstance(layer, (nn.LayerNorm, nn.RMSNorm))
        return table if rows else table.reshape((-1,) + (1,) * (y.ndim - 2))

    if layer.weight is not None:
        y = y * over_channels(layer.weight)
    bias = getattr(layer, "bias", None)
    return y if bias is None else y + over_channels(bias)
