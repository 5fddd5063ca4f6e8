"""Every kernel compiles for sm_90, to machine code, also where there is no GPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import normwise

from .support import needs_triton

SCRIPT = Path(__file__).with_name("compile_offline.py")
CODE = Path(normwise.__file__).parent / "backends/triton_kernels/code"


def kernels_in_the_sources():
    """Every function of Triton's dialect that no other calls."""
    sources = {path.stem: path.read_text(encoding="utf-8") for path in CODE.glob("*.py")}
    named = {(stem, name) for stem, text in sources.items() for name in re.findall(r"@triton.jit\ndef (\w+)", text)}
    called = set(re.findall(r"(?<!def )\b(\w+)\(", "".join(sources.values())))
    return {f"{stem}.{name}" for stem, name in named if name not in called}


@needs_triton
@pytest.mark.parametrize("options", [(), pytest.param(("--all",), marks=pytest.mark.slow)], ids=["once", "all"])
def test_every_kernel_compiles_for_sm_90(options):
    """What is in Triton's cache was compiled from the same sources, by the same Triton, and is not compiled again."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(Path(normwise.__file__).parents[1])}
    command = [sys.executable, str(SCRIPT), *options]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert run.returncode == 0, run.stderr[-3000:]
    lines = run.stdout.splitlines()
    assert {line.split()[0] for line in lines} == kernels_in_the_sources()
    # Also where no argument says that it is needed: a small stride times a small index may be beyond 2³¹.
    assert [line for line in lines if not line.endswith(" 0 offsets of 32 bits")] == []
