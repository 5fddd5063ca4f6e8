"""Parameters sharded over real processes (gloo) by fully_shard."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("sharded_worker.py")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


@pytest.mark.slow
def test_sharded_parameters_are_clipped_like_whole_ones():
    command = [sys.executable, "-m", "torch.distributed.run", "--master-port", free_port()]
    command += ["--nproc-per-node", "2", str(WORKER)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    for rank in range(2):
        assert f"rank {rank}: all properties hold" in done.stdout
