"""Everything on a device without fp64, each topic in a process of its own: the device cannot be unregistered again."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TOPICS = sorted(path.stem for path in HERE.glob("*_without_fp64.py") if not path.stem.startswith("test_"))
NOTHING_SELECTED = 5


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_topic(topic, which):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", which, f"{HERE / topic}.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    allowed = {0, NOTHING_SELECTED} if which == "slow" else {0}
    assert done.returncode in allowed, done.stdout[-10_000:] + done.stderr[-2_000:]
