"""Fixtures of the whole suite."""

import contextlib
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing import forkserver

import pytest
import torch
from hypothesis import HealthCheck, settings

# The same ways on every machine with the same instructions, whatever was measured on it; see tests/tuning.
os.environ["NORMWISE_TUNING"] = "0"
if not torch.cuda.is_available():
    # Triton decides when it is imported whether it interprets its kernels: before anything of it is.
    os.environ.setdefault("TRITON_INTERPRET", "1")

from covering import leave_out
from triton_interpreter import prepare

from normwise import build_kernels, use_backend
from normwise.backends import available_backends
from normwise.backends.triton_kernels.device import interpreted
from normwise.cli import main

# What the process has imported of which tests/forked.py makes others.
multiprocessing.set_forkserver_preload(["torch.distributed.fsdp", "torch.testing"])

# The same examples in every run, and no clock: a failure is a defect of the code, and comes again.
settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")


def pytest_configure(config) -> None:
    """Compile all kernels before any test, or the first would be served by plain PyTorch meanwhile."""
    if not hasattr(config, "workerinput"):
        build_kernels()


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end: the garbage collector need not go through it ever again.

    Nor through what a test makes each time that 700 objects have come: a compiler makes millions.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_sessionfinish() -> None:
    """The process that tests/forked.py forks does not outlive the session, and counts among what it took."""
    forkserver._forkserver._stop()


@pytest.hookimpl(wrapper=True)
def pytest_generate_tests(metafunc) -> Iterator[None]:
    """Of a test's combinations, leave all but a covering subset to the slow suite."""
    yield
    if metafunc.definition.get_closest_marker("slow") is None:
        # What pytest makes tests of; there is no public hook between the combinations and their tests.
        leave_out(metafunc._calls, made=metafunc.config.option.markexpr != "not slow")


#: torch.manual_seed asks every kind of device, which takes longer than many a test.
_seed = torch.manual_seed if torch.cuda.is_available() else torch.default_generator.manual_seed


@pytest.fixture(autouse=True)
def _whatever_ran_before() -> None:
    """The same numbers, and a compiler that has compiled nothing: it gives a function up after eight kinds of call."""
    _seed(0)
    compiler = sys.modules.get("torch._dynamo")
    if compiler is not None:
        compiler.reset()


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

    def run(*arguments, columns=80, folder=tmp_path):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.setattr(sys, "argv", ["normwise", *arguments])
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def user_module(tmp_path):
    """Writes a module of the user's, where `command` is run, and returns its name: a new one for each test."""

    def write(code):
        name = f"my_code_{tmp_path.name.replace('-', '_')}"
        (tmp_path / f"{name}.py").write_text(code)
        return name

    return write
