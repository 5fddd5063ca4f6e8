"""Compile the program that tests the kernels' C interface (tests/abi), run it on libraries, and compare results."""

from __future__ import annotations

import importlib.util
import os
import shlex
import struct
import subprocess
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "tests" / "abi" / "main.cpp"
#: The emulators of other machines.
EMULATORS = {"aarch64": ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"]}


def build_module() -> ModuleType:
    """`normwise.backends.build` without its package, which imports torch."""
    spec = importlib.util.spec_from_file_location("build", ROOT / "src" / "normwise" / "backends" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def program(compiler: list[str], path: Path, *flags: str) -> Path:
    """Compile the test program with a compiler."""
    command = [*compiler, "-std=c++17", "-O1", "-Wall", "-Wextra", *flags, str(SOURCE), "-o", str(path), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)}\n{done.stderr[-3000:]}")
    return path


def run(
    path: Path,
    library: Path,
    element: str,
    *,
    machine: str = "",
    seed: int = 1,
    cases: int = 0,
    dump: Path | None = None,
    environment: dict[str, str] | None = None,
) -> bool:
    """Run the tests on a library and print their output; returns whether they passed."""
    command = [*EMULATORS.get(machine, []), str(path), str(library), element, str(seed), str(cases)]
    done = subprocess.run([*command, *([str(dump)] if dump else [])], env=os.environ | (environment or {}), check=False)
    if done.returncode:
        print(f"ended with {done.returncode}: {shlex.join(command)}", flush=True)
    return done.returncode == 0


def compare(one: Path, other: Path) -> str | None:
    """The first result of two machines that differs by more than twice its bound; None if none does.

    Each may be off by the bound: a value in the middle between two of bf16 is rounded up by one and down by the other.
    """
    results = 0
    for (name, values, bounds), (name_there, values_there, _) in zip(_results(one), _results(other), strict=True):
        if name != name_there or len(values) != len(values_there):
            return f"{name}: the other machine computed {name_there}, {len(values_there)} values for {len(values)}"
        for i, (a, b, bound) in enumerate(zip(values, values_there, bounds, strict=True)):
            if not abs(a - b) <= 2 * bound:
                return f"{name}[{i}]: {a:.9g} and {b:.9g} differ by more than {2 * bound:.2g}"
        results += len(values)
    print(f"  {results} values agree with x86-64's", flush=True)
    return None


def _results(path: Path) -> Iterator[tuple[str, array[float], array[float]]]:
    """The results that `Suite::write` wrote: name, values, bounds."""
    with path.open("rb") as file:
        while header := file.read(16):
            length, count = struct.unpack("<qq", header)
            name = file.read(length).decode()
            values, bounds = array("d"), array("d")
            values.frombytes(file.read(8 * count))
            bounds.frombytes(file.read(8 * count))
            yield name, values, bounds
