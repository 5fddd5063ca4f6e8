"""The checks of this machine for everything that makes normwise fast: `normwise doctor` without a model."""

from __future__ import annotations

import importlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch

from .backends import available_backends, build, cpu
from .backends.allocator import VARIABLES, allocator, unavailable
from .backends.cpu_library import ELEMENTS, threads
from .backends.huge_pages import SYSTEM_FILE, huge_pages, system_huge_pages
from .backends.tunings import stored
from .bench import allocation

OK, NOTE, PROBLEM = "ok", "note", "problem"
OLDEST_TORCH = (2, 10)
MAPS = Path("/proc/self/maps")
_KERNELS = re.compile(r"/kernels-[^/]+\.so$")
_OPENMP = re.compile(r"/lib[gi]?omp\d*[^/]*\.so[^/]*$")
#: Room for a few libraries, and for the compiler's temporary files.
_ROOM = 64 << 20
#: Import name: (distribution, its purpose).
PACKAGES = {
    "typer": ("typer", "the command line"),
    "rich": ("rich", "the command line"),
    "plotly": ("plotly", "reports"),
    "PIL": ("pillow", "image folders"),
    "sklearn": ("scikit-learn", "the digits data"),
    "torchvision": ("torchvision", "models"),
    "timm": ("timm", "models"),
    "onnx": ("onnx", "export"),
    "onnxruntime": ("onnxruntime", "export"),
    "tensorboard": ("tensorboard", "logging"),
    "ray": ("ray", "comparisons on a cluster"),
    "triton": ("triton", "kernels for GPUs"),
}


class Check(NamedTuple):
    """One check: its name, its level (`OK`, `NOTE` or `PROBLEM`), the finding, and what to do."""

    name: str
    level: str
    found: str
    advice: str = ""


def examine() -> list[Check]:
    """Run all checks. Compiles the C++ kernels if that has not happened on this machine.

    >>> [check.name for check in examine()][:3]
    ['normwise', 'Python', 'torch']
    """
    return [check for look in _LOOKS for check in look()]


def _installation() -> Iterator[Check]:
    yield Check("normwise", OK, f"{metadata.version('normwise')} in {Path(__file__).parent}")
    yield Check("Python", OK, f"{platform.python_version()} on {platform.platform()}")
    found = f"{torch.__version__} in {Path(torch.__file__).parent}"
    numbers = tuple(int(n) for n in re.findall(r"\d+", str(torch.__version__))[:2])
    if numbers < OLDEST_TORCH:
        wanted = ".".join(map(str, OLDEST_TORCH))
        yield Check("torch", PROBLEM, found, f"normwise needs {wanted} or later: pip install --upgrade torch")
    else:
        yield Check("torch", OK, found)


def _backends() -> Iterator[Check]:
    for name, reason in available_backends().items():
        if reason is None:
            yield Check(f"backend {name}", OK, f"available{_origin(name)}")
        elif name == cpu.name:
            advice = "until then plain PyTorch serves, which is slower"
            yield Check(f"backend {name}", PROBLEM, f"not available: {reason}", advice)
        else:
            yield Check(f"backend {name}", NOTE, f"not available: {reason}")


def _origin(name: str) -> str:
    """The file of the C++ kernels: in the cache, or in a wheel."""
    libraries = [path for path in _mapped_files() if _KERNELS.search(path)] if name == cpu.name else []
    return f": {', '.join(libraries)}" if libraries else ""


def _mapped_files() -> list[str]:
    """The files that are mapped into this process; empty if the system does not say."""
    try:
        text = MAPS.read_text()
    except OSError:
        return []
    # The sixth field of a line is the file; its name may contain blanks.
    fields = (line.split(maxsplit=5) for line in text.splitlines())
    return sorted({found[5] for found in fields if len(found) == 6})


def _compiler() -> Iterator[Check]:
    try:
        command = build.find_compiler()
    except build.BuildError as reason:
        yield Check("C++ compiler", NOTE, str(reason).partition(";")[0])
        return
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    version = done.stdout.partition("\n")[0]
    found = f"{shlex.join(command)} ({shutil.which(command[0])}): {version}"
    if build.MARCH == "native":
        yield Check("C++ compiler", OK, found)
    else:
        advice = "unset NORMWISE_MARCH to compile for this processor"
        yield Check("C++ compiler", NOTE, f"{found}, for {build.MARCH}", advice)


def _cache() -> Iterator[Check]:
    folder = next(build.cache_folders())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        advice = "every process compiles the kernels anew; set NORMWISE_CACHE to a folder that can be written"
        yield Check("cache", PROBLEM, f"{folder} cannot be written: {error.strerror}", advice)
        return
    sizes = [path.stat().st_size for path in folder.glob("*.so")]
    found = f"{folder}, compiled libraries: {len(sizes)}, {sum(sizes) / 2**20:.1f} MB"
    if free < _ROOM:
        advice = "make room, or set NORMWISE_CACHE to a folder on another disk"
        yield Check("cache", PROBLEM, f"{found}; only {free >> 20} MB are free", advice)
    else:
        yield Check("cache", OK, found)


def _tunings() -> Iterator[Check]:
    """The tunings that a new process with as many threads would use."""
    used = stored.switched_on()
    unset = f"{stored.SWITCH}=0 is set; unset it to use what is measured on this machine"
    if available_backends()[cpu.name] is None:
        for element in stored.CONTESTED:
            tuning = stored.find("cpu", element, threads())
            if tuning is not None:
                level, advice = (NOTE, "normwise tune measures this machine" if used else unset)
                yield Check("tuning", *((level, tuning.name, advice) if tuning.shipped else (OK, tuning.name)))
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        device = f"cuda:{i}"
        tunings = [stored.find(device, element, 0) for element in ELEMENTS.values()]
        found = ", ".join(tuning.name for tuning in tunings if tuning is not None)
        if found:
            yield Check(f"tuning {device}", OK, found)
        else:
            advice = f"normwise tune --device {device} measures Triton's kernels" if used else unset
            yield Check(f"tuning {device}", NOTE, "none: torch's operators serve", advice)


def _huge_pages() -> Iterator[Check]:
    system = system_huge_pages()
    if system is None:
        yield Check("huge pages", NOTE, "this system has none to ask for; large outputs cost page faults")
    elif not huge_pages():
        advice = "unset NORMWISE_HUGE_PAGES, or call normwise.huge_pages(True)"
        yield Check("huge pages", NOTE, f"switched off in normwise (system: {system})", advice)
    elif system == "never":
        advice = f"as root: echo madvise > {SYSTEM_FILE}"
        yield Check("huge pages", NOTE, "the system gives none; large outputs cost page faults", advice)
    else:
        yield Check("huge pages", OK, f"on for large outputs (system: {system})")


def _memory() -> Iterator[Check]:
    """Fresh memory against kept memory, with torch's number of threads."""
    cost = allocation.measure()
    fresh, kept = (f"{ms:.1f} ms" for ms in (cost.fresh_ms, cost.kept_ms))
    if cost.fresh_faults is not None:
        fresh, kept = f"{fresh} ({cost.fresh_faults:.0f} page faults)", f"{kept} ({cost.kept_faults:.0f})"
    found = f"{cost.size >> 20} MB allocated, written and freed in {fresh}, kept and written again in {kept}"
    if not cost.anew:
        yield Check("memory", OK, f"{allocator()} reuses what is freed: {found}")
        return
    reason = unavailable()
    if reason is None:
        advice = f"call normwise.reuse_memory() before the first large tensor, or from outside: {VARIABLES}"
    else:
        advice = f"normwise.reuse_memory() {reason}"
    yield Check("memory", NOTE, f"{allocator()} gives back what is freed: {found}", advice)


def _threads() -> Iterator[Check]:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS")
    used = torch.get_num_threads()
    said = f"torch uses {used} of {allowed} cores" + (f", OMP_NUM_THREADS={wanted}" if wanted else "")
    if used > allowed:
        advice = f"more threads than cores wait for each other: torch.set_num_threads({allowed})"
        yield Check("threads", NOTE, said, advice)
    else:
        yield Check("threads", OK, said)


def _openmp() -> Iterator[Check]:
    """The OpenMP runtimes; checked after the kernels were loaded, so that theirs is included."""
    if cpu.threaded() is False:
        advice = "compile with g++ (CXX=g++), or install your compiler's OpenMP, such as libomp, and empty the cache"
        yield Check("kernels' threads", NOTE, "one, whatever torch uses: the C++ compiler has no OpenMP", advice)
    runtimes = [path for path in _mapped_files() if _OPENMP.search(path)]
    if len({os.path.realpath(path) for path in runtimes}) > 1:
        advice = "two pools of threads slow each other down; find who loads the second, often another package's copy"
        yield Check("OpenMP", PROBLEM, f"{len(runtimes)} runtimes in the process: {', '.join(runtimes)}", advice)
    elif runtimes:
        yield Check("OpenMP", OK, runtimes[0])


def _gpus() -> Iterator[Check]:
    if not torch.cuda.is_available():
        yield Check("GPU", OK, "none that torch can use")
        return
    for i in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(i)
        text = f"{about.name}, {about.total_memory / 2**30:.0f} GiB, compute capability {about.major}.{about.minor}"
        yield Check(f"GPU {i}", OK, text)


def _packages() -> Iterator[Check]:
    present, absent = [], []
    for name, (distribution, purpose) in PACKAGES.items():
        if find_spec(name) is None:
            absent.append(f"{distribution} ({purpose})")
        else:
            present.append(f"{distribution} {_version(name, distribution)}")
    yield Check("optional packages", OK, ", ".join(present) or "none")
    if absent:
        yield Check("not installed", NOTE, ", ".join(absent))


def _version(name: str, distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:  # it has another distribution name: triton has several
        return getattr(importlib.import_module(name), "__version__", "")


_LOOKS: tuple[Callable[[], Iterator[Check]], ...] = (
    *(_installation, _backends, _compiler, _cache, _tunings, _huge_pages, _memory, _threads, _openmp, _gpus, _packages),
)
