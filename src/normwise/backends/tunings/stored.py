"""The tuning that applies: the one that was measured on this machine, otherwise the shipped one.

Measured tunings are stored beside the compiled kernels, a file for each processor or GPU, instruction set, version of
torch and of the kernels, element type and number of threads. Where there is none yet, a background process measures one
for later processes; the tuning of a running process never changes. NORMWISE_TUNING=0 in the environment uses the
shipped tunings only.
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
#: The element types for which torch's operators are considered on the CPU; for narrow ones they round the statistics.
CONTESTED = ("fp32", "fp64")
_TRITON = Path(__file__).parent.parent / "triton_kernels"

#: The program of a measuring process; it finds its modules where this process finds them.
_PROGRAM = "import sys; sys.path[:] = {path!r}; from normwise.tuning.program import main; main()"

_log = logging.getLogger("normwise")

#: The tunings of this process, by device, element type and number of threads.
_held: dict[tuple[str, str, int], Tuning | None] = {}


def on_cpu(element: str, threads: int) -> Tuning | None:
    """This process' tuning for the kernels of an element type; starts a measurement for later processes."""
    key = ("cpu", element, threads)
    if key not in _held:
        _held[key] = find("cpu", element, threads)
        if arguments := to_measure(element, threads):
            background.measure(arguments, f"{element}, threads: {threads}")
    return _held[key]


def on_gpu(device: torch.device, element: str) -> Tuning | None:
    """This process' tuning for a GPU: the one that `normwise tune` measured, if it was called."""
    key = (str(device), element, 0)
    if key not in _held:
        _held[key] = find(str(device), element, 0)
    return _held[key]


def find(device: str, element: str, threads: int) -> Tuning | None:
    """The tuning that a new process would use."""
    measured = read(device, element, threads) if switched_on() else None
    return measured or (shipped(element) if device == "cpu" else None)


def to_measure(element: str, threads: int) -> list[str]:
    """The file to be made and the command that makes it; empty if nothing is to be measured, or nothing can be."""
    if element not in CONTESTED or not switched_on():
        return []
    path = path_of("cpu", element, threads)
    if path is None or path.exists() or not can_write(path.parent):
        return []
    program = _PROGRAM.format(path=[os.path.abspath(folder) for folder in sys.path])
    return [str(path), sys.executable, "-c", program, element, str(threads), str(path)]


def measure_first(element: str, threads: int) -> None:
    """Measure before this process uses a tuning, if possible; waits some seconds for it."""
    if ("cpu", element, threads) not in _held and (arguments := to_measure(element, threads)):
        background.measure(arguments, f"{element}, threads: {threads}", wait=True)


def switched_on() -> bool:
    """Whether tunings are measured and used. Raises `InputError` for a value other than 0 and 1."""
    value = os.environ.get(SWITCH) or "1"
    if value not in ("0", "1"):
        raise InputError(f"{SWITCH}={value}: write 0 for the shipped tunings, or 1 for those measured on this machine.")
    return value == "1"


def path_of(device: str, element: str, threads: int) -> Path | None:
    """The path of the tuning's file; None if the kernels' sources are not in a folder."""
    about = _of_processor() if device == "cpu" else _of_gpu(device)
    if about is None:
        return None
    digest = hashlib.sha256(repr((torch.__version__, about)).encode()).hexdigest()[:16]
    device_type = "cpu" if device == "cpu" else "cuda"
    words = ("tuning", device_type, element, *([str(threads)] if threads else []), digest)
    return next(build.cache_folders()).absolute() / f"{'-'.join(words)}.json"


def shipped(element: str) -> Tuning | None:
    """The tuning that the package ships for this processor's instructions and one thread."""
    return next((tuning for tuning in _shipped(instructions()) if tuning.element == element), None)


@cache
def instructions() -> str:
    """The best level of `build.LEVELS` that the kernels use here."""
    return next((level for level in build.LEVELS if build.can_run(level)), "x86-64")


@cache
def _shipped(level: str) -> list[Tuning]:
    """The shipped tunings of a level; those of AVX2 for any level but AVX-512."""
    path = SHIPPED / f"{level}.json"
    text = (path if path.exists() else SHIPPED / "x86-64-v3.json").read_text(encoding="utf-8")
    return [from_data(data, shipped=True) for data in json.loads(text)]


def read(device: str, element: str, threads: int) -> Tuning | None:
    """The measured tuning, or None. A file that is no tuning of this machine is removed, and measured anew."""
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
        then = "it is measured anew" if taken else "the shipped one is used"
        _log.warning("The tuning %s cannot be used (%s): %s.", path, problem, then)
        if taken:
            path.unlink(missing_ok=True)
        return None
    return tuning


def write(tuning: Tuning, path: Path) -> None:
    """Write the file as a whole or not at all."""
    replace(path, to_text(tuning))


def can_write(folder: Path) -> bool:
    """Whether files can be stored there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


class Machine(NamedTuple):
    """The device that a tuning belongs to."""

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
