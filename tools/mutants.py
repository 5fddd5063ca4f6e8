"""Break one behaviour at a time, in a copy of the tree, and find the nearest test that notices.

    python tools/mutants.py [WORD ...]

With words, only mutations with one of them in their behaviour or file are tried; without words, all are, and
docs/mutations.md is written again. The exit status is 1 if a mutation survives, if its text is not found any more, or
if the test that noticed it also fails without the mutation.

There is one copy per core, with a process that has imported torch and pytest; the tests of every mutation run in a fork
of this process, which imports the broken sources.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import NamedTuple

from mutation import Mutation
from mutations_of_comparison import MUTATIONS as OF_COMPARISON
from mutations_of_kernels import MUTATIONS as OF_KERNELS
from mutations_of_python import MUTATIONS as OF_PYTHON
from mutations_of_surgery import MUTATIONS as OF_SURGERY

ROOT = Path(__file__).resolve().parent.parent
MUTATIONS = OF_PYTHON + OF_SURGERY + OF_COMPARISON + OF_KERNELS
KILLED = "killed by "
PAGE = ROOT / "docs" / "mutations.md"
#: A test that takes longer, in seconds, is in an endless loop because of the mutation.
PATIENCE = 300
#: The test in the traceback of a process that was ended by a signal or a timeout.
_DIED = re.compile(r'File "[^"]*?/(tests/[^"]+\.py)", line \d+ in (test_\w+)')
_LIMITED = ["-o", f"faulthandler_timeout={PATIENCE}", "-o", "faulthandler_exit_on_timeout=true"]
_FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", re.MULTILINE)
#: An eighth of the compiler's time: kernels for a single run need not be the fastest, and the tests are those of fp32.
_COMPILED_SOONER = [
    ("src/normwise/backends/build.py", '"-O2"', '"-O1"'),
    ("tests/conftest.py", "build_kernels()", "build_kernels(torch.float32)"),
]


def main(words: list[str]) -> int:
    start = time.monotonic()
    chosen = [m for m in MUTATIONS if not words or any(w in m.behaviour + m.file for w in words)]
    outcomes: dict[Mutation, str] = {}
    os.environ["OMP_NUM_THREADS"] = "1"
    import pytest  # noqa: F401 what every test needs, once for all
    import torch  # noqa: F401

    # Not multiprocessing's own pool, whose processes may have none themselves, as some of the tests have.
    forks = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(mp_context=forks) as pool:
        for attempt in as_completed([pool.submit(Attempt(folder), mutation) for mutation in chosen]):
            mutation, result = attempt.result()
            outcomes[mutation] = result
            print(f"{mutation.file:40} {mutation.behaviour}\n    {result}", flush=True)
    results = [outcomes[mutation] for mutation in chosen]
    for test in failing_unbroken([r.removeprefix(KILLED) for r in results if r.startswith(KILLED)]):
        results = [f"not tried: {test} fails where nothing is broken" if r == KILLED + test else r for r in results]
        print(f"{test} fails where nothing is broken")
    killed = sum(result.startswith(KILLED) for result in results)
    said = f"{len(chosen)} mutations, {killed} killed"
    print(f"{said}, {(time.monotonic() - start) / 60:.0f} minutes")
    if not words:
        PAGE.write_text(page(zip(chosen, results, strict=True), f"{date.today():%Y-%m-%d}: {said}"), encoding="utf-8")
    return int(killed < len(chosen))


def page(found: Iterable[tuple[Mutation, str]], said: str) -> str:
    """The page: each behaviour, the file where it was broken, and the first test that noticed."""
    lines = [
        "# What notices a broken behaviour",
        "",
        "Written by `make mutants`. Each behaviour was broken alone, by the edit in `tools/mutations_of_*.py`, and the",
        "nearest tests ran until the first failed.",
        "",
        f"{said}.",
        "",
        "| behaviour | broken in | noticed first by |",
        "|---|---|---|",
    ]
    for mutation, result in found:
        by = result.removeprefix(KILLED)
        noticed = result if by == result else f"`{by}`"
        lines.append(" | ".join(("| " + mutation.behaviour, f"`{mutation.file}`", noticed.replace("|", r"\|") + " |")))
    return "\n".join(lines) + "\n"


class Attempt(NamedTuple):
    """Tries a mutation; the outcome is the test that killed it, that it survived, or why it could not be tried."""

    folder: str

    def __call__(self, mutation: Mutation) -> tuple[Mutation, str]:
        return mutation, self._outcome(mutation)

    def _outcome(self, mutation: Mutation) -> str:
        tree = Path(self.folder) / str(os.getpid())
        if not tree.exists():
            copy_tree(tree)
        edits = [(f"src/normwise/{mutation.file}", mutation.old, mutation.new)]
        kernels = mutation.file.endswith(".hpp")
        try:
            with edited(tree, edits + _COMPILED_SOONER * kernels):
                code, output = run_tests(tree, "-x", *shlex.split(mutation.tests), kernels=kernels)
        except ValueError as reason:
            return f"not tried: {reason}"
        by = _FAILED.search(output)
        if code == 0:
            return "survived"
        if code == 1 and by:
            return KILLED + by[1]
        died = _DIED.search(output)
        if died:
            return f"{KILLED}{died[1]}::{died[2]}"
        return f"not tried: pytest ended with {code}: {output[-500:]}"


def failing_unbroken(tests: list[str]) -> list[str]:
    """Those of the tests that also fail without a mutation and so prove nothing."""
    if not tests:
        return []
    with tempfile.TemporaryDirectory() as folder:
        copy_tree(Path(folder))
        code, output = run_tests(Path(folder), *dict.fromkeys(tests), kernels=False)
    if code not in (0, 1):
        raise SystemExit(f"pytest ended with {code}: {output[-500:]}")
    return _FAILED.findall(output)


def copy_tree(tree: Path) -> None:
    """The files of the checkout, without the environment."""
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


@contextmanager
def edited(tree: Path, edits: list[tuple[str, str, str]]) -> Iterator[None]:
    """Inside the block the tree has the edits; ValueError if the old text does not occur exactly once in its file."""
    before = {tree / name: (tree / name).read_text(encoding="utf-8") for name, _, _ in edits}
    for name, old, _ in edits:
        times = before[tree / name].count(old)
        if times != 1:
            raise ValueError(f"its text must occur once in {name}, and occurs {times} times")
    try:
        for name, old, new in edits:
            (tree / name).write_text(before[tree / name].replace(old, new), encoding="utf-8")
        yield
    finally:
        for path, text in before.items():
            path.write_text(text, encoding="utf-8")


def run_tests(tree: Path, *arguments: str, kernels: bool) -> tuple[int, str]:
    """Run quick tests in a tree, in a separate process; returns their exit status and output.

    Broken ``kernels`` get a separate cache, which is removed afterwards.
    """
    with tempfile.TemporaryDirectory() as place:
        output = Path(place) / "output"
        child = os.fork()
        if child == 0:
            with output.open("wb") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            os._exit(_pytest(tree, place if kernels else None, arguments))
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status), output.read_text(encoding="utf-8", errors="replace")


def _pytest(tree: Path, cache: str | None, arguments: Iterable[str]) -> int:
    """In a process of its own."""
    import pytest

    os.chdir(tree)
    sys.path.insert(0, str(tree / "src"))
    os.environ["PYTHONPATH"] = str(tree / "src")
    if cache is not None:
        os.environ["NORMWISE_CACHE"] = cache
    try:
        return int(pytest.main(["-q", "-p", "no:cacheprovider", "-m", "not slow", *_LIMITED, *arguments]))
    except BaseException:  # nothing may leave this function: the fork is a copy of the whole program
        traceback.print_exc()
        return -1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
