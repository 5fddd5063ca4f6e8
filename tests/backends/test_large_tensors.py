"""More values than 32 bits count: no size or place is cut on the way to a kernel."""

import re
from pathlib import Path

import pytest
import torch

import normwise as nw
from normwise.backends import available_backends

VALUES = 2**31 + 128


def available() -> int:
    """Bytes of memory that nobody needs; 0 where this is not Linux."""
    info = Path("/proc/meminfo")
    found = re.search(r"MemAvailable: +(\d+) kB", info.read_text()) if info.exists() else None
    return 1024 * int(found[1]) if found else 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(available_backends()["cpu"] is not None, reason=str(available_backends()["cpu"])),
    pytest.mark.skipif(available() < 10 * 2**30, reason="needs 10 GiB of memory: an input, an output and a margin"),
]


@torch.no_grad()
def test_planes():
    """Two channels of 0 and 1, one group: half of all is -1, the other half 1."""
    x = torch.zeros(1, 2, VALUES // 2, dtype=torch.bfloat16)
    x[:, 1] = 1
    with nw.use_backend("cpu"):
        y, table = nw.functional.group_norm(x, 1)
    assert y.shape == x.shape
    assert table.mean[0].tolist() == pytest.approx([0.5, 0.5], rel=1e-14)
    assert table.var[0].tolist() == pytest.approx([0.25, 0.25], rel=1e-14)
    assert y[0, 0].min() == y[0, 0].max() == -1
    assert y[0, 1].min() == y[0, 1].max() == 1


@torch.no_grad()
def test_rows():
    x = torch.ones(VALUES // 64, 64, dtype=torch.bfloat16)
    x[-1] = 3
    with nw.use_backend("cpu"):
        y = nw.functional.rms_norm(x, (64,), torch.full((64,), 2.0, dtype=torch.bfloat16), eps=0.0)
    assert y.shape == x.shape
    assert y.min() == y.max() == 2
