"""The gain of a whole training step: nets with torch's normalizers, with ours, and with none."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ..backends import build_kernels, use_backend
from . import environment
from .measure import AUTOMATIC, FAILED, OK, WRONG, Options
from .regimes import AS_IT_COMES, here
from .step_nets import KINDS, NETS, REDUCTION, parts
from .storage import Row, Rows
from .sweep import is_of, threads

#: The last normalizer of a residual branch may start at 0; this much away from it, every kernel affects the loss.
_WEIGHT = 0.5
#: The allowed difference of the losses of one step, between torch's normalizers and ours.
TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}
COLUMNS = (
    *("net", "norm", "dtype", "layout", "shape", "threads", "memory", "status", "message"),
    *("ours_ms", "native_ms", "none_ms", "ratio", "loss_error", "rounds"),
    *(*environment.COLUMNS, environment.DATE),
)
_KEY = COLUMNS[:7]
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


class Step(NamedTuple):
    """One training step: a key of `NETS`, its normalizer, the dtype (bf16 by autocast), the layout, the input's shape,
    the memory regime."""

    net: str
    norm: str
    dtype: str
    layout: str
    shape: tuple[int, ...]
    threads: int = 1
    memory: str = AS_IT_COMES

    def columns(self) -> dict[str, Any]:
        """The step as a row of the CSV file."""
        return self._asdict() | {"shape": "x".join(map(str, self.shape))}


def steps(
    threads: Iterable[int],
    *,
    norms: Collection[str] = (),
    dtypes: Collection[str] = (),
    shapes: Collection[tuple[int, ...]] = (),
    memory: Collection[str] = (AS_IT_COMES,),
) -> list[Step]:
    """The steps of all nets: all normalizers and dtypes or some, and each net's own shape or the given ones that fit.

    Raises ValueError for shapes that fit no net, and if nothing is left.
    """
    for shape in shapes:
        if not any(_takes(net.shape, shape) for net in NETS.values()):
            raise ValueError(
                f"A step trains on pictures, [N, 3, H, W], or volumes, [N, 1, D, H, W], whose sizes are multiples of "
                f"{REDUCTION}, received {'x'.join(map(str, shape))}; write, for example, 2x3x224x224."
            )
    found = [
        Step(name, norm, dtype, layout, shape, count, regime)
        for count in threads
        for name, net in NETS.items()
        for shape in shapes or (net.shape,)
        for norm in net.norms
        for dtype, layout in net.kinds
        for regime in memory
        if norm in (norms or net.norms) and dtype in (dtypes or (dtype,)) and _takes(net.shape, shape)
    ]
    if not found:
        known = dict.fromkeys(norm for net in NETS.values() for norm in net.norms)
        raise ValueError(f"No step is left: there are steps for {', '.join(known)} in fp32 and bf16.")
    return found


def _takes(own: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether the net whose own input shape is ``own`` accepts inputs of ``shape``."""
    return len(shape) == len(own) and shape[1] == own[1] and all(n > 0 and n % REDUCTION == 0 for n in shape[2:])


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
            columns = step.columns()
            row = known.get(tuple(str(columns[name]) for name in _KEY))
            if row is None:
                row = file.append(
                    call(step.memory, _measured, step, options) | about | {environment.DATE: environment.today()}
                )
            rows.append(row)
            if listen is not None:
                listen(row)
    return rows


def _measured(step: Step, options: Options) -> dict[str, Any]:
    columns = step.columns() | {"rounds": options.rounds}
    if options.device.type == "cpu":
        build_kernels(torch.float32, torch.bfloat16)
    chosen = nullcontext() if options.backend == AUTOMATIC else use_backend(options.backend)
    try:
        with threads(step.threads), chosen:
            return columns | measure(step, options)
    except RuntimeError as problem:
        return columns | {"status": FAILED, "message": f"{type(problem).__name__}: {problem}".splitlines()[0]}


def measure(step: Step, options: Options) -> dict[str, Any]:
    """Time the three nets interleaved, after a check that the losses of torch's and ours agree."""
    trainers = {kind: _Trainer(step, kind, options.device) for kind in KINDS}
    losses = {name: trainer.step() for name, trainer in trainers.items()}
    error = abs(losses["ours"] - losses["native"]) / abs(losses["native"])
    row: dict[str, Any] = {"loss_error": error}
    if not error <= TOLERANCE[step.dtype]:
        return row | {"status": WRONG}
    seconds = options.timer({name: trainer.step for name, trainer in trainers.items()}, options.rounds)
    times = {f"{name}_ms": value * 1e3 for name, value in seconds.items()}
    return row | times | {"status": OK, "ratio": seconds["native"] / seconds["ours"]}


class _Trainer:
    """A net with its data and optimizer, with the same start for all normalizers."""

    def __init__(self, step: Step, kind: str, device: torch.device) -> None:
        last = step.layout == "channels_last"
        layout = _LAYOUTS[len(step.shape)] if last else torch.contiguous_format
        torch.manual_seed(0)
        net = NETS[step.net].make(parts(kind, step.norm, len(step.shape) - 2))
        self.net = net.to(device, memory_format=layout)  # type: ignore[call-overload]
        with torch.no_grad():
            for module in self.net.modules():
                if isinstance(module, _NORMS) and module.weight is not None:
                    module.weight.fill_(_WEIGHT)
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(step.shape, generator=generator).to(device, memory_format=layout)
        # A rate so small that the net without normalizers stays stable for any number of rounds.
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=1e-6, momentum=0.9)
        self.narrow = step.dtype == "bf16"

    def step(self) -> float:
        with torch.autocast(self.x.device.type, torch.bfloat16, enabled=self.narrow):
            y = self.net(self.x)
        loss = (y.float() - 1).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()
