"""Spectral normalization under DistributedDataParallel, in real processes."""

import pathlib
import subprocess
import sys


def test_two_ranks_agree_with_each_other_and_with_one_process(tmp_path):
    """Two forwards before each backward, four steps; with and without broadcast of buffers, matrix and operator."""
    script = pathlib.Path(__file__).with_name("ddp_critic.py")
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(tmp_path / "store")], stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    try:
        errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(errors)[-3000:]
