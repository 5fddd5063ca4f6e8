"""Write the interactive pages of the site into docs/_interactive: python docs/make_interactive.py

`make docs` runs it before Sphinx, which copies the folder: the cubes of all normalizers, the report of a small
comparison, and the trace of a net. Each is one file that needs no network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from normwise.explanation.page import page
from normwise.explanation.pictures import effect_on, load_pictures
from normwise.explanation.variants import variants
from normwise.layers import NORMALIZERS

FOLDER = Path(__file__).with_name("_interactive") / "interactive"
COMPARE = ("compare", "--data", "digits", "--norms", "batch,group", "--batch-sizes", "16,64", "--seeds", "2",
           "--epochs", "1")  # fmt: skip
TRACE = ("trace", "--model", "resnet26", "--model", "nf_resnet26", "--input", "8x3x64x64")


def write_cubes() -> None:
    """The page with the cubes of all rows, in all modes and sizes."""
    names = [name for name in NORMALIZERS if name != "none"]
    pictures = load_pictures([])
    effects = {name: effect_on(name, *pictures) for name in names}
    told = {name: variants(name) for name in names}
    (FOLDER / "explain.html").write_text(page(told, "normwise explain NAME ...", effects), encoding="utf-8")


def run(arguments: tuple[str, ...], made: str, name: str) -> None:
    """Run a command of normwise in a folder of its own, since the page repeats the command, and copy the page."""
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, "-m", "normwise", *arguments]
        environment = os.environ | {"COLUMNS": "120"}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment, cwd=home)
        shutil.copy(Path(home) / "results" / made, FOLDER / f"{name}.html")


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_cubes()
    run(COMPARE, "compare/report.html", "compare")
    run(TRACE, "trace/trace.html", "trace")
