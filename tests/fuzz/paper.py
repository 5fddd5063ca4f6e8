"""The classics by the equations of their papers, in NumPy: the specification itself is held against them."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from .scene import Scene

#: Axes of a map's pool, or of a row's, by the first part of a subject's name.
POOLS = {
    "batch": lambda dims: (0, *range(2, dims)),
    "batch_norm": lambda dims: (0, *range(2, dims)),
    "instance": lambda dims: tuple(range(2, dims)),
    "instance_norm": lambda dims: tuple(range(2, dims)),
    "layer": lambda dims: tuple(range(1, dims)),
    "pixel-layer": lambda dims: (1,),
    "layer_norm2d": lambda dims: (1,),
    "positional": lambda dims: (1,),
    "positional_norm": lambda dims: (1,),
    "pixel-rms": lambda dims: (1,),
    "rms_norm2d": lambda dims: (1,),
    "token-layer": lambda dims: (dims - 1,),
    "layer_norm": lambda dims: (dims - 1,),
    "token-rms": lambda dims: (dims - 1,),
    "rms_norm": lambda dims: (dims - 1,),
}
#: By the unbiased variance.
UNBIASED = ("positional", "positional_norm")
EPS = {"pixel-layer": 1e-6, "layer_norm2d": 1e-6, "pixel-rms": 1e-6, "rms_norm2d": 1e-6}


class ContradictionError(Exception):
    """The specification is not what the paper says."""


def family(subject: str) -> str:
    """The first part of a subject's name, without the dimensions of space and the variant."""
    first, _, rest = subject.partition(" ")
    known = rest == "known"
    name = first.rpartition("-")[0] if first.endswith("d") and first[-2] in "n123" and "-" in first else first
    return "" if known else name


def by_the_paper(scene: Scene, y: Tensor) -> None:
    """Hold the specification's output in training against the equation, where it is one of `POOLS`."""
    call, name = scene.call, family(scene.call.subject)
    if name not in POOLS or not call.training or call.mask is not None or call.activation is not None or call.meta:
        return
    x = scene.x.detach().numpy()
    if scene.subject.rank not in (None, x.ndim - 2):  # without the samples, or without space
        return
    axes = POOLS[name](x.ndim)
    if x.size == 0 or any(size == 0 for size in x.shape):
        return
    rms = "rms" in name
    eps = EPS.get(name, np.finfo(np.float64).eps if rms else 1e-5)
    mean = 0.0 if rms else x.mean(axes, keepdims=True)
    count = np.prod([x.shape[axis] for axis in axes]) - (name in UNBIASED)
    want = (x - mean) / np.sqrt(np.square(x - mean).sum(axes, keepdims=True) / count + eps)
    for table, combine in (("weight", np.multiply), ("bias", np.add)):
        if table in scene.tensors:
            values = scene.tensors[table].detach().numpy()
            sizes = (1, -1, *(1,) * (x.ndim - 2)) if scene.subject.channel == 1 else (-1,)
            want = combine(want, values.reshape(sizes))
    if scene.residual is not None:
        want = want + scene.residual.detach().numpy()
    off = np.abs(y.numpy() - want).max()
    allowed = 1e-9 * (1 + np.abs(want).max()) * (1 + np.abs(x).max())
    if not off <= allowed:
        raise ContradictionError(f"{call.subject}: the specification is off the paper's equation by {off:.3g}")
