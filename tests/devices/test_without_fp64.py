"""Everything on a device without fp64, in a process of its own: the device cannot be unregistered again."""

import subprocess
import sys
from pathlib import Path

import pytest

TOPICS = sorted(path for path in Path(__file__).parent.glob("*_without_fp64.py") if not path.stem.startswith("test_"))


@pytest.mark.parametrize("which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_every_topic(which):
    assert len(TOPICS) == 4
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", which, *map(str, TOPICS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]
