"""E14: statistics over several processes."""

from __future__ import annotations

import json
import multiprocessing
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from ..comparison import TrainingRun
from ..comparison.data.batches import batches_of_epoch
from ..comparison.settings import schedule
from .charts import bars
from .classifying import CLIP, MOMENTUM, accuracy, perceptron
from .digits import digits, flat
from .e01_small_batches import DEPTH, WIDTH, rate_at
from .experiment import DOES_NOT_HOLD, HOLDS, HOLDS_WHEN, UNDECIDED, Experiment, Results, Verdict

LOCAL_SIZE = 2
COUNTS = (2, 4)
ALONE, LOCAL, TOGETHER = "one process", "each its own statistics", "statistics together"
KINDS = (ALONE, LOCAL, TOGETHER)
MENDED = 0.03
PATIENCE = 600


def case_of(kind: str, count: int) -> str:
    return f"{kind}: {count} × {LOCAL_SIZE} samples"


CASES = tuple(case_of(kind, count) for count in COUNTS for kind in KINDS)


def measure(run: TrainingRun) -> dict[str, float]:
    """Held-out accuracy of the net of the first process."""
    kind, _, samples = run.name.partition(": ")
    count = int(samples.partition(" ")[0])
    if kind == ALONE:
        return train_share(0, 1, LOCAL_SIZE * count, "batch", run.epochs, run.seed)
    context = _context()
    norm = "batch" if kind == LOCAL else "sync"
    with tempfile.TemporaryDirectory() as folder:
        shared = (count, norm, run.epochs, run.seed, folder)
        processes = [context.Process(target=_work, args=(rank, *shared)) for rank in range(count)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        codes = [process.exitcode for process in processes]
        if any(codes):
            raise RuntimeError(f"The processes of {run.name!r} ended with the exit codes {codes}.")
        return json.loads((Path(folder) / "found.json").read_text(encoding="utf-8"))


def _context() -> Any:
    """A fork server, which has imported everything and starts a process quickly; a plain fork would copy torch's
    threads."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _work(rank: int, count: int, norm: str, epochs: int, seed: int, folder: str) -> None:
    """The main function of one process."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    meeting = f"file://{folder}/meeting"
    dist.init_process_group(
        "gloo", init_method=meeting, rank=rank, world_size=count, timeout=timedelta(seconds=PATIENCE)
    )
    try:
        found = train_share(rank, count, LOCAL_SIZE * count, norm, epochs, seed)
        if rank == 0:
            (Path(folder) / "found.json").write_text(json.dumps(found), encoding="utf-8")
        dist.barrier()
    finally:
        dist.destroy_process_group()


def train_share(rank: int, count: int, size: int, norm: str, epochs: int, seed: int) -> dict[str, float]:
    """Train on this process's share of each mini-batch, with the gradients averaged over the processes."""
    data = digits()
    x, y = flat(data.x_train), data.y_train
    net = perceptron(norm, WIDTH, WIDTH, DEPTH, 10)
    parameters = list(net.parameters())
    optimizer = torch.optim.SGD(parameters, rate_at(size), momentum=MOMENTUM, nesterov=True)
    batches = [batch for epoch in range(1, epochs + 1) for batch in batches_of_epoch(len(x), None, size, seed, epoch)]
    for step, batch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = rate_at(size) * schedule(step, len(batches))
        index = batch[rank::count]
        optimizer.zero_grad()
        F.cross_entropy(net(x[index]), y[index]).backward()
        if count > 1:
            average_gradients(parameters, count)
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
    return {"accuracy": accuracy(net.eval(), flat(data.x_test), data.y_test)}


def average_gradients(parameters: list[nn.Parameter], count: int) -> None:
    """Average the gradients over the processes, as DistributedDataParallel does, in one message."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    whole = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(whole)
    for gradient, part in zip(gradients, (whole / count).split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def judge(results: Results) -> Verdict:
    mended, said = [], []
    for count in COUNTS:
        alone, local, together = (case_of(kind, count) for kind in KINDS)
        low, _ = results.interval(together, local)
        close = abs(results.mean(together) - results.mean(alone)) <= MENDED
        if low > 0 and close:
            mended.append(count)
        said.append(
            f"{count} processes of {LOCAL_SIZE} samples {100 * results.mean(local):.1f} with statistics of their own, "
            f"{100 * results.mean(together):.1f} with common ones, one process with all {LOCAL_SIZE * count} "
            f"{100 * results.mean(alone):.1f}"
        )
    sentence = f"Accuracy, %: {'; '.join(said)}."
    if len(mended) == len(COUNTS):
        return Verdict(HOLDS, sentence)
    if mended:
        return Verdict(HOLDS_WHEN, f"there are {mended[0]} processes. {sentence}")
    better = all(results.mean(case_of(TOGETHER, n)) > results.mean(case_of(LOCAL, n)) for n in COUNTS)
    return Verdict(UNDECIDED if better else DOES_NOT_HOLD, sentence)


def picture(results: Results) -> str:
    values = {case: results.shown(case, scale=100) for case in CASES}
    title = f"{LOCAL_SIZE} samples in each process: statistics of their own, or together"
    return bars(title, "held-out accuracy, %", values, group=": ")


EXPERIMENT = Experiment(
    number="E14",
    claim="Statistics over several devices mend small local batches",
    claim_ja="複数 GPU に跨って平均・分散を推定すれば、手元のバッチが小さくても対応できる",
    said_in=("001",),
    protocol=f"The net of E1 is trained by {COUNTS[0]} and {COUNTS[1]} processes (gloo) with {LOCAL_SIZE} samples each "
    "and averaged gradients, with BatchNorm over each process's own samples and with SyncBatchNorm over all, beside a "
    "single process that has all samples. One machine's processes stand for the devices.",
    rule=f"Holds if for both numbers of processes common statistics are ahead at 95 % confidence (Student's t, seed by "
    f"seed) and within {100 * MENDED:.0f} points of the single process; holds when there are so many processes as one "
    "of them; undecided if they are ahead on average only.",
    cases=CASES,
    measure=measure,
    judge=judge,
    picture=picture,
    epochs=8,
)
