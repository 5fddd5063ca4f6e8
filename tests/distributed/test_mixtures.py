"""Batch Renorm, Switchable, Batch-Instance Norm and EvoNorm-B0 over two real processes (gloo)."""

from pathlib import Path

import pytest
from several_processes import assert_all_hold


@pytest.mark.slow  # the fast suite: tests/conformance, all layers in one pair of processes
def test_any_split_over_processes_is_one_process_on_the_whole():
    assert_all_hold(Path(__file__).with_name("mixture_worker.py"))
