"""Build hook: with NORMWISE_PREBUILT=1 the wheel carries compiled kernels, and otherwise it is pure Python.

Compiling needs g++ and takes minutes; installing from source must need neither. See tools/build_wheel.py.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SWITCH = "NORMWISE_PREBUILT"
#: The glibc of the oldest platform tag that pip knows.
OLDEST_GLIBC = 17


class PrebuiltKernels(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        if os.environ.get(SWITCH) != "1":
            return
        if not (sys.platform.startswith("linux") and platform.machine() == "x86_64"):
            raise SystemExit(f"{SWITCH}=1: kernels are prebuilt for Linux on x86-64 only; leave it unset elsewhere.")
        build = _build_module(Path(self.root))
        folder = Path(self.directory) / "prebuilt"
        libraries = build.prebuild(folder)
        for path in libraries:
            build_data["force_include"][str(path)] = f"normwise/backends/prebuilt/{path.name}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-manylinux_2_{max(map(_newest_glibc, libraries))}_x86_64"


def _build_module(root: Path) -> ModuleType:
    """`normwise.backends.build` without its package, which imports torch."""
    spec = importlib.util.spec_from_file_location("build", root / "src" / "normwise" / "backends" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _newest_glibc(library: Path) -> int:
    """The minor version of the newest glibc symbol that the library wants."""
    listed = subprocess.run(["objdump", "-T", str(library)], capture_output=True, text=True, check=True).stdout
    return max([OLDEST_GLIBC, *(int(minor) for minor in re.findall(r"GLIBC_2\.(\d+)", listed))])
