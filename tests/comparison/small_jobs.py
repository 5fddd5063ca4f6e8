"""Training functions for the tests of several processes, which import them."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import torch


def score(run):
    """A number that depends on the run and on nothing else."""
    run.norm(4)
    return {"score": len(run.name) + 0.01 * run.seed + 0.001 * float(torch.rand(()))}


def deadly_score(run):
    """Kills its process the first time that ("group", 0) is run, and every time that ("none", 1) is."""
    once = Path(os.environ["SMALL_JOBS_FOLDER"]) / "killed once"
    if (run.name, run.seed) == ("none", 1) or ((run.name, run.seed) == ("group", 0) and not once.exists()):
        once.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return score(run)


def slow_score(run):
    """Takes a while, and says which process it is in."""
    with (Path(os.environ["SMALL_JOBS_FOLDER"]) / "pids").open("a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(0.7)
    return score(run)


def always_deadly(run):
    """Kills its process whenever it is run without a normalizer."""
    if run.name == "none":
        os.kill(os.getpid(), signal.SIGKILL)
    return score(run)


def killing_once(folder):
    """Kills its process the first time that ("group", 0) is run; the folder remembers it."""
    return partial(_killing_once, str(folder))


def _killing_once(folder, run):
    once = Path(folder) / "killed once"
    if (run.name, run.seed) == ("group", 0) and not once.exists():
        once.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return score(run)
