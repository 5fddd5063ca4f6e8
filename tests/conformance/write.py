"""Prove the whole matrix and write docs/conformance.md: python -m tests.conformance.write

Every cell is computed; one that is wrong raises, and nothing is written.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from normwise.layers import NORMALIZERS

from . import cells

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"
HEAD = """# The conformance matrix

Made by `python -m tests.conformance.write` (torch {torch}); `make test-all` tests every cell again. A cell is the
outcome over all spatial ranks of the layer (1-d, 2-d, 3-d).

- **✓** works: the result was compared and agrees. **-** not applicable. No cell has a
  wrong result without an error.
- *fp64* to *fp16*: output, all gradients and running statistics, in training and evaluation, contiguous and
  channels_last (channels_last_3d), against the same layer in fp64; output dtype and memory layout are the input's.
  `tests/layers` compares the fp64 results with torch.nn and NumPy transcriptions of the papers.
- *mask*: NaN in masked values does not change the other outputs, and a mask that keeps all values has no effect.
- *processes*: two processes (gloo) with uneven shards of a batch have the same result as one process with the whole
  batch, including gradients and running statistics.
- *compile*: `torch.compile(fullgraph=True)`, training and evaluation. *export*: `torch.export`. *ONNX*: exported and
  run by ONNX Runtime. *vmap*: `torch.func.vmap` of the layer and of its gradient, in evaluation. *2nd*: second
  derivatives by finite differences.

"""
CELLS = {
    **{
        dtype: lambda case, dtype=dtype: [
            cells.values(case, dtype, layout, training)
            for layout in ("contiguous", "channels_last")
            for training in (True, False)
        ]
        for dtype in cells.DTYPES
    },
    "mask": lambda case: [cells.masked(case)],
    "processes": lambda case: [PROCESSES[f"{case.name}-{case.rank}"]],
    "compile": lambda case: [cells.compiled(case)],
    "export": lambda case: [cells.exported(case)],
    "ONNX": lambda case: [cells.onnx_runtime(case)],
    "vmap": lambda case: [cells.mapped(case)],
    "2nd": lambda case: [cells.twice_differentiable(case)],
}
PROCESSES: dict[str, str] = {}


def over_processes() -> dict[str, str]:
    """The column that needs real processes, by layer and rank."""
    command = [sys.executable, "-m", "tests.conformance.processes"]
    options = {"cwd": Path(__file__).parents[2], "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as started:
        processes = [
            started.enter_context(
                subprocess.Popen(
                    [*command, f"{folder}/store", str(rank)], env={**os.environ, "OMP_NUM_THREADS": "1"}, **options
                )
            )
            for rank in range(2)
        ]
        for process in processes:
            started.callback(process.kill)
        said = [process.communicate(timeout=300) for process in processes]
    if any(process.returncode for process in processes):
        raise AssertionError("\n".join(errors[-4000:] for _, errors in said))
    return json.loads(said[0][0])


def symbol(outcomes: list[str]) -> str:
    """One sign for the outcomes of all ranks, layouts and modes."""
    shown = {o for o in outcomes if o != cells.NOT_APPLICABLE}
    if not shown:
        return "-"
    return "✓" if shown == {cells.WORKS} else ", ".join(sorted(shown))


def page() -> str:
    """The whole page; every cell is computed."""
    PROCESSES.update(over_processes())
    found = cells.cases()
    lines = [f"| layer | ranks | {' | '.join(CELLS)} |", "|---" * (len(CELLS) + 2) + "|"]
    for name in dict.fromkeys(case.name for case in found):
        own = [case for case in found if case.name == name]
        signs = [symbol([o for case in own for o in cell(case)]) for cell in CELLS.values()]
        ranks = ", ".join(f"{case.rank}d" for case in own)
        lines.append(f"| `{name}` {NORMALIZERS[name].title} | {ranks} | {' | '.join(signs)} |")
        sys.stdout.write(lines[-1] + "\n")
        sys.stdout.flush()
    return HEAD.format(torch=torch.__version__) + "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
