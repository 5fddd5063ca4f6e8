"""What is measured of a model beside its training: accuracy, signal per layer, memory of a step."""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..signal.protection import as_it_was
from .bank import remembering
from .batches import by_group
from .isolation import listening
from .models import Network

EVALUATION_BATCH = 128
SIGNAL_BATCH = 64


@torch.no_grad()
def evaluate(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Accuracy and mean cross-entropy in evaluation mode."""
    with as_it_was(model):
        model.eval()
        correct = loss = torch.zeros((), device=x.device)
        for part, labels in zip(x.split(EVALUATION_BATCH), y.split(EVALUATION_BATCH), strict=True):
            logits = model(part)
            correct = correct + (logits.argmax(1) == labels).sum()
            loss = loss + F.cross_entropy(logits, labels, reduction="sum")
    return float(correct) / len(x), float(loss) / len(x)


def evaluate_by_bank(model: nn.Module, x: Tensor, y: Tensor, groups: Tensor) -> tuple[float, float]:
    """`evaluate`, each sample by the running statistics of its group."""
    correct = loss = 0.0
    for group in groups.unique().tolist():
        members = (groups == group).nonzero().flatten()
        with remembering(model, group):
            accuracy, mean_loss = evaluate(model, x[members], y[members])
        correct, loss = correct + accuracy * len(members), loss + mean_loss * len(members)
    return correct / len(x), loss / len(x)


@torch.no_grad()
def train_mode_accuracy(network: Network, x: Tensor, y: Tensor, batch_size: int, groups: Tensor | None = None) -> float:
    """Accuracy with the normalizers, and nothing else, in training mode at a batch size.

    Samples come in one fixed random order, where there are groups one group after the other. The last batch is filled
    up from the start of that order, and only its own samples count: each sample counts once, and each batch has the
    full size.
    """
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).to(x.device)
    correct = torch.zeros((), device=x.device)
    with as_it_was(network.module):
        network.module.eval()
        modules = dict(network.module.named_modules())
        for site in network.sites:
            modules[site].train()
        for members in by_group(order, groups):
            for start in range(0, len(members), batch_size):
                index = members[torch.arange(start, start + batch_size, device=x.device) % len(members)]
                counted = min(batch_size, len(members) - start)
                hits = network.module(x[index]).argmax(1) == y[index]
                correct += hits[:counted].sum()
    return float(correct) / len(x)


@torch.no_grad()
def layer_signal(network: Network, x: Tensor) -> dict[str, dict[str, float | None]]:
    """Of the input of each normalization site, over one batch in training mode, averaged over channels:
    the squared channel mean and the (biased) channel variance, as in Brock et al. 2021, arXiv:2101.08692.

    Running statistics stay as they are. A value that is not finite is None.
    """
    found: dict[str, dict[str, float | None]] = {}

    def record(site: str, signal: Tensor) -> None:
        variance, mean = torch.var_mean(signal.float(), dim=[0, *range(2, signal.dim())], correction=0)
        found[site] = {"squared_mean": finite(mean.square().mean()), "variance": finite(variance.mean())}

    modules = dict(network.module.named_modules())
    with as_it_was(network.module), listening({site: modules[site] for site in network.sites}, record):
        network.module.train()
        network.module(x)
    return found


def finite(value: float | Tensor) -> float | None:
    """A float for JSON: None where it is not finite."""
    number = float(value)
    return number if math.isfinite(number) else None


def step_memory(step: Callable[[], Any], held: int, device: str) -> tuple[int, str]:
    """Peak bytes of one training step, and how they were measured.

    `held` bytes (parameters, buffers, optimizer state) plus the peak of what `step` allocates on top of what was
    allocated before it; the data do not count.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        return held + torch.cuda.max_memory_allocated(device) - before, "CUDA caching allocator"
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        with _silent_stderr(), torch.profiler.profile(profile_memory=True) as profile:
            step()
        profile.export_chrome_trace(str(trace))
        events = [e for e in json.loads(trace.read_text())["traceEvents"] if e.get("name") == "[memory]"]
    total = peak = 0
    for event in sorted(events, key=lambda e: e["ts"]):
        total += event["args"]["Bytes"]
        peak = max(peak, total)
    return held + peak, "CPU allocator events"


@contextmanager
def _silent_stderr() -> Iterator[None]:
    # The profiler's C++ log writes two lines to the terminal for each profile, past sys.stderr.
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
