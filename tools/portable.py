"""Test the kernels on other machines and with other compilers: run the C interface's tests on each, compare values.

    python tools/portable.py

For x86-64 with g++, with clang++ and without OpenMP, and for aarch64 under an emulator: every kernel, element type and
activation against scalar code in double, and aarch64 against x86-64. Takes ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import abi

CROSS = "aarch64-linux-gnu-g++"
#: The required programs, each with Debian's package for it.
NEEDED = {"g++": "g++", "clang++": "clang libomp-dev", CROSS: "g++-aarch64-linux-gnu", "qemu-aarch64": "qemu-user"}
build = abi.build_module()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    missing = [package for command, package in NEEDED.items() if shutil.which(command) is None]
    if missing:
        raise SystemExit(f"`make portable` needs, as root: apt-get install {' '.join(missing)}")
    with tempfile.TemporaryDirectory() as folder:
        return int(not all([*compilers(Path(folder)), *machines(Path(folder))]))


def compilers(folder: Path) -> Iterator[bool]:
    """x86-64 with each compiler and without OpenMP, with libraries built as on first use."""
    for name, command in {"g++": ["g++"], "clang++": ["clang++"], "no OpenMP": [refusing(folder)]}.items():
        print(f"x86-64, {name}:", flush=True)
        program = abi.program(command, folder / f"abi-{command[0].rpartition('/')[2]}")
        for element in build.ELEMENTS if name != "no OpenMP" else ["fp32"]:
            library = folder / f"{program.name}-{element}.so"
            build._build(command, element, build.fingerprint(command), library)
            yield abi.run(program, library, element, dump=folder / f"x86-64-{element}" if name == "g++" else None)


def machines(folder: Path) -> Iterator[bool]:
    """The libraries of the aarch64 wheel under the emulator, compared with the results of x86-64."""
    print("aarch64, emulated:", flush=True)
    program = abi.program([CROSS], folder / "abi-aarch64")
    with compiler(CROSS):
        libraries = build.prebuild(folder)
    for element, library in zip(build.ELEMENTS, libraries, strict=True):
        results = folder / f"aarch64-{element}"
        yield abi.run(program, library, element, machine="aarch64", dump=results)
        problem = abi.compare(folder / f"x86-64-{element}", results)
        if problem is not None:
            print(f"  {element}: {problem}", flush=True)
        yield problem is None


def refusing(folder: Path) -> str:
    """A compiler without OpenMP, like Apple's."""
    path = folder / "no-openmp"
    path.write_text(
        '#!/bin/sh\ncase " $* " in *" -fopenmp "*) echo "error: unsupported option -fopenmp" >&2; exit 1;; esac\n'
        'exec g++ "$@"\n'
    )
    path.chmod(0o755)
    return str(path)


@contextmanager
def compiler(command: str) -> Iterator[None]:
    """Inside the block ``$CXX`` is this command."""
    before = os.environ.get("CXX")
    os.environ["CXX"] = command
    try:
        yield
    finally:
        del os.environ["CXX"]
        if before is not None:
            os.environ["CXX"] = before


if __name__ == "__main__":
    sys.exit(main())
