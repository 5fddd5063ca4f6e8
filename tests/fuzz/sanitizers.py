"""The kernels with sanitizers in an ordinary Python: torch's own allocations get red zones, too.

`normwise` compiles with the command in ``CXX`` into the folder in ``NORMWISE_CACHE``, and both are part of what a
library is known by: nothing else is needed, and the kernels of every day stay as they are.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: The kernels, the finds; not in the repository.
FOLDER = ROOT / "build" / "fuzz"
# Of undefined behaviour what can come from sizes: an access that is not there, or not whole, the first one finds.
_WATCHED = "-fsanitize=address,bounds,shift,integer-divide-by-zero,signed-integer-overflow"
# Checks as calls compile five times as fast as checks in place.
FLAGS = f"{_WATCHED} -fno-sanitize-recover=all -g1 --param asan-instrumentation-with-call-threshold=0"
#: The C++ runtime comes along: the sanitizer wants to know its `throw` from the start.
RUNTIMES = ("libasan.so", "libubsan.so", "libstdc++.so")
_ADDRESSES = {
    "detect_leaks": 0,  # Python's own
    "exitcode": 99,
    "allocator_may_return_null": 1,
    "alloc_dealloc_mismatch": 0,
    "quarantine_size_mb": 16,
}


def environment() -> dict[str, str]:
    """Variables for a process whose kernels are watched.

    Raises RuntimeError where the compiler brings no sanitizers to preload.
    """
    compiler = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    return os.environ | {
        "CXX": f"{shlex.join(compiler)} {FLAGS}",
        "NORMWISE_CACHE": str(FOLDER / "kernels"),
        "NORMWISE_TUNING": "0",  # with sanitizers no time says anything
        "LD_PRELOAD": " ".join(_runtime(compiler, name) for name in RUNTIMES),
        "ASAN_OPTIONS": ":".join(f"{name}={value}" for name, value in _ADDRESSES.items()),
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1:exitcode=99",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
    }


def _runtime(compiler: list[str], name: str) -> str:
    """The path of one of the compiler's own libraries; a bare name back means that it has none."""
    command = [*compiler, f"-print-file-name={name}"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError as error:
        found = str(error)
    if not Path(found).is_absolute():
        raise RuntimeError(f"{shlex.join(compiler)} has no {name}: `make fuzz` needs g++ with its sanitizers.")
    return str(Path(found).resolve())
