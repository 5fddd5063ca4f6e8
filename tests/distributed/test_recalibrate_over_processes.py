"""`recalibrate` over two real processes (gloo): the same on both, as one process on all data."""

import os
import socket
import subprocess
import sys
from pathlib import Path


def test_two_processes_are_one_on_the_whole():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    worker = Path(__file__).with_name("recalibrate_worker.py")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--master-port", port, "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launcher, str(worker)], capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    for rank in range(2):
        assert f"rank {rank}: all properties hold" in done.stdout
