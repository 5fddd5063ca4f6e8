"""Measurements of a model outside its training: metrics, signal per layer, memory of a step."""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...signal.protection import as_it_was
from ..contestants.bank import remembering
from ..contestants.models import Network
from ..data.training_data import Batch
from ..isolation import listening
from ..tasks import Task

SIGNAL_BATCH = 64


@torch.no_grad()
def evaluate(model: nn.Module, objective: Task, batches: Iterable[Batch]) -> Tensor:
    """The `sums` of all samples, on the CPU, in evaluation mode; a batch of one group uses that group's statistics."""
    with as_it_was(model):
        model.eval()
        found = []
        for x, y, group in batches:
            with remembering(model, group):
                found.append(objective.sums(model(x), y).cpu())
    return torch.cat(found)


@torch.no_grad()
def evaluate_in_training(network: Network, objective: Task, batches: Iterable[tuple[Batch, int]]) -> Tensor:
    """The `sums` of all samples, with the normalizers, and nothing else, in training mode.

    The batches are those of `TrainingData.full_batches`: each sample counts once, and each batch has the full size.
    """
    found = []
    with as_it_was(network.module):
        network.module.eval()
        modules = dict(network.module.named_modules())
        for site in network.sites:
            modules[site].train()
        for (x, y, _), counted in batches:
            found.append(objective.sums(network.module(x), y)[:counted].cpu())
    return torch.cat(found)


@torch.no_grad()
def layer_signal(network: Network, x: Tensor) -> dict[str, dict[str, float | None]]:
    """The squared channel mean and the (biased) channel variance of the input of each normalization site, over one
    batch in training mode, averaged over channels, as in Brock et al. 2021, arXiv:2101.08692.

    Running statistics stay as they are. A value that is not finite is None.
    """
    found: dict[str, dict[str, float | None]] = {}

    def record(site: str, signal: Tensor) -> None:
        channel = signal.dim() - 1 if network.of_tokens else 1
        dims = [dim for dim in range(signal.dim()) if dim != channel]
        variance, mean = torch.var_mean(signal.float(), dim=dims, correction=0)
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

    They are `held` bytes (parameters, buffers, optimizer state) plus the peak of the memory that `step` allocates; the
    data are not counted.
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
