"""Tests in processes of a group (gloo)."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from forked import Forked

SCRIPT = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def ended_together(program: str, *arguments: object, world: int = 2) -> list[subprocess.CompletedProcess]:
    """How a program ended in each process of a group, which finds the others as torchrun tells it."""
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]
    processes = [Forked(program, *arguments, environment={**os.environ, **group, **rank}) for rank in ranks]
    return [process.ended() for process in processes]


def assert_all_hold(worker: Path, world: int = 2) -> None:
    """Each process of the script says at its end that all properties hold."""
    for rank, done in enumerate(ended_together(SCRIPT, worker, world=world)):
        assert done.returncode == 0, done.stderr[-4000:]
        assert done.stdout.endswith(f"rank {rank}: all properties hold\n")


def assert_all_hold_by_torchrun(worker: Path, *arguments: str | Path, world: int = 2) -> None:
    """The same, started as users start them."""
    command = [sys.executable, "-m", "torch.distributed.run", "--master-port", free_port()]
    command += ["--nproc-per-node", str(world), str(worker), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    for rank in range(world):
        assert f"rank {rank}: all properties hold" in done.stdout
