"""Prove the whole matrix and write docs/conformance.md: python -m tests.conformance.write

Every cell is computed; one that is wrong raises, and nothing is written.
"""

import json
import sys
from pathlib import Path

import torch

from normwise.layers import NORMALIZERS

sys.path.insert(0, str(Path(__file__).parents[1]))
from several_processes import ended_together

from . import compilers, derivatives, masks, numbers
from .cases import NOT_APPLICABLE, WORKS, cases

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
- *compile*: `torch.compile(fullgraph=True)`, training and evaluation. *export*: `torch.export`, in both with a dynamic
  batch. *ONNX*: exported and run by ONNX Runtime. *vmap*: `torch.func.vmap` of the layer and of its gradient, in
  evaluation. *2nd*: second derivatives by finite differences.

"""
CELLS = {
    **{
        dtype: lambda case, dtype=dtype: [
            numbers.values(case, dtype, layout, training)
            for layout in ("contiguous", "channels_last")
            for training in (True, False)
        ]
        for dtype in numbers.DTYPES
    },
    "mask": lambda case: [masks.masked(case)],
    "processes": lambda case: [PROCESSES[f"{case.name}-{case.rank}"]],
    "compile": lambda case: [compilers.compiled(case)],
    "export": lambda case: [compilers.exported(case)],
    "ONNX": lambda case: [compilers.onnx_runtime(case)],
    "vmap": lambda case: [derivatives.mapped(case)],
    "2nd": lambda case: [derivatives.twice_differentiable(case)],
}
PROCESSES: dict[str, str] = {}


def over_processes() -> dict[str, str]:
    """The column that needs real processes, by layer and rank."""
    first, *others = ended_together("from conformance.processes import main; main()")
    if any(done.returncode for done in (first, *others)):
        raise AssertionError("\n".join(done.stderr[-4000:] for done in (first, *others)))
    return json.loads(first.stdout)


def symbol(outcomes: list[str]) -> str:
    """One sign for the outcomes of all ranks, layouts and modes."""
    shown = {o for o in outcomes if o != NOT_APPLICABLE}
    if not shown:
        return "-"
    return "✓" if shown == {WORKS} else ", ".join(sorted(shown))


def page() -> str:
    """The whole page; every cell is computed."""
    PROCESSES.update(over_processes())
    found = cases()
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
