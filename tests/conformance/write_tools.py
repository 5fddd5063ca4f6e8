"""Prove every cell and write docs/tools.md: python -m tests.conformance.write_tools

Every cell is computed; one that is wrong raises, and nothing is written.
"""

import sys
import warnings
from pathlib import Path

import torch

from normwise.layers import NORMALIZERS

from . import compilers, derivatives, tools
from .cases import cases
from .write import symbol

PAGE = Path(__file__).parents[2] / "docs" / "tools.md"
MARK = "<!-- the table: python -m tests.conformance.write_tools -->\n"


#: What the page shows, in its order.
CELLS = {
    "fx": tools.symbolic_trace,
    "make_fx": tools.make_fx_values,
    "make_fx, backward": tools.make_fx_gradients,
    "FakeTensorMode": tools.imagined,
    "jit.trace": tools.jit_trace,
    "jit.script": tools.scripted,
    "export": compilers.exported,
    "batched gradients": derivatives.many_gradients,
}


def table() -> str:
    """A row for each layer, over all of its ranks."""
    found = cases()
    lines = [f"| layer | {' | '.join(CELLS)} |", "|---" * (len(CELLS) + 1) + "|"]
    for name in dict.fromkeys(case.name for case in found):
        own = [case for case in found if case.name == name]
        signs = [symbol([cell(case) for case in own]) for cell in CELLS.values()]
        lines.append(f"| `{name}` {NORMALIZERS[name].title} | {' | '.join(signs)} |")
        sys.stdout.write(lines[-1] + "\n")
        sys.stdout.flush()
    return f"Made with torch {torch.__version__.partition('+')[0]}.\n\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        made = table()
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(text.partition(MARK)[0] + MARK + made, encoding="utf-8")
