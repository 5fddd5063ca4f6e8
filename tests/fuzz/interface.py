"""The C interface under the same sanitizers, without torch and without Python: random sizes, right and wrong."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

from normwise.backends import build

from .sanitizers import FLAGS, FOLDER, ROOT

#: Random sizes for each element type; each is some hundred calls.
CASES = 3


def holds(seed: int) -> bool:
    """Whether every kernel computes what it must, and refuses what it must, on the libraries that were compiled."""
    abi = _tool()
    compiler = build.find_compiler()
    program = abi.program(compiler, FOLDER / "abi", *FLAGS.split())
    preloaded = {"LD_PRELOAD": ""}  # the program brings its own
    fine = [
        abi.run(program, _library(compiler, element), element, seed=seed, cases=CASES, environment=preloaded)
        for element in build.ELEMENTS
    ]
    return all(fine)


def _library(compiler: list[str], element: str) -> Path:
    return Path(os.environ["NORMWISE_CACHE"]) / f"kernels-{element}-{build.fingerprint(compiler)}.so"


def _tool() -> ModuleType:
    """tools/abi.py, which `make portable` uses, too."""
    spec = importlib.util.spec_from_file_location("abi", ROOT / "tools" / "abi.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
