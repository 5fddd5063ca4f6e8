"""Build hook: with NORMWISE_PREBUILT=1 the wheel carries compiled kernels, and otherwise it is pure Python.

Compiling needs g++ and takes minutes; installing from source must need neither. A cross compiler in $CXX makes the
wheel of its machine. See tools/build_wheel.py.
"""

from __future__ import annotations

import importlib.util
import os
import re
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
        build = _build_module(Path(self.root))
        machine = build.target(build.find_compiler())
        if not (sys.platform.startswith("linux") and machine in build.MACHINES):
            known = " and ".join(build.MACHINES)
            raise SystemExit(f"{SWITCH}=1: kernels are prebuilt on Linux, for {known}; leave it unset elsewhere.")
        libraries = build.prebuild(Path(self.directory) / "prebuilt" / machine)
        for path in libraries:
            build_data["force_include"][str(path)] = f"normwise/backends/prebuilt/{path.name}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-manylinux_2_{max(map(_newest_glibc, libraries))}_{machine}"


def _build_module(root: Path) -> ModuleType:
    """`normwise.backends.build` without its package, which imports torch."""
    spec = importlib.util.spec_from_file_location("build", root / "src" / "normwise" / "backends" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _newest_glibc(library: Path) -> int:
    """The minor version of the newest glibc symbol that the library wants, by the names that it holds."""
    wanted = re.findall(rb"GLIBC_2\.(\d+)", library.read_bytes())
    return max([OLDEST_GLIBC, *map(int, wanted)])
