"""Tests in processes of a group (gloo), started as users start them."""

import os
import socket
import subprocess
import sys
from pathlib import Path


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def assert_all_hold(worker: Path, *arguments: str | Path, world: int = 2) -> None:
    """Each process that torchrun starts of the script says at its end that all properties hold."""
    command = [sys.executable, "-m", "torch.distributed.run", "--master-port", free_port()]
    command += ["--nproc-per-node", str(world), str(worker), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    for rank in range(world):
        assert f"rank {rank}: all properties hold" in done.stdout
