"""Build the platform wheels, with compiled kernels in them, and the pure one, and try them in a clean environment.

    python tools/build_wheel.py --out dist

Building the platform wheel needs g++. If Debian's cross compiler for aarch64 is installed, the wheel for that machine
is also built, and its libraries are tested under an emulator. The other wheels are installed one after the other into a
fresh virtual environment and tried with no compiler on the PATH: the platform wheel must use its kernels, every library
that this processor can run must be right, and the pure wheel must say what to install.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import abi

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = {"x86_64": 3 * 4, "aarch64": 4}  # instruction sets, element types
CROSS = "aarch64-linux-gnu-g++"
LIBRARY = re.compile(r"normwise/backends/prebuilt/kernels-[\w.-]+\.so")

CHECK_KERNELS = """
import ctypes, torch, normwise as nw
from pathlib import Path
from normwise.backends import build, cpu_library
assert nw.available_backends()["cpu"] is None, nw.available_backends()["cpu"]
for dtype, element in cpu_library.ELEMENTS.items():
    x = torch.randn(2, 32, 30, 31).to(dtype).to(memory_format=torch.channels_last)
    with nw.use_backend("cpu"):
        y = nw.GroupNorm(8, 32).to(dtype)(x)
    error = (y.double() - torch.nn.GroupNorm(8, 32).double()(x.double())).abs().max()
    assert error < 32 * torch.finfo(dtype).eps, (dtype, error)
    for path in build.prebuilt(element):
        cpu_library._check(cpu_library._bound(ctypes.CDLL(str(path)), element), dtype)
    print(f"  right: {', '.join(path.name for path in build.prebuilt(element))}")
mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
assert {str(build.prebuilt(element)[0]) for element in build.ELEMENTS} <= mapped
assert len([name for name in mapped if "libgomp" in name or "libiomp" in name]) == 1
"""
CHECK_PURE = """
import torch, normwise as nw
reason = nw.available_backends()["cpu"]
assert "install g++" in reason, reason
x = torch.randn(2, 32, 30, 31)
assert torch.allclose(nw.GroupNorm(8, 32)(x), torch.nn.GroupNorm(8, 32)(x), atol=1e-5)
print(f"  reference serves; cpu: {reason}")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="where the two wheels go")
    try_all(*build_all(parser.parse_args().out))


def build_all(out: Path) -> tuple[Path, Path]:
    """Build the platform wheel, the pure one and, if possible, the one for aarch64, which is tested directly."""
    platform_wheel, pure_wheel = build(out, prebuilt=True), build(out, prebuilt=False)
    inspect(platform_wheel, pure_wheel)
    if shutil.which(CROSS):
        foreign_wheel = build(out, prebuilt=True, compiler=CROSS)
        inspect(foreign_wheel, pure_wheel)
        emulate(foreign_wheel)
    else:
        print(f"no wheel for aarch64: {CROSS} is not installed (g++-aarch64-linux-gnu, and qemu-user to try it)")
    return platform_wheel, pure_wheel


def try_all(platform_wheel: Path, pure_wheel: Path) -> None:
    try_out({platform_wheel: CHECK_KERNELS, pure_wheel: CHECK_PURE})


def build(out: Path, *, prebuilt: bool, compiler: str | None = None) -> Path:
    """One wheel, built in isolation by the project's own back end; the pure one without a compiler on the PATH."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"NORMWISE_PREBUILT": "1"} if prebuilt else without_compiler(Path(folder))
        if compiler:
            environment = environment | {"CXX": compiler}
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, str(ROOT)]
        subprocess.run(command, check=True, env=environment)
        (wheel,) = Path(folder).glob("*.whl")
        return wheel.replace(out / wheel.name)


def inspect(platform_wheel: Path, pure_wheel: Path) -> None:
    """Check the contents and the platform tags of the wheels."""
    found = {wheel: libraries(wheel) for wheel in (platform_wheel, pure_wheel)}
    for wheel, names in found.items():
        print(f"{wheel.name}: {wheel.stat().st_size / 2**20:.1f} MB, {len(names)} libraries", flush=True)
    tag = re.search(r"-py3-none-manylinux_2_\d+_(\w+)\.whl$", platform_wheel.name)
    if tag is None or len(found[platform_wheel]) != LIBRARIES.get(tag[1]):
        raise SystemExit("The platform wheel lacks libraries, or its platform tag.")
    if found[pure_wheel] or not pure_wheel.name.endswith("-py3-none-any.whl"):
        raise SystemExit("The pure wheel is not pure.")


def libraries(wheel: Path) -> list[str]:
    """The compiled libraries in a wheel."""
    return [name for name in zipfile.ZipFile(wheel).namelist() if LIBRARY.fullmatch(name)]


def emulate(wheel: Path) -> None:
    """Every library of a wheel for another machine under its emulator, by the tests of the C interface."""
    if shutil.which(abi.EMULATORS["aarch64"][0]) is None:
        print("  not tried: qemu-user is not installed")
        return
    with tempfile.TemporaryDirectory() as folder:
        program = abi.program([CROSS], Path(folder) / "abi")
        for name in libraries(wheel):
            path = Path(zipfile.ZipFile(wheel).extract(name, folder))
            if not abi.run(program, path, path.name.split("-")[1], machine="aarch64"):
                raise SystemExit(f"{name} is wrong.")


def try_out(programs: dict[Path, str]) -> None:
    """In one fresh environment, install each wheel, run its program, and run `normwise doctor`."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "venv"
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        python = str(home / "bin" / "python")
        clean = without_compiler(Path(folder))
        for wheel, program in programs.items():
            print(f"{wheel.name}, installed:", flush=True)
            wanted = [f"{wheel}[cli]", "-c", str(ROOT / "constraints.txt")]
            subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
            subprocess.run([python, "-W", "error", "-c", program], check=True, cwd=folder, env=clean)
            diagnose(python, clean, healthy=program is CHECK_KERNELS)
            subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", "normwise"], check=True)


def diagnose(python: str, environment: dict[str, str], *, healthy: bool) -> None:
    """Run `normwise doctor`, which must find no problem if `healthy`, else one."""
    command = [python, "-m", "normwise", "doctor"]
    done = subprocess.run(command, check=False, env=environment, text=True, stdout=subprocess.PIPE)
    for line in done.stdout.splitlines():
        if "backend" in line or "OpenMP" in line:
            print(f"  {line}", flush=True)
    if (done.returncode == 0) is not healthy:
        raise SystemExit(f"normwise doctor ended with {done.returncode}.")


def without_compiler(folder: Path) -> dict[str, str]:
    """An environment whose PATH holds no program at all, and whose cache is empty."""
    empty = folder / "bin"
    empty.mkdir(exist_ok=True)
    kept = {name: text for name, text in os.environ.items() if name not in ("CXX", "PYTHONPATH", "NORMWISE_PREBUILT")}
    return kept | {"PATH": str(empty), "NORMWISE_CACHE": str(folder / "cache")}


if __name__ == "__main__":
    main()
