"""Parameters sharded over real processes (gloo) by fully_shard."""

from pathlib import Path

import pytest
from several_processes import assert_all_hold


@pytest.mark.slow
def test_sharded_parameters_are_clipped_like_whole_ones():
    assert_all_hold(Path(__file__).with_name("sharded_worker.py"))
