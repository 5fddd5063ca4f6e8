"""The tools on models that DistributedDataParallel and FSDP have wrapped, in two real processes."""

from pathlib import Path

from several_processes import assert_all_hold


def test_they_refuse_in_a_sentence_or_go_through_the_wrapper():
    assert_all_hold(Path(__file__).with_name("surgery_worker.py"))
