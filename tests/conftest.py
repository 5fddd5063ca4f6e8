"""Fixtures of the whole suite."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, settings

if not torch.cuda.is_available():
    # Triton decides when it is imported whether it interprets its kernels: before anything of it is.
    os.environ.setdefault("TRITON_INTERPRET", "1")

from covering import covering
from triton_interpreter import prepare

from normwise import use_backend
from normwise.backends import available_backends
from normwise.backends.triton_kernels.device import interpreted
from normwise.cli import main

# The same examples in every run, and no clock: a failure is a defect of the code, and comes again.
settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")


def factors(value) -> list[str]:
    """What an argument's value is made of, if it says so; values may be of any kind, and equal ones look the same."""
    return [repr(factor) for factor in getattr(value, "factors", (value,))]


@pytest.hookimpl(tryfirst=True)  # before `-m` looks at the marks
def pytest_collection_modifyitems(items) -> None:
    """Of every test's combinations, mark as slow those that a covering subset can do without."""
    tests: dict[Callable, list[pytest.Item]] = {}
    for item in items:
        if hasattr(item, "callspec") and not item.get_closest_marker("slow"):
            tests.setdefault(item.function, []).append(item)
    for found in tests.values():
        rows = [[factor for value in item.callspec.params.values() for factor in factors(value)] for item in found]
        kept = covering(rows)
        for number, item in enumerate(found):
            if number not in kept:
                item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# Interpreted, the kernels are some hundred times slower than anything else here.
TRITON = pytest.param("triton", marks=pytest.mark.slow)


@pytest.fixture(params=["automatic", "reference", TRITON])
def backend(request):
    """A factory of contexts: the automatic choice, and each backend that runs on this machine."""
    name = request.param
    reason = None if name == "automatic" else available_backends()[name]
    if reason is not None:
        pytest.skip(reason)
    if name == "triton":
        if not interpreted():
            pytest.skip("on a GPU the layers are tested by tests/backends/triton; TRITON_INTERPRET=1 tests them here")
        prepare()
    return lambda: contextlib.nullcontext() if name == "automatic" else use_backend(name)


@pytest.fixture
def start():
    """Starts a process that Ctrl-C reaches, even where the tests run in the background, which ignores it.

    None of them outlives its test.
    """
    with contextlib.ExitStack() as started:

        def start(command, **options):
            before = signal.signal(signal.SIGINT, signal.default_int_handler)
            try:
                process = subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
                )
            finally:
                signal.signal(signal.SIGINT, before)
            started.enter_context(process)
            started.callback(process.kill)
            return process

        yield start


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """The command line within this process, which spares the import of torch: exit code, stdout, stderr."""

    def run(*arguments, columns=80):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.setattr(sys, "argv", ["normwise", *arguments])
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code, *capsys.readouterr()

    return run
