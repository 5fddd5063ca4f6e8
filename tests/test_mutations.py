"""The list of `make mutants`: each edit still has its text in the sources, and its tests are there."""

import ast
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src" / "normwise"


@pytest.fixture(scope="module")
def mutants():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import mutants
    finally:
        sys.path.pop(0)
    return mutants


def test_every_edit_can_be_made(mutants):
    """Once in its file, and what comes of it is another program, and still one."""
    for behaviour, file, old, new, _ in mutants.MUTATIONS:
        text = (SOURCES / file).read_text(encoding="utf-8")
        times = text.count(old)
        assert times == 1, f"{behaviour!r}: its text stands {times} times in {file}; correct tools/mutations_of_*.py"
        assert old != new, behaviour
        if file.endswith(".py"):
            ast.parse(text.replace(old, new))


def test_every_edit_has_tests(mutants):
    for behaviour, *_, tests in mutants.MUTATIONS:
        files = [word for word in shlex.split(tests) if word.startswith("tests/")]
        assert files, behaviour
        assert all((ROOT / name).is_file() for name in files), f"{behaviour!r}: {tests}"


def test_every_behaviour_is_broken_once(mutants):
    edits = Counter((m.file, m.old, m.new) for m in mutants.MUTATIONS)
    names = Counter(m.behaviour for m in mutants.MUTATIONS)
    assert not [key for key, times in (edits + names).items() if times > 1]


def test_the_page_names_what_noticed(mutants):
    killed, survived = (mutants.MUTATIONS[i] for i in (0, 1))
    lines = mutants.page([(killed, "killed by tests/a.py::test_b[x|y]"), (survived, "survived")], "today").splitlines()
    assert lines[-2] == f"| {killed.behaviour} | `{killed.file}` | `tests/a.py::test_b[x\\|y]` |"
    assert lines[-1] == f"| {survived.behaviour} | `{survived.file}` | survived |"


@pytest.mark.slow
def test_every_selection_of_tests_selects_some(mutants):
    for tests in sorted({m.tests for m in mutants.MUTATIONS if " -k " in m.tests}):
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "not slow", *shlex.split(tests)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{tests}: {done.stdout[-500:]}"
