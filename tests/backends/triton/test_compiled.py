"""Every kernel compiles for sm_90, to machine code, also where there is no GPU."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import normwise

from .support import needs_triton

SCRIPT = Path(__file__).with_name("compile_offline.py")
CODE = Path(normwise.__file__).parent / "backends/triton_kernels/code"
# What other kernels call.
HELPERS = {
    "activate",
    "slope",
    "sigmoid",
    "tanh",
    "expm1",
    "log1p",
    "tanh_of_softplus",
    "pool_sum",
    "rows_of",
    "merged",
}
HELPERS |= {"table_entry", "grad_before_activation", "channel_value", "rows_of_tile"}


def kernels_in_the_sources():
    found = set()
    for path in CODE.glob("*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        names = [b.removeprefix("def ").split("(")[0] for a, b in pairwise(lines) if a == "@triton.jit"]
        found |= {f"{path.stem}.{name}" for name in names if name not in HELPERS}
    return found


@needs_triton
@pytest.mark.parametrize("options", [(), pytest.param(("--all",), marks=pytest.mark.slow)], ids=["once", "all"])
def test_every_kernel_compiles_for_sm_90(options, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(normwise.__file__).parents[1])}
    command = [sys.executable, str(SCRIPT), *options]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert run.returncode == 0, run.stderr[-3000:]
    assert {line.split()[0] for line in run.stdout.splitlines()} == kernels_in_the_sources()
