"""Count the Python calls in a call of a layer: python tools/calls.py [PATH/TO/ANOTHER/src]

For each of five layers on a small tensor, forward and backward with a gradient, from the second call on: the number of
calls of Python functions, of files of the package that they are in, and of calls from one file to another. With the
path of another version's sources, that version is counted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

if len(sys.argv) > 1:
    sys.path.insert(0, sys.argv[1])

import torch
from torch import Tensor, nn

import normwise as nw

PACKAGE = str(Path(nw.__file__).parent)


class Counter:
    """Counts while `sys.setprofile` reports."""

    def __init__(self) -> None:
        self.calls, self.changes = 0, 0
        self.files: set[str] = set()

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        if event != "call":
            return
        self.calls += 1
        file = frame.f_code.co_filename
        if not file.startswith(PACKAGE):
            return
        self.files.add(file)
        caller = frame.f_back
        self.changes += caller is None or caller.f_code.co_filename != file


def own_formula(moments: nw.Moments, weight: Tensor, bias: Tensor) -> nw.Affine:
    """A normalizer as a user may write it, with the average over the channels of the planes' statistics."""
    mean, var = moments.mean.mean(1, keepdim=True), moments.var.mean(1, keepdim=True)
    return nw.Affine(mean, weight * (var + 1e-5).rsqrt(), bias)


def subjects() -> dict[str, Callable[[Tensor], Tensor]]:
    """The counted functions by name."""
    residual, weight, bias = torch.randn(2, 64, 8, 8), nn.Parameter(torch.ones(64)), nn.Parameter(torch.zeros(64))
    group = nw.GroupNorm(8, 64, activation="relu")
    rows = nw.LayerNorm(64)
    return {
        "BatchNorm2d": nw.BatchNorm2d(64),
        "GroupNorm, ReLU and residual": lambda x: group(x, residual),
        "LayerNorm": lambda x: rows(x.flatten(2).transpose(1, 2).contiguous()),
        "SwitchableNorm2d": nw.SwitchableNorm2d(64),
        "an own formula": lambda x: nw.normalize(x, own_formula, weight, bias),
    }


def counted(run: Callable[[], object]) -> Counter:
    """The counts of one call, after a first call that chose the way."""
    run()
    run()
    counter = Counter()
    sys.setprofile(counter)
    try:
        run()
    finally:
        sys.setprofile(None)
    return counter


def main() -> None:
    if hasattr(nw, "build_kernels"):
        nw.build_kernels(torch.float32)
    x = torch.randn(2, 64, 8, 8, requires_grad=True)
    print(f"{'calls / files / changes of file':<32}{'forward':>16}{'with backward':>18}")
    for name, layer in subjects().items():
        forward = counted(lambda layer=layer: layer(x))
        both = counted(lambda layer=layer: layer(x).sum().backward())
        figures = (f"{c.calls} / {len(c.files)} / {c.changes}" for c in (forward, both))
        print(f"{name:<32}{next(figures):>16}{next(figures):>18}")


if __name__ == "__main__":
    main()
