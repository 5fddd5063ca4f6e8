"""A sweep killed with SIGKILL and repeated by the same command, against an undisturbed one."""

import json
import signal

import pytest
from forked import Forked

from normwise.comparison import RunFinished, compare
from normwise.comparison.storage import read_rows

SMALL = {
    "model": "small_problems:net",
    "data": "small_problems:blobs",
    "norms": ["batch", "group"],
    "batch_sizes": [6],
    "seeds": 2,
    "epochs": 3,
}
SCRIPT = """
import json, os, signal, sys
from normwise.comparison import EpochFinished, compare

small, out = json.loads(sys.argv[1]), sys.argv[2]

def on_event(event):
    if isinstance(event, EpochFinished) and (event.done, event.epoch) == (2, 2):
        with open(os.path.join(out, "results.jsonl"), "ab") as file:
            file.write(b'{"key": "cut off in the mid')
        os.kill(os.getpid(), signal.SIGKILL)

compare(**small, out=out, on_event=on_event)
"""
TIMES = ("step_ms", "seconds", "started")


def untimed(rows):
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_killed_sweep_resumes_to_the_rows_of_an_undisturbed_one(tmp_path):
    killed = Forked(SCRIPT, json.dumps(SMALL), tmp_path).ended()
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = (tmp_path / "results.jsonl").read_bytes()
    assert before.endswith(b"cut off in the mid")
    assert len(read_rows(tmp_path)) == 2

    events = []
    compare(**SMALL, out=tmp_path, on_event=events.append)
    done = [(event.run.norm, event.run.seed) for event in events if isinstance(event, RunFinished)]
    assert done == [("batch", 1), ("group", 1)]
    after = (tmp_path / "results.jsonl").read_bytes()
    assert after.startswith(before[: before.rindex(b"\n") + 1])
    assert untimed(read_rows(tmp_path)) == untimed(compare(**SMALL))
