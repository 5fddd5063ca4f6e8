"""Which tuning holds: the one that was measured on this machine, otherwise the one that is shipped.

Measured ones lie beside the compiled kernels, a file for each processor or GPU, instruction set, version of torch and
of the kernels, element type and number of threads. Where there is none yet, a process in the background measures one,
for the processes to come: what holds in a process never changes. NORMWISE_TUNING=0 in the environment leaves it at
those that are shipped.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from normwise.errors import InputError
from normwise.files import replace

from .. import background, build
from .record import Tuning, from_data, to_text

SWITCH = "NORMWISE_TUNING"
SHIPPED = Path(__file__).parent
#: The element types of the CPU that torch's operators take on in. In the narrow ones they round the statistics.
CONTESTED = ("fp32", "fp64")
_TRITON = Path(__file__).parent.parent / "triton_kernels"

#: What a process measures that has nothing but these words: it sees the modules that this process sees.
_PROGRAM = "import sys; sys.path[:] = {path!r}; from normwise.tuning.program import main; main()"

_log = logging.getLogger("normwise")

#: What holds in this process, by device, element type and number of threads.
_held: dict[tuple[str, str, int], Tuning | None] = {}


def on_cpu(element: str, threads: int) -> Tuning | None:
    """What holds in this process for the kernels of an element type; begins to measure what later ones shall have."""
    key = ("cpu", element, threads)
    if key not in _held:
        _held[key] = find("cpu", element, threads)
        if arguments := to_measure(element, threads):
            background.measure(arguments, f"{element}, threads: {threads}")
    return _held[key]


def on_gpu(device: torch.device, element: str) -> Tuning | None:
    """What holds in this process for a GPU: what `normwise tune` measured, if it was called."""
    key = (str(device), element, 0)
    if key not in _held:
        _held[key] = find(str(device), element, 0)
    return _held[key]


def find(device: str, element: str, threads: int) -> Tuning | None:
    """What would hold in a new process."""
    measured = read(device, element, threads) if switched_on() else None
    return measured or (shipped(element) if device == "cpu" else None)


def to_measure(element: str, threads: int) -> list[str]:
    """The file that is to be, and the command that makes it; nothing where nothing is to be measured, or cannot be."""
    if element not in CONTESTED or not switched_on():
        return []
    path = path_of("cpu", element, threads)
    if path is None or path.exists() or not can_write(path.parent):
        return []
    program = _PROGRAM.format(path=[os.path.abspath(folder) for folder in sys.path])
    return [str(path), sys.executable, "-c", program, element, str(threads), str(path)]


def measure_first(element: str, threads: int) -> None:
    """Have a measured tuning before this process asks for one, where that can be; waits some seconds for it."""
    if ("cpu", element, threads) not in _held and (arguments := to_measure(element, threads)):
        background.measure(arguments, f"{element}, threads: {threads}", wait=True)


def switched_on() -> bool:
    """Whether tunings are measured, and those that were are used. Raises `InputError` for what is neither 0 nor 1."""
    value = os.environ.get(SWITCH) or "1"
    if value not in ("0", "1"):
        raise InputError(f"{SWITCH}={value}: write 0 for the shipped tunings, or 1 for those measured on this machine.")
    return value == "1"


def path_of(device: str, element: str, threads: int) -> Path | None:
    """Where the tuning lies, or would; None where the kernels' sources are in no folder."""
    about = _of_processor() if device == "cpu" else _of_gpu(device)
    if about is None:
        return None
    digest = hashlib.sha256(repr((torch.__version__, about)).encode()).hexdigest()[:16]
    kind = "cpu" if device == "cpu" else "cuda"
    words = ("tuning", kind, element, *([str(threads)] if threads else []), digest)
    return next(build.cache_folders()).absolute() / f"{'-'.join(words)}.json"


def shipped(element: str) -> Tuning | None:
    """The tuning that the package brings for this processor's instructions, of one thread."""
    return next((tuning for tuning in _shipped(instructions()) if tuning.element == element), None)


@cache
def instructions() -> str:
    """The best level of `build.LEVELS` that the kernels use here."""
    return next((level for level in build.LEVELS if build.can_run(level)), "x86-64")


@cache
def _shipped(level: str) -> list[Tuning]:
    """For other instructions than AVX-512 those of AVX2."""
    path = SHIPPED / f"{level}.json"
    text = (path if path.exists() else SHIPPED / "x86-64-v3.json").read_text(encoding="utf-8")
    return [from_data(data, shipped=True) for data in json.loads(text)]


def read(device: str, element: str, threads: int) -> Tuning | None:
    """What was measured; None where nothing was. What is no tuning of this machine is taken away, and measured anew."""
    path = path_of(device, element, threads)
    if path is None:
        return None
    try:
        tuning = from_data(json.loads(path.read_text(encoding="utf-8")))
        about = machine_of(device)
        if tuning[:5] != (*about, element, threads) or tuning.torch != torch.__version__:
            raise ValueError(f"it is of {tuning.machine}, {tuning.element}, threads: {tuning.threads}")
    except OSError:
        return None
    except ValueError as problem:
        taken = can_write(path.parent)
        then = "it is measured anew" if taken else "the shipped one holds"
        _log.warning("The tuning %s cannot be used (%s): %s.", path, problem, then)
        if taken:
            path.unlink(missing_ok=True)
        return None
    return tuning


def write(tuning: Tuning, path: Path) -> None:
    """Whole or not at all."""
    replace(path, to_text(tuning))


def can_write(folder: Path) -> bool:
    """Whether files can be kept there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


class Machine(NamedTuple):
    """What a tuning is of."""

    device: str
    name: str
    instructions: str


def machine_of(device: str) -> Machine:
    """This machine's processor, or a GPU of it."""
    if device != "cpu":
        about = torch.cuda.get_device_properties(device)
        return Machine("cuda", about.name, f"compute capability {about.major}.{about.minor}")
    names = (line.partition(":")[2].strip() for line in build.processor().splitlines() if line.startswith("model name"))
    return Machine("cpu", next(names, build.processor().partition("\n")[0]), instructions())


@cache
def _of_processor() -> tuple[str, ...] | None:
    try:
        return build.MARCH, build.processor(), build.digest_of_sources()
    except build.BuildError:
        return None


@cache
def _of_gpu(device: str) -> tuple[str, ...]:
    digest = hashlib.sha256()
    for source in sorted(_TRITON.rglob("*.py")):
        digest.update(source.read_bytes())
    return *machine_of(device), digest.hexdigest()
