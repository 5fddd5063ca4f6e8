"""Break one behaviour at a time, in a copy of the tree, and see which of the nearest tests notices.

    python tools/mutants.py [WORD ...]

With words, only the mutations whose behaviour or file has one of them. Exit status 1 where a mutation survives, where
its text is not found any more, or where the tests do not pass without it.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from mutation import Mutation
from mutations_of_kernels import MUTATIONS as OF_KERNELS
from mutations_of_python import MUTATIONS as OF_PYTHON
from mutations_of_surgery import MUTATIONS as OF_SURGERY

ROOT = Path(__file__).resolve().parent.parent
KILLED = "killed"
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


def main(words: list[str]) -> int:
    chosen = [
        m for m in OF_PYTHON + OF_SURGERY + OF_KERNELS if not words or any(w in m.behaviour + m.file for w in words)
    ]
    unbroken = [Mutation("nothing is broken", "", "", "", tests) for tests in dict.fromkeys(m.tests for m in chosen)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        attempt = partial(outcome, Path(folder))
        for mutation, found in zip(unbroken, pool.map(attempt, unbroken), strict=True):
            if not found.startswith("survived"):
                print(f"{mutation.tests} must pass first: {found}")
                return 1
        survivors = 0
        for mutation, found in zip(chosen, pool.map(attempt, chosen), strict=True):
            survivors += not found.startswith(KILLED)
            print(f"{mutation.file:40} {mutation.behaviour}\n    {found}", flush=True)
    print(f"{len(chosen)} mutations, {len(chosen) - survivors} killed")
    return int(survivors > 0)


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
    """Half of it: kernels that are compiled for a single run need not be the fastest."""
    path = tree / "src" / "normwise" / "backends" / "build.py"
    path.write_text(path.read_text(encoding="utf-8").replace('"-O2"', '"-O1"'), encoding="utf-8")


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
