"""E20: memory of a training step against batch size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..comparison import TrainingRun
from ..comparison.training.measure import step_memory
from ..layers import make_norm
from ..nets import resnet
from .charts import lines
from .experiment import DOES_NOT_HOLD, HOLDS, Experiment, Results, Verdict

PROCESSES = 4
NONE, BATCH, GROUP, SHARED = "no normalizer", "BatchNorm", "GroupNorm", f"BatchNorm, each of {PROCESSES} processes"
NORMS = {NONE: "none", BATCH: "batch", GROUP: "group", SHARED: "batch"}
SIZES = (4, 8, 16, 32, 64)
SIDE, MIB = 32, 2**20
GROWS, SHRINKS = 0.5, 1.5


def measure(run: TrainingRun) -> dict[str, float]:
    """In MiB: the peak of allocated memory in a training step, the tensors kept for the backward pass, and the part of
    these that normalizers keep."""
    share = run.batch_size // PROCESSES if run.name == SHARED else run.batch_size
    net = resnet(8, NORMS[run.name], in_channels=3)
    x, y = torch.randn(share, 3, SIDE, SIDE), torch.randint(10, (share,))
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()

    step()
    optimizer.zero_grad()
    held = 2 * sum(p.numel() * p.element_size() for p in net.parameters())
    held += sum(b.numel() * b.element_size() for b in net.buffers())
    peak, _ = step_memory(step, held, "cpu")
    with counted(net) as kept:
        F.cross_entropy(net(x), y).backward()
    return {
        "peak": peak / MIB,
        "kept": sum(kept.values()) / MIB,
        "by normalizers": kept["normalizers"] / MIB,
    }


@contextmanager
def counted(net: nn.Module) -> Iterator[dict[str, int]]:
    """Count the bytes that operations in the block keep for the backward pass, each storage once."""
    kept, seen = {"normalizers": 0, "others": 0}, set()
    known = {p.untyped_storage().data_ptr() for p in net.parameters()}
    inside: list[nn.Module] = []
    kind = type(make_norm("batch", 4)), type(make_norm("group:1", 4))

    def pack(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        if storage.data_ptr() not in seen | known:
            seen.add(storage.data_ptr())
            kept["normalizers" if inside else "others"] += storage.nbytes()
        return saved

    handles = []
    for module in net.modules():
        if isinstance(module, kind):
            handles.append(module.register_forward_pre_hook(lambda m, _: inside.append(m)))
            handles.append(module.register_forward_hook(lambda *_: inside.pop() and None))
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
            yield kept
    finally:
        for handle in handles:
            handle.remove()


def judge(results: Results) -> Verdict:
    small, large = min(results.sizes()), max(results.sizes())
    growth = results.mean(BATCH, large) / results.mean(BATCH, small)
    shared = results.mean(SHARED, large) / results.mean(BATCH, large)
    share = results.mean(BATCH, large, "by normalizers") / results.mean(BATCH, large, "kept")
    sentence = (
        f"A training step takes {results.mean(BATCH, small):.1f} MiB at batch size {small} and "
        f"{results.mean(BATCH, large):.1f} at {large}, {growth:.1f} times as much; {PROCESSES} processes that share "
        f"the {large} samples take {results.mean(SHARED, large):.1f} each ({shared:.2f} of it). BatchNorm keeps "
        f"{share:.0%} of what waits for the backward pass; without a normalizer the step takes "
        f"{results.mean(NONE, large):.1f}."
    )
    holds = growth >= GROWS * large / small and shared <= SHRINKS / PROCESSES
    return Verdict(HOLDS if holds else DOES_NOT_HOLD, sentence)


def picture(results: Results) -> str:
    named = {case: case.removeprefix("BatchNorm, ") for case in NORMS}
    series = {name: [(size, results.mean(case, size)) for size in results.sizes()] for case, name in named.items()}
    title = "Twice the mini-batch, twice the memory, unless several share it"
    return lines(title, "batch size", "peak memory of a step, MiB", series, log_y=True)


EXPERIMENT = Experiment(
    number="E20",
    claim="A large batch needs memory, and several devices can share it",
    claim_ja="バッチサイズが大きいと大きなメモリが必要になるが、複数 GPU に分けて対応できる",
    said_in=("001",),
    protocol=f"The peak of the allocator over one training step of a ResNet-8 on {SIDE}×{SIDE} pictures, after a first "
    f"step; with {PROCESSES} processes each has its share of the samples (their exchange of two numbers per channel is "
    "not counted). What is kept for the backward pass is counted storage by storage.",
    rule=f"Holds if from the smallest to the largest batch size the peak with BatchNorm grows by at least {GROWS:g} "
    f"times the ratio of the sizes, and each of {PROCESSES} processes that share the largest takes at most "
    f"{SHRINKS:g}/{PROCESSES} of it; otherwise it does not hold here.",
    cases=tuple(NORMS),
    measure=measure,
    metric="peak",
    direction="min",
    judge=judge,
    picture=picture,
    sizes=SIZES,
    seeds=2,
    quick_seeds=1,
)
