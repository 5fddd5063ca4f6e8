"""Programs in a process of their own that begins with torch imported, which is most of what a short one takes.

They are forks of one process that has done nothing else; conftest.py says what it imports. What is tested of Python's
own command line, of variables that a library reads when it is loaded, or of how a program ends, starts `python`.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

_CONTEXT = multiprocessing.get_context(
    "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
)


class Forked:
    """A program that runs, as `python -W error -c` would run it; ``environment`` is all that it gets of variables."""

    def __init__(self, program: str, *arguments: object, environment: Mapping[str, str] | None = None):
        self._program, self._folder = program, tempfile.TemporaryDirectory()
        self._said = [Path(self._folder.name, name) for name in ("output", "errors")]
        given = dict(os.environ if environment is None else environment)
        self._process = _CONTEXT.Process(
            target=_run, args=(program, list(map(str, arguments)), given, os.getcwd(), list(map(str, self._said)))
        )
        self._process.start()

    def ended(self, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        """How it ended and what it printed; after ``timeout`` seconds it is killed, and an error."""
        with self._folder:
            self._process.join(timeout)
            code = self._process.exitcode
            self._process.kill()
            self._process.join()
            output, errors = (path.read_text() if path.exists() else "" for path in self._said)
        if code is None:
            raise subprocess.TimeoutExpired(self._program, timeout, output, errors)
        return subprocess.CompletedProcess(self._program, code, output, errors)


def run(program: str, *arguments: object, environment: Mapping[str, str] | None = None) -> list[str]:
    """The lines that a program prints, which must end well and warn of nothing."""
    done = Forked(program, *arguments, environment=environment).ended()
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def _run(program: str, arguments: list[str], environment: dict[str, str], folder: str, said: list[str]) -> None:
    for number, path in enumerate(said, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["-c", *arguments]
    warnings.simplefilter("error")
    exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})
