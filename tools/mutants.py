"""Break one behaviour at a time, in a copy of the tree, and see which of the nearest tests notices.

    python tools/mutants.py [WORD ...]

With words, only the mutations whose behaviour or file has one of them; without, all, and docs/mutations.md is written
anew. Exit status 1 where a mutation survives, where its text is not found any more, or where the tests do not pass
without it.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import partial
from pathlib import Path

from mutation import Mutation
from mutations_of_comparison import MUTATIONS as OF_COMPARISON
from mutations_of_kernels import MUTATIONS as OF_KERNELS
from mutations_of_python import MUTATIONS as OF_PYTHON
from mutations_of_surgery import MUTATIONS as OF_SURGERY

ROOT = Path(__file__).resolve().parent.parent
MUTATIONS = OF_PYTHON + OF_SURGERY + OF_COMPARISON + OF_KERNELS
KILLED = "killed"
PAGE = ROOT / "docs" / "mutations.md"
_FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", re.MULTILINE)


def main(words: list[str]) -> int:
    start = time.monotonic()
    chosen = [m for m in MUTATIONS if not words or any(w in m.behaviour + m.file for w in words)]
    unbroken = [Mutation("nothing is broken", "", "", "", tests) for tests in dict.fromkeys(m.tests for m in chosen)]
    found: list[tuple[Mutation, str]] = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        attempt = partial(outcome, Path(folder))
        for mutation, result in zip(unbroken, pool.map(attempt, unbroken), strict=True):
            if not result.startswith("survived"):
                print(f"{mutation.tests} must pass first: {result}")
                return 1
        for mutation, result in zip(chosen, pool.map(attempt, chosen), strict=True):
            found.append((mutation, result))
            print(f"{mutation.file:40} {mutation.behaviour}\n    {result}", flush=True)
    killed = sum(result.startswith(KILLED) for _, result in found)
    said = f"{len(chosen)} mutations, {killed} killed"
    print(f"{said}, {(time.monotonic() - start) / 60:.0f} minutes")
    if not words:
        PAGE.write_text(page(found, f"{date.today():%Y-%m-%d}: {said}"), encoding="utf-8")
    return int(killed < len(chosen))


def page(found: Iterable[tuple[Mutation, str]], said: str) -> str:
    """Each behaviour, where it was broken, and the test that noticed first."""
    lines = [
        "# What notices a broken behaviour",
        "",
        f"Written by `make mutants`, {said}. Each behaviour was broken alone, by the edit in",
        "`tools/mutations_of_*.py`, and the nearest tests ran until the first failed.",
        "",
        "| behaviour | broken in | noticed first by |",
        "|---|---|---|",
    ]
    for mutation, result in found:
        by = result.removeprefix(f"{KILLED} by ")
        noticed = result if by == result else f"`{by}`"
        lines.append(" | ".join(("| " + mutation.behaviour, f"`{mutation.file}`", noticed.replace("|", r"\|") + " |")))
    return "\n".join(lines) + "\n"


def outcome(folder: Path, mutation: Mutation) -> str:
    """What became of the mutation: killed and by which test, survived, or why it could not be tried."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        tree = Path(place)
        copy_tree(tree)
        if mutation.file:
            path = tree / "src" / "normwise" / mutation.file
            text = path.read_text(encoding="utf-8")
            if text.count(mutation.old) != 1:
                return f"not tried: its text stands {text.count(mutation.old)} times in the file, and must once"
            path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
            if path.suffix == ".hpp":
                compile_in_less_time(tree)
        done = run_tests(tree, mutation)
    by = _FAILED.search(done.stdout)
    if done.returncode == 0:
        return "survived"
    if done.returncode == 1 and by:
        return f"{KILLED} by {by[1]}"
    return f"not tried: pytest ended with {done.returncode}: {(done.stdout + done.stderr)[-500:]}"


def copy_tree(tree: Path) -> None:
    """The files of the checkout, without the environment; each mutation has its own."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)


def compile_in_less_time(tree: Path) -> None:
    """An eighth of it: kernels for a single run need not be the fastest, and the tests are those of fp32."""
    for name, old, new in (
        ("src/normwise/backends/build.py", '"-O2"', '"-O1"'),
        ("tests/conftest.py", "build_kernels()", "build_kernels(torch.float32)"),
    ):
        path = tree / name
        text = path.read_text(encoding="utf-8")
        if old not in text:
            raise ValueError(f"{name} has no {old} any more.")
        path.write_text(text.replace(old, new), encoding="utf-8")


def run_tests(tree: Path, mutation: Mutation) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"}
    if mutation.file.endswith(".hpp"):  # a cache of its own, which goes with it
        environment["NORMWISE_CACHE"] = str(tree / "cache")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow"]
    return subprocess.run(
        [*command, *shlex.split(mutation.tests)], cwd=tree, env=environment, capture_output=True, text=True, check=False
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
