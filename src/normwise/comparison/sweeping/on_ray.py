"""A sweep on a Ray cluster: each run is a task, which Ray repeats if its machine is lost."""

from __future__ import annotations

import os
import pickle
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch

from ..events import RunStarted
from ..experiments.experiment import Row
from ..request import Request, open_experiment
from ..settings import InputError, Run
from ..storage import Store
from .sweep import Listener, Sweep

# How often Ray repeats a task whose worker or machine is lost.
RETRIES = 2
LOOK_AROUND = 1.0
# How many seconds a machine of the cluster may take to accept a connection.
PATIENCE = 10.0


def run_on_ray(
    sweep: Sweep, request: Request, address: str, store: Store | None, threads: int, on_event: Listener | None
) -> list[Row]:
    """The rows of all runs, done by tasks of `threads` processors each; this process alone writes them down.

    Step times are not measured: the machines differ, and other tasks run beside. Raises InputError where Ray is not
    installed or not reached.
    """
    with _connected(address) as ray:
        sweep.begin(on_event, store)
        gpus = 1 if torch.device(sweep.experiment.settings.device).type == "cuda" else 0
        remote = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=RETRIES)(_one_run)
        asked = ray.put(pickle.dumps((request, sweep.experiment.rates, threads)))
        while pending := sweep.pending():
            _collect(ray, sweep, {remote.remote(asked, tuple(run)): run for run in pending})
        return sweep.finished()


def _collect(ray: Any, sweep: Sweep, tasks: dict[Any, Run]) -> None:
    try:
        for run in tasks.values():
            sweep.tell(RunStarted(run=run, **sweep.state()))
        while tasks:
            ready, _ = ray.wait(list(tasks), timeout=LOOK_AROUND)
            for task in ready:
                run = tasks.pop(task)
                sweep.write(run, _row_of(ray, sweep, task, run))
    finally:
        for task in tasks:
            ray.cancel(task, force=True)


def _row_of(ray: Any, sweep: Sweep, task: Any, run: Run) -> Row:
    try:
        return ray.get(task)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
        return sweep.lost(run, f"Its process ended {RETRIES + 1} times: {type(error).__name__}.")


def _one_run(asked: bytes, run: tuple[str, int, int]) -> Row:
    """A task: one run of the experiment."""
    return _sweep_of(asked).do(Run(*run))


@lru_cache(maxsize=1)
def _sweep_of(asked: bytes) -> Sweep:
    """The sweep that a worker builds once for all its tasks."""
    request, rates, threads = pickle.loads(asked)
    torch.set_num_threads(threads)
    experiment = open_experiment(request)
    experiment.rates = rates
    return Sweep(experiment)


def _imported() -> Any:
    """The module ray; a folder named ray, which Python imports as an empty package, does not count."""
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        ray = None
    if not hasattr(ray, "init"):
        raise InputError("ray= needs Ray, which is not installed; run `pip install ray`, or use jobs=.")
    return ray


def _expect_listener(address: str) -> None:
    """Raise InputError if nothing answers at host:port or ray://host:port, where Ray itself tries for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()
    except (OSError, OverflowError) as error:  # a port above 65535 overflows
        raise _unreachable(address, getattr(error, "strerror", None) or str(error)) from error


def _unreachable(address: str, why: str) -> InputError:
    return InputError(
        f"ray={address!r}: no cluster can be reached there ({why}); write its address, 'auto' on one of its machines, "
        "or 'local' for this machine alone."
    )


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    ray = _imported()
    if ray.is_initialized():
        yield ray
        return
    _expect_listener(address)
    # Workers import the compared code from the same directories as this process.
    environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}}
    try:
        ray.init(address=address, runtime_env=environment, log_to_driver=False, include_dashboard=False)
    except Exception as error:  # Ray raises ConnectionError, ValueError, RuntimeError and its own classes
        raise _unreachable(address, type(error).__name__) from error
    try:
        yield ray
    finally:
        ray.shutdown()
