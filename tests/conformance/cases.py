"""A layer of every row of `NORMALIZERS`, and its input: what the promises of this folder are proven for.

A promise is a function of a case. Its outcome is "works" (the result was compared and agrees), "-" (the question does
not arise for the layer) or "error" (a clear ValueError or TypeError). Anything else is a defect and raises. The
yardstick is the layer itself in fp64, contiguous, on the reference backend; that *it* is right is proven, layer by
layer, against torch.nn and NumPy in tests/layers.
"""

from __future__ import annotations

import inspect
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.testing import assert_close

from normwise import use_backend
from normwise.layers import NORMALIZERS

WORKS, NOT_APPLICABLE, ERROR = "works", "-", "error"
SAMPLES, CHANNELS = 4, 8
SPACE = {0: (), 1: (7,), 2: (5, 6), 3: (3, 4, 5)}
LAYOUTS = {2: torch.channels_last, 3: torch.channels_last_3d}
#: Options that change what a row computes, by the row's class at rank 2: its other formulas.
SETTINGS = {
    "instance": {"tracked": {"affine": True, "track_running_stats": True}},
    "renorm": {
        "schedule": {"r_max": ((0, 1.0), (4, 1.3)), "d_max": ((0, 0.0), (2, 0.4))},
        "open": {"r_max": math.inf, "d_max": math.inf},
        "constants": {"r_max": 1.5, "d_max": 0.5},
    },
    "switchable": {"without batch": {"using_bn": False}, "without instance": {"using_in": False}},
    "filter-response": {"threshold": {}, "learned eps": {"activation": None, "learnable_eps": True}},
}
#: Recording an operator after the other takes long, and what is recorded differs by formula: known statistics, a pool,
#: a mixture, each response, no statistics, rows, pixels, further inputs. One row of each; the slow suite has them all.
ONE_OF_EACH_WAY = {"batch", "group", "ghost", "renorm", "switchable", "evo-b0", "filter-response", "global-response"}
ONE_OF_EACH_WAY |= {"pixel-layer", "token-rms", "tanh", "adaptive-layer", "conditional-batch"}
# Roundings of the output's own type on values of order one, and for the gradients on sums of a few dozen of them.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5, torch.bfloat16: 4e-2, torch.float16: 6e-3}


class Case(NamedTuple):
    """A row of the table at one rank, or one of its other formulas."""

    name: str
    rank: int
    setting: str = ""

    def made(self) -> nn.Module:
        """The layer as it is made."""
        torch.manual_seed(0)
        row = NORMALIZERS[self.name]
        if self.setting:
            return row.layers[self.rank](CHANNELS, **SETTINGS[self.name][self.setting])
        return row.make(CHANNELS, self.rank, None)

    def layer(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """The same as after some training: away from the special points 0 and 1, inside every valid range."""
        layer = self.made()
        for k, parameter in enumerate(layer.parameters()):
            with torch.no_grad():
                parameter.copy_(torch.linspace(0.3 + 0.1 * k, 0.9, max(parameter.numel(), 1)).view_as(parameter))
        return layer.to(dtype)

    def alone(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """The same, with the batch of this process for that of all."""
        layer = self.layer(dtype)
        if needs_processes(self):
            layer.process_group = None
        return layer

    @property
    def id(self) -> str:
        return f"{self.name}-{self.rank}d{self.setting and '-'}{self.setting}"

    @property
    def factors(self) -> tuple[str, int]:
        """What a covering subset must combine with other arguments: not each layer at each rank."""
        return self.name + self.setting, self.rank

    @property
    def maps(self) -> bool:
        """Whether the layer takes [N, C, *space], not rows [*, C]."""
        return NORMALIZERS[self.name].of_maps

    def takes(self, argument: str) -> bool:
        """Whether ``forward`` has the argument."""
        return argument in inspect.signature(self.made().forward).parameters

    def condition(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
        """The further inputs of a conditional layer."""
        kind = NORMALIZERS[self.name].condition
        if kind == "labels":
            return (torch.arange(SAMPLES) % 2,)
        if kind == "style":
            return (self.input(dtype, seed=7) * 2,)
        if kind == "segmentation":
            labels = torch.arange(SAMPLES * 30).view(SAMPLES, 1, 5, 6) % 2
            return (torch.cat([labels, 1 - labels], 1).to(dtype),)
        if kind == "vector":
            return (torch.linspace(-1, 1, 2 * SAMPLES).view(SAMPLES, 2).to(dtype),)
        if kind == "gate":
            return (self.input(dtype, seed=7),)
        return ()

    def input(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        shape = (SAMPLES, CHANNELS, *SPACE[self.rank])
        x = torch.randn(shape, generator=generator, dtype=torch.float64) * 1.5 + 0.5
        if not self.maps:
            x = x.movedim(1, -1).contiguous()
        # Values that every dtype holds exactly, so that a comparison sees the layer's rounding and not the input's.
        return x.bfloat16().to(torch.float16).to(dtype)

    def mask(self) -> Tensor:
        """Two thirds of the positions, or of a row's features."""
        shape = (SAMPLES, *SPACE[self.rank]) if self.maps else self.input().shape
        return torch.rand(shape, generator=torch.Generator().manual_seed(3)) < 0.7


def cases() -> list[Case]:
    """Every row of the table at every rank it serves; synchronized layers are proven over real processes."""
    found = []
    for name, row in NORMALIZERS.items():
        if name == "none":
            continue
        ranks = (1, 2, 3) if 0 in row.layers else tuple(row.layers)
        found += [Case(name, rank) for rank in ranks]
    return found


def other_formulas() -> list[Case]:
    return [Case(name, 2, setting) for name, settings in SETTINGS.items() for setting in settings]


def needs_processes(case: Case) -> bool:
    """Alone SyncBatchNorm is BatchNorm; tests/distributed proves what it is with processes."""
    return case.name == "sync"


def modes(case: Case) -> tuple[bool, ...]:
    """Training and evaluation; without processes evaluation alone."""
    return (False,) if needs_processes(case) else (True, False)


def truth(case: Case, dtype: torch.dtype, training: bool) -> dict[str, Tensor]:
    """What `trained` gives in fp64, contiguous, on the reference backend; parameters are first rounded to ``dtype``."""
    with use_backend("reference"):
        return trained(case.layer(dtype).double(), case.input(), case.input(seed=1), training, case.condition())


def trained(layer, x, cotangent, training, condition=(), **options) -> dict[str, Tensor]:
    """Output, gradients and buffers of one forward and backward pass."""
    return results_of(layer.train(training), layer, x, cotangent, condition, **options)


def results_of(call, layer, x, cotangent, condition=(), **options) -> dict[str, Tensor]:
    """The same of ``layer`` that runs by ``call``."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    layer.zero_grad()
    y = call(x, *condition, **options)
    y.backward(cotangent)
    result = {"y": y.detach(), "x.grad": x.grad}
    result |= {f"{n}.grad": p.grad for n, p in layer.named_parameters() if p.grad is not None}
    return result | {name: buffer.clone() for name, buffer in layer.named_buffers()}


def assert_near(got: dict[str, Tensor], truth: dict[str, Tensor], tolerance: float, of: str = "") -> None:
    """Every tensor of ``got`` within ``tolerance`` times the size of its terms, whose sums may cancel: the largest."""
    for name, value in got.items():
        want = truth[name]
        scale = max(1.0, want.abs().max().item()) if want.is_floating_point() else 1.0
        value = value.to(want.dtype)
        if name == "x.grad" and "tau.grad" in truth:
            value = without_ties(value, want, tolerance * scale)
        said = f"{of} {name}: {{}}".format
        assert_close(value / scale, want / scale, atol=tolerance, rtol=tolerance, msg=said)


def without_ties(value, want, tolerance):
    """Forgive one value in a hundred: rounding to a narrow type puts some exactly on the threshold's kink."""
    off = (value - want).abs() > tolerance
    assert off.float().mean() <= 0.01
    return torch.where(off, want, value)
