"""From the user's request to the cases and options of a run, checked before anything is measured."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from ..backends import available_backends
from ..comparison.settings import InputError
from . import grid_cpu, grid_cuda
from .cases import DTYPES, LAYOUTS, ROWS, Axes, Case, Site, expand
from .measure import AUTOMATIC, Options
from .regimes import regimes
from .subjects import SUBJECTS
from .timing import CLOCKS, ROUNDS, Timer, cpu_timer, cuda_timer

#: The tensor that is so small that a call takes only host time.
TINY = (2, 32, 8, 8)
OVERHEAD_ROUNDS = 25
_OVERHEAD_LAYERS = ("batch", "batch-eval", "group", "instance", "layer", "token-layer", "token-rms")


@dataclass(frozen=True)
class Request:
    """The options of `normwise bench`; an empty one means the grid's own choice."""

    device: str = "cpu"
    quick: bool = False
    layers: tuple[str, ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()
    dtypes: tuple[str, ...] = ()
    layouts: tuple[str, ...] = ()
    threads: tuple[int, ...] = ()
    backend: str = ""
    compile: bool = False
    clock: str = "wall"

    def __post_init__(self) -> None:
        _check_names("layers", self.layers, SUBJECTS)
        _check_names("dtypes", self.dtypes, DTYPES)
        _check_names("layouts", self.layouts, LAYOUTS)
        _check_names("clock", (self.clock,), CLOCKS)
        check_device(self.device)
        _check_names("backend", (self.kernels,), (AUTOMATIC, *available_backends()))
        reason = available_backends().get(self.kernels)
        if reason:
            raise InputError(f"backend={self.kernels!r} is not available: {reason}")
        if any(count < 1 for count in self.threads):
            raise InputError(f"threads={list(self.threads)}: each must be at least 1.")

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def kernels(self) -> str:
        """The backend; on a GPU the Triton kernels, which are never chosen automatically before they are measured."""
        return self.backend or ("triton" if self.on_gpu else AUTOMATIC)

    def cases(self) -> list[Case]:
        """The grid. Raises `InputError` if the choices leave nothing of it."""
        found = list(expand(self._sites(), self._axes(), self.layers))
        if not found:
            raise InputError("No case is left: the layers, shapes and layouts that were given do not fit together.")
        return found

    def _sites(self) -> Sequence[Site]:
        if self.shapes:
            return [_given(shape, self.layers) for shape in self.shapes]
        if self.on_gpu:
            sites = [Site(*row) for row in grid_cuda.ROWS]
            # The first shape of each net, which is its largest or nearly so.
            return list({site.net: site for site in reversed(sites)}.values()) if self.quick else sites
        return grid_cpu.QUICK if self.quick else grid_cpu.SITES

    def _axes(self) -> Axes:
        """The axes of the grid, with the request's choices."""
        dtypes, directions = ("fp32", "bf16"), ("forward", "both")
        if self.on_gpu:
            dtypes, directions = grid_cuda.DTYPES, grid_cuda.DIRECTIONS
        return Axes(
            self.dtypes or (dtypes[:1] if self.quick else dtypes),
            self.layouts or LAYOUTS,
            ("both",) if self.quick else directions,
            self.thread_counts(),
            self.memory(),
        )

    def thread_counts(self) -> tuple[int, ...]:
        """The numbers of threads: one and all, or all for a quick run; empty on a GPU."""
        if self.on_gpu:
            return (0,)
        counts = self.threads or ((torch.get_num_threads(),) if self.quick else (1, torch.get_num_threads()))
        return tuple(dict.fromkeys(counts))

    def memory(self) -> tuple[str, ...]:
        """The memory regimes of the CPU; empty on a GPU."""
        return ("",) if self.on_gpu else regimes()

    def overhead_cases(self) -> list[Case]:
        """Cases of a tiny tensor, which show the cost of a call before any arithmetic."""
        return list(expand([Site("tiny", TINY, _OVERHEAD_LAYERS)], Axes(("fp32",), LAYOUTS[:1], threads=(1,))))

    def options(self, rounds: int = ROUNDS) -> Options:
        """The options that apply to every case."""
        device = torch.device(self.device)
        modes = ("compiled", "autotuned") if self.on_gpu else ("compiled",)
        compiled = modes if self.compile else ()
        return Options(device, self._timer(device), self.kernels, compiled, peers=self.on_gpu, rounds=rounds)

    def _timer(self, device: torch.device) -> Timer:
        return cuda_timer(device) if self.on_gpu else cpu_timer(self.clock)


def check_device(device: str) -> None:
    """Raise `InputError` for a device that does not exist."""
    device_type, _, number = device.partition(":")
    _check_names("device", (device_type,), ("cpu", "cuda"))
    if device_type != device and not number.isdecimal():
        raise InputError(f"device={device!r} is unknown; write cpu, cuda, or cuda:0 and so on.")
    if device_type == "cuda" and not torch.cuda.is_available():
        built = "" if torch.backends.cuda.is_built() else f"; torch {torch.__version__} is built without CUDA"
        raise InputError(f"device={device!r} is not available: torch finds no CUDA device{built}. Write 'cpu'.")
    there = [f"cuda:{k}" for k in range(torch.cuda.device_count())]
    if device_type == "cuda" and number and f"cuda:{int(number)}" not in there:
        raise InputError(f"device={device!r} is not available: torch finds {', '.join(there)}.")


def _given(shape: tuple[int, ...], layers: tuple[str, ...]) -> Site:
    """A site for the user's own shape: rows if the shape has no space, maps otherwise."""
    fitting = tuple(name for name in SUBJECTS if (name in ROWS) == (len(shape) == 2))
    if len(shape) < 2 or len(shape) > 5 or min(shape) < 1:
        raise InputError(f"shapes={'x'.join(map(str, shape))}: write NxCxHxW (1 to 3 spatial sizes), or NxC for rows.")
    return Site("given", shape, layers or fitting)


def _check_names(name: str, given: Sequence[str], known: Collection[str]) -> None:
    for word in given:
        if word not in known:
            raise InputError(f"{name}={word!r} is unknown; write one of {', '.join(known)}.")
