"""What one process of a group does; started by torchrun from test_together.py."""

import json
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import normwise as nw
from normwise.comparison import InputError, RunFinished
from normwise.comparison.storage import read_rows

sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "compare"))
import on_several_processes

OWN = {"metric": "loss", "direction": "min", "batch_sizes": [8], "epochs": 1}
BATCH, STEPS = 8, 5


def fit(norm, parallel, rank=0, processes=1):
    """The loss over all after some steps, each process with its part of the batch; float64."""
    x = torch.randn(BATCH, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 + 5
    y = x.prod(1, keepdim=True) / 1000
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, 5), norm, nn.ReLU(), nn.Linear(5, 1)).double()
    net = parallel(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (net(x[rank::processes]) - y[rank::processes]).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        return (net(x[rank::processes]) - y[rank::processes]).square().mean()


def over_all(loss):
    dist.all_reduce(loss)
    return {"loss": loss / dist.get_world_size()}


def with_ddp(run):
    return over_all(fit(run.norm(5, rank=1), DistributedDataParallel, dist.get_rank(), dist.get_world_size()))


def with_fsdp(run):
    return over_all(fit(run.norm(5, rank=1), fully_shard, dist.get_rank(), dist.get_world_size()))


def synchronized_over_parts_is_batch_norm_over_the_whole(rank):
    """Under DDP and FSDP2; what each process normalizes by itself is something else."""
    whole = float(fit(nn.BatchNorm1d(5), lambda net: net))
    for train in (with_ddp, with_fsdp):
        rows = nw.compare(train=train, norms=["sync", "batch"], seeds=1, **OWN)
        assert [row["status"] for row in rows] == ["finished", "finished"]
        assert rows[0]["value"] == pytest.approx(whole, rel=1e-9)
        assert rows[1]["value"] != pytest.approx(whole, rel=1e-3)
        assert rows[0]["step_ms"] > 0


def the_first_writes_and_all_get_the_rows(rank, out):
    asked = {"train": with_ddp, "norms": ["group", "none"], "seeds": 2, "out": out / "rows", **OWN}
    events = []
    rows = nw.compare(**asked, on_event=events.append)
    assert [(row["norm"], row["seed"]) for row in rows] == [("group", 0), ("none", 0), ("group", 1), ("none", 1)]
    assert sum(isinstance(event, RunFinished) for event in events) == (4 if rank == 0 else 0)
    dist.barrier()
    assert read_rows(out / "rows") == rows
    about = json.loads((out / "rows" / "settings.json").read_text())
    assert "Each run is done by 2 processes together." in about["protocol"]
    assert nw.compare(**asked, on_event=events.append) == rows
    assert sum(isinstance(event, RunFinished) for event in events) == (4 if rank == 0 else 0)


def failing(run):
    if run.name == "none":
        raise ValueError("all of us")
    if run.name == "layer" and dist.get_rank() == 1:
        raise ValueError("only me")
    if run.name == "group":
        return {"loss": 1.0 + dist.get_rank()}
    return {"loss": 2.0} if dist.get_rank() == 0 else None


def a_failure_of_any_is_a_failed_run_and_the_sweep_goes_on(rank):
    rows = nw.compare(train=failing, norms=["none", "layer", "group", "batch"], seeds=1, **OWN)
    assert [row["status"] for row in rows] == ["failed", "failed", "failed", "finished"]
    assert rows[0]["message"] == "ValueError: all of us."
    assert rows[1]["message"] == "In process 1 of 2: ValueError: only me."
    assert "only me" in rows[1]["traceback"]
    assert rows[2]["message"].startswith("loss is 1 in process 0 and 2 in process 1; average it over all")
    assert [row["value"] for row in rows] == [None, None, None, 2.0]


def rated(run):
    return {"loss": abs(run.learning_rate - 0.2) + (0 if run.choosing else 1)}


def all_try_the_same_learning_rates(rank):
    rows = nw.compare(train=rated, norms=["batch"], seeds=1, lrs=[0.1, 0.2], **OWN)
    assert [(row["learning_rate"], row["value"]) for row in rows] == [(0.2, 1.0)]


def the_others_learn_that_the_first_has_ended(rank):
    def stop(_):
        raise KeyError("no more")

    expected = (
        (KeyError, "no more") if rank == 0 else (RuntimeError, "The first process has ended: KeyError: 'no more'")
    )
    with pytest.raises(expected[0], match=expected[1]):
        nw.compare(train=with_ddp, norms=["group"], seeds=1, on_event=stop, **OWN)


def what_cannot_be_done_together_is_said_by_all(rank):
    with pytest.raises(InputError, match="Our own loop trains in one process, and this is a group of 2; give train="):
        nw.compare(norms=["batch"], batch_sizes=[8], seeds=1, epochs=1)
    with pytest.raises(InputError, match="All processes of this group do each run together; leave jobs and ray out"):
        nw.compare(train=with_ddp, norms=["batch"], seeds=1, jobs=2, **OWN)


def the_example_trains_with_both_wrappers(rank):
    found = {}
    for option in ([], ["--fsdp"]):
        sys.argv[1:] = option
        asked = {"norms": ["sync", "group"], "batch_sizes": [32], "seeds": 1, "epochs": 1, "learning_rate": 1e-2}
        rows = nw.compare(train=on_several_processes.train, metric="accuracy", direction="max", **asked)
        found[len(option)] = [row["value"] for row in rows]
    assert min(found[0]) > 0.2
    assert found[1] == pytest.approx(found[0], abs=0.02)


if __name__ == "__main__":
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    synchronized_over_parts_is_batch_norm_over_the_whole(rank)
    the_first_writes_and_all_get_the_rows(rank, Path(sys.argv[1]))
    a_failure_of_any_is_a_failed_run_and_the_sweep_goes_on(rank)
    all_try_the_same_learning_rates(rank)
    the_others_learn_that_the_first_has_ended(rank)
    what_cannot_be_done_together_is_said_by_all(rank)
    the_example_trains_with_both_wrappers(rank)
    dist.destroy_process_group()
    sys.stdout.write(f"rank {rank}: all properties hold\n")
