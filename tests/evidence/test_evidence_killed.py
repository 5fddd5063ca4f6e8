"""kill -9 in the middle of an experiment: the same command does the rest, and the rows are those of a whole run."""

import signal
import subprocess
import sys
import time

import pytest

from normwise.comparison.storage import read_sweep
from normwise.evidence import EXPERIMENTS, run_experiment
from normwise.evidence.running import runs_of

EXPERIMENT = EXPERIMENTS["E5"]
WAIT = 600


def rows_in(folder):
    """How many rows are there; each worker of several has a file of its own."""
    return sum(len(path.read_text().splitlines()) for path in folder.glob("results*.jsonl"))


def found(folder):
    """What the rows say, times aside."""
    kept = ("norm", "batch_size", "seed", "status", "value", "metrics")
    rows, _ = read_sweep(folder)
    return sorted(([row[name] for name in kept] for row in rows), key=str)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_half_way_it_goes_on_to_the_same_rows(tmp_path, jobs):
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "normwise", "evidence", "E5", "--quick", "--jobs", str(jobs), "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    end = time.monotonic() + WAIT
    while rows_in(out / "E5-quick") < 3:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = rows_in(out / "E5-quick")
    assert 3 <= before < runs_of(EXPERIMENT, quick=True)
    rest = subprocess.run(command, capture_output=True, text=True, timeout=WAIT)
    assert rest.returncode == 0
    assert "runs were finished before and are not repeated" in rest.stdout
    whole = tmp_path / "whole"
    run_experiment(EXPERIMENT, whole, quick=True)
    assert found(out / "E5-quick") == found(whole / "E5-quick")
    assert len(found(whole / "E5-quick")) == runs_of(EXPERIMENT, quick=True)
