"""`recalibrate` over two real processes (gloo): the same on both, as one process on all data."""

from pathlib import Path

from several_processes import assert_all_hold


def test_two_processes_are_one_on_the_whole():
    assert_all_hold(Path(__file__).with_name("recalibrate_worker.py"))
