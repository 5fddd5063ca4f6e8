"""Spectral normalization under DistributedDataParallel, in real processes."""

from pathlib import Path

from several_processes import assert_all_hold


def test_two_ranks_agree_with_each_other_and_with_one_process():
    """Two forwards before each backward, four steps; with and without broadcast of buffers, matrix and operator."""
    assert_all_hold(Path(__file__).with_name("ddp_critic.py"))
