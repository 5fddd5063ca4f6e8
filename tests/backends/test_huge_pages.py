"""Large outputs on huge pages: asked for, not asked for, and never another result."""

from pathlib import Path

import forked
import pytest
import torch

import normwise as nw

SMAPS = Path("/proc/self/smaps")


@pytest.fixture(autouse=True)
def restored():
    before = nw.huge_pages()
    yield
    nw.huge_pages(before)


PROGRAM = """
import re, torch
import normwise as nw
from normwise.backends.huge_pages import empty_like

def advised(t):
    # Whether the system was asked for huge pages in the middle of the tensor's memory.
    middle = t.data_ptr() + t.nbytes // 2
    for block in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", open("/proc/self/smaps").read()):
        bounds = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", block)
        if bounds and int(bounds[1], 16) <= middle < int(bounds[2], 16):
            return " hg" in re.search(r"VmFlags:.*", block)[0]

x = torch.empty(40 << 18)  # 40 MB: mapped afresh, in memory of its own
for enabled in (False, True, False):
    assert nw.huge_pages(enabled) is enabled
    print(advised(empty_like(x)))
"""


@pytest.mark.skipif(not SMAPS.exists(), reason="needs Linux's /proc")
@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="a kernel without huge pages")
def test_large_outputs_ask_for_them_if_switched_on():
    """In a process of its own: where one reuses its memory, what was asked for once stays."""
    assert forked.run(PROGRAM) == ["False", "True", "False"]


def test_the_result_is_the_same():
    x = torch.randn(2, 8, 300, 301)
    outputs = [nw.GroupNorm(2, 8)(x) for enabled in (True, False) if nw.huge_pages(enabled) is enabled]
    assert torch.equal(*outputs)


def test_the_switch_can_be_asked():
    nw.huge_pages(False)
    assert nw.huge_pages() is False
