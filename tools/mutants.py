"""Break one behaviour at a time, in a copy of the tree, and see which of the nearest tests notices.

    python tools/mutants.py [WORD ...]

With words, only the mutations whose behaviour or file has one of them; without, all, and docs/mutations.md is written
anew. Exit status 1 where a mutation survives, where its text is not found any more, or where the test that noticed it
fails without it, too.
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
KILLED = "killed by "
PAGE = ROOT / "docs" / "mutations.md"
_FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", re.MULTILINE)


def main(words: list[str]) -> int:
    start = time.monotonic()
    chosen = [m for m in MUTATIONS if not words or any(w in m.behaviour + m.file for w in words)]
    results = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        for mutation, result in zip(chosen, pool.map(partial(outcome, Path(folder)), chosen), strict=True):
            results.append(result)
            print(f"{mutation.file:40} {mutation.behaviour}\n    {result}", flush=True)
        for test in failing_unbroken(Path(folder), [r.removeprefix(KILLED) for r in results if r.startswith(KILLED)]):
            results = [f"not tried: {test} fails where nothing is broken" if r == KILLED + test else r for r in results]
            print(f"{test} fails where nothing is broken")
    killed = sum(result.startswith(KILLED) for result in results)
    said = f"{len(chosen)} mutations, {killed} killed"
    print(f"{said}, {(time.monotonic() - start) / 60:.0f} minutes")
    if not words:
        found = zip(chosen, results, strict=True)
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
        by = result.removeprefix(KILLED)
        noticed = result if by == result else f"`{by}`"
        lines.append(" | ".join(("| " + mutation.behaviour, f"`{mutation.file}`", noticed.replace("|", r"\|") + " |")))
    return "\n".join(lines) + "\n"


def outcome(folder: Path, mutation: Mutation) -> str:
    """What became of the mutation: killed and by which test, survived, or why it could not be tried."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        tree = Path(place)
        copy_tree(tree)
        path = tree / "src" / "normwise" / mutation.file
        text = path.read_text(encoding="utf-8")
        if text.count(mutation.old) != 1:
            return f"not tried: its text stands {text.count(mutation.old)} times in the file, and must once"
        path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
        kernels = path.suffix == ".hpp"
        if kernels:
            compile_in_less_time(tree)
        done = run_tests(tree, "-x", *shlex.split(mutation.tests), kernels=kernels)
    by = _FAILED.search(done.stdout)
    if done.returncode == 0:
        return "survived"
    if done.returncode == 1 and by:
        return KILLED + by[1]
    return f"not tried: pytest ended with {done.returncode}: {(done.stdout + done.stderr)[-500:]}"


def failing_unbroken(folder: Path, tests: list[str]) -> list[str]:
    """Which of the tests that noticed something fail without a mutation, too: those say nothing."""
    if not tests:
        return []
    with tempfile.TemporaryDirectory(dir=folder) as place:
        copy_tree(Path(place))
        done = run_tests(Path(place), *dict.fromkeys(tests), kernels=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"pytest ended with {done.returncode}: {(done.stdout + done.stderr)[-500:]}")
    return _FAILED.findall(done.stdout)


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


def run_tests(tree: Path, *arguments: str, kernels: bool) -> subprocess.CompletedProcess[str]:
    """Quick tests in a tree; broken ``kernels`` have a cache of their own, which goes with it."""
    environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"}
    if kernels:
        environment["NORMWISE_CACHE"] = str(tree / "cache")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *arguments]
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
