"""What a whole training step gains: ResNet-50 with torch's normalizers, with ours, and with none."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from .. import layers
from ..backends import build_kernels, use_backend
from ..layers.normalizers import default_groups
from ..nets import resnet
from . import environment
from .measure import AUTOMATIC, FAILED, OK, WRONG, Options
from .regimes import AS_IT_COMES, here
from .storage import Row, Rows
from .sweep import is_of, threads

DEPTH, CLASSES = 50, 1000
#: The last normalizer of each branch starts at 0; so far from it, every kernel's result reaches the loss.
_WEIGHT = 0.5
#: Of the loss of one step, between torch's and ours.
TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}
COLUMNS = (
    *("norm", "dtype", "layout", "batch", "image", "threads", "memory", "status", "message"),
    *("ours_ms", "native_ms", "none_ms", "ratio", "loss_error", "rounds"),
    *(*environment.COLUMNS, environment.DATE),
)
_KEY = COLUMNS[:7]

NATIVE: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": lambda channels: nn.GroupNorm(default_groups(channels), channels),
    "instance": lambda channels: nn.InstanceNorm2d(channels, affine=True),
}
OURS: dict[str, Callable[[int], nn.Module]] = {
    "batch": layers.BatchNorm2d,
    "group": lambda channels: layers.GroupNorm(default_groups(channels), channels),
    "instance": lambda channels: layers.InstanceNorm2d(channels, affine=True),
}


class Step(NamedTuple):
    """One training step: the normalizer, the type (bf16 by autocast), the layout, the size of the batch, the regime."""

    norm: str
    dtype: str
    layout: str
    batch: int = 8
    image: int = 224
    threads: int = 1
    memory: str = AS_IT_COMES


KINDS = (("fp32", "contiguous"), ("bf16", "channels_last"))
#: What one step trains on, [N, 3, H, W].
IMAGES = (8, 3, 224, 224)


def steps(
    threads: Iterable[int],
    *,
    norms: Collection[str] = (),
    dtypes: Collection[str] = (),
    shapes: Collection[tuple[int, ...]] = (),
    memory: Collection[str] = (AS_IT_COMES,),
) -> list[Step]:
    """fp32 contiguous and bf16 channels_last, for each normalizer; of normalizers and types all, or some.

    Raises ValueError for shapes that are no square images, and where nothing is left.
    """
    for shape in shapes:
        if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
            raise ValueError(
                f"A step trains on square images, [N, 3, H, H], received {'x'.join(map(str, shape))}; write, for "
                "example, 2x3x224x224."
            )
    found = [
        Step(norm, *kind, shape[0], shape[2], count, regime)
        for count in threads
        for shape in shapes or (IMAGES,)
        for kind in KINDS
        for norm in NATIVE
        for regime in memory
        if norm in (norms or NATIVE) and kind[0] in (dtypes or kind)
    ]
    if not found:
        raise ValueError(
            f"No step is left: there are steps for {', '.join(NATIVE)} in {' and '.join(d for d, _ in KINDS)}."
        )
    return found


def run(
    wanted: list[Step],
    options: Options,
    path: Path,
    *,
    clock: str = "wall",
    call: Callable[..., Any] = here,
    listen: Callable[[Row], None] | None = None,
) -> list[Row]:
    """Measure the steps that the CSV file does not have yet; see `sweep.run`."""
    about = environment.environment(options.device, clock, options.backend)
    rows: list[Row] = []
    with Rows(path, COLUMNS) as file:
        known = {tuple(row[name] for name in _KEY): row for row in file.read() if is_of(row, about)}
        for step in wanted:
            row = known.get(tuple(map(str, step)))
            if row is None:
                row = file.append(
                    call(step.memory, _measured, step, options) | about | {environment.DATE: environment.today()}
                )
            rows.append(row)
            if listen is not None:
                listen(row)
    return rows


def _measured(step: Step, options: Options) -> dict[str, Any]:
    columns = step._asdict() | {"rounds": options.rounds}
    if options.device.type == "cpu":
        build_kernels(torch.float32, torch.bfloat16)
    chosen = nullcontext() if options.backend == AUTOMATIC else use_backend(options.backend)
    try:
        with threads(step.threads), chosen:
            return columns | measure(step, options)
    except RuntimeError as problem:
        return columns | {"status": FAILED, "message": f"{type(problem).__name__}: {problem}".splitlines()[0]}


def measure(step: Step, options: Options) -> dict[str, Any]:
    """The three nets interleaved, after the losses of torch's and ours were found to agree."""
    makers = {"ours": OURS[step.norm], "native": NATIVE[step.norm], "none": "none"}
    trainers = {name: _Trainer(step, norm, options.device) for name, norm in makers.items()}
    losses = {name: trainer.step() for name, trainer in trainers.items()}
    error = abs(losses["ours"] - losses["native"]) / abs(losses["native"])
    row: dict[str, Any] = {"loss_error": error}
    if not error <= TOLERANCE[step.dtype]:
        return row | {"status": WRONG}
    seconds = options.timer({name: trainer.step for name, trainer in trainers.items()}, options.rounds)
    times = {f"{name}_ms": value * 1e3 for name, value in seconds.items()}
    return row | times | {"status": OK, "ratio": seconds["native"] / seconds["ours"]}


class _Trainer:
    """A net with its data and optimizer, the same start for every normalizer."""

    def __init__(self, step: Step, norm: Any, device: torch.device) -> None:
        layout = torch.channels_last if step.layout == "channels_last" else torch.contiguous_format
        torch.manual_seed(0)
        self.net = resnet(DEPTH, norm, num_classes=CLASSES).to(device, memory_format=layout)  # type: ignore[call-overload]
        with torch.no_grad():
            for module in self.net.modules():
                if isinstance(module, (nn.modules.batchnorm._NormBase, nn.GroupNorm)) and module.weight is not None:
                    module.weight.fill_(_WEIGHT)
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(step.batch, 3, step.image, step.image, generator=generator)
        self.images = images.to(device, memory_format=layout)
        self.labels = torch.randint(CLASSES, (step.batch,), generator=generator).to(device)
        # So small a rate that the net without normalizers survives any number of rounds.
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=1e-6, momentum=0.9)
        self.narrow = step.dtype == "bf16"

    def step(self) -> float:
        with torch.autocast(self.images.device.type, torch.bfloat16, enabled=self.narrow):
            loss = F.cross_entropy(self.net(self.images).float(), self.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()
