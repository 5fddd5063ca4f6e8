"""Runs that two processes do together, started by torchrun."""

from pathlib import Path

import pytest
import torch.distributed as dist
from several_processes import assert_all_hold_by_torchrun

from normwise.comparison import InputError, compare


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch has no gloo")
def test_two_processes_do_each_run_together(tmp_path):
    assert_all_hold_by_torchrun(Path(__file__).with_name("together_worker.py"), tmp_path)


def test_processes_of_torchrun_that_are_no_group_are_told_so(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    own = {"norms": ["none"], "batch_sizes": [2], "seeds": 1, "metric": "loss", "direction": "min"}
    with pytest.raises(
        InputError, match=r"torchrun has started 2 processes without a process group; call torch\.distributed"
    ):
        compare(train=lambda run: {"loss": 1.0}, **own)
    assert len(compare(train=lambda run: {"loss": 1.0}, **own, shard="1/2")) == 1
