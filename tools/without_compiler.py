"""Simulate a machine without a compiler: install, tests and `normwise compare`, in a clean environment.

    python tools/without_compiler.py

The PATH is a folder with a link to every program of the real PATH except compilers.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMPILER = re.compile(r"(.*-)?(g\+\+|c\+\+|clang\+\+|gcc|cc|clang|c89|c99)(-[\d.]+)?$")
COMPARE = ("compare", "--norms", "batch,group", "--batch-sizes", "64", "--seeds", "1", "--epochs", "1")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "venv"
        environment = without_compiler(Path(folder))
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True, env=environment)
        python = str(home / "bin" / "python")
        wanted = [f"{ROOT}[dev]", "-c", str(ROOT / "constraints.txt")]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True, env=environment)
        checks = {
            "tests": ["-m", "pytest", "-n", "auto", "-m", "not slow", str(ROOT / "tests")],
            "compare": ["-m", "normwise", *COMPARE, "--out", f"{folder}/compare"],
        }
        results = {
            name: subprocess.run([python, *arguments], cwd=ROOT, env=environment, check=False).returncode
            for name, arguments in checks.items()
        }
    print("; ".join(f"{name}: {'failed' if code else 'passed'}" for name, code in results.items()))
    sys.exit(any(results.values()))


def without_compiler(folder: Path) -> dict[str, str]:
    """The environment with that PATH, an empty cache, and one thread per test process."""
    programs = folder / "programs"
    programs.mkdir()
    for place in os.environ["PATH"].split(os.pathsep):
        for program in Path(place).iterdir() if Path(place).is_dir() else ():
            link = programs / program.name
            if not COMPILER.match(program.name) and not link.is_symlink():
                link.symlink_to(program)
    kept = {name: text for name, text in os.environ.items() if name not in ("CXX", "CC", "PYTHONPATH")}
    return kept | {"PATH": str(programs), "NORMWISE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}


if __name__ == "__main__":
    main()
