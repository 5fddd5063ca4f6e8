"""Rows of a sweep that nobody ran, for the tests of what people look at."""

from __future__ import annotations

import math
import random
from typing import Any

NORMS = ("batch", "group", "instance", "layer", "none")
BATCH_SIZES = (2, 8, 64)
LEVEL = {"batch": 0.93, "group": 0.975, "instance": 0.955, "layer": 0.962, "none": 0.90}
COST = {"batch": 1.0, "group": 1.15, "instance": 1.2, "layer": 1.1, "none": 0.7}


def make_row(norm: str, batch_size: int, seed: int, *, diverged: bool = False, epochs: int = 5) -> dict[str, Any]:
    """One row, the same for the same arguments; `diverged` ends it in the second epoch."""
    noise = random.Random(f"{norm} {batch_size} {seed}")
    final = LEVEL.get(norm, 0.94) + noise.uniform(-0.006, 0.006)
    if norm == "batch":
        final -= 0.25 / batch_size
    epochs_done = 2 if diverged else epochs
    curve: list[dict[str, Any]] = [
        {"epoch": e, "train_loss": 2.3 * math.exp(-0.9 * e), "test_accuracy": final * (1 - math.exp(-1.2 * e))}
        for e in range(1, epochs_done + 1)
    ]
    accuracy = 0.1 if diverged else final
    curve[-1] |= {"test_accuracy": accuracy} | ({"train_loss": None} if diverged else {})
    gap = (-0.4 / batch_size if norm == "batch" else 0.0) + 0.0
    return {
        "key": f"{norm}-{batch_size}-{seed}",
        "norm": norm,
        "batch_size": batch_size,
        "seed": seed,
        "model": "resnet8",
        "data": "digits",
        "train_samples": 898,
        "test_samples": 899,
        "classes": 10,
        "epochs": epochs,
        "learning_rate": 0.4 * min(1.0, batch_size / 32),
        "status": "diverged" if diverged else "finished",
        "message": "The loss is not finite after epoch 2 of 5." if diverged else "",
        "test_accuracy": accuracy,
        "test_accuracy_train_mode": None if diverged else final + gap,
        "train_eval_gap": None if diverged else gap,
        "train_accuracy": None if diverged else min(1.0, final + 0.02),
        "test_loss": None if diverged else 1 - final,
        "curve": curve,
        "step_ms": (3 + 0.4 * batch_size) * COST.get(norm, 1.3) * noise.uniform(0.97, 1.03),
        "peak_memory_bytes": int((1.1e6 + 9e4 * batch_size) * COST.get(norm, 1.3)),
        "memory_kind": "CPU allocator events",
        "parameters": 78042,
        "layers": [_layer(i, norm, diverged) for i in range(7)],
        "seconds": 4.2,
        "started": "2026-01-02T03:04:05+00:00",
        "versions": {"normwise": "0.1.0", "torch": "2.13.0", "numpy": "2.4.6", "python": "3.11.2"},
    }


def make_rows(
    norms: tuple[str, ...] = NORMS,
    batch_sizes: tuple[int, ...] = BATCH_SIZES,
    seeds: int = 2,
    diverged: tuple[tuple[str, int, int], ...] = (),
) -> list[dict[str, Any]]:
    """All rows of a sweep; `diverged` names (norm, batch size, seed) of those that end early."""
    return [
        make_row(norm, size, seed, diverged=(norm, size, seed) in diverged)
        for seed in range(seeds)
        for size in batch_sizes
        for norm in norms
    ]


def make_about(
    norms: tuple[str, ...] = NORMS, batch_sizes: tuple[int, ...] = BATCH_SIZES, seeds: int = 2, **changes: Any
) -> dict[str, Any]:
    """What `settings.json` of such a sweep holds; `changes` replace whole entries."""
    return {
        "settings": {
            "model": "resnet8",
            "data": "digits",
            "norms": list(norms),
            "batch_sizes": list(batch_sizes),
            "seeds": list(range(seeds)),
            "epochs": 5,
            "learning_rate": 0.4,
            "weight_decay": 5e-4,
            "image_size": 32,
            "device": "cpu",
            "threads": 2,
        },
        "data": {
            "name": "digits",
            "sample_shape": [1, 8, 8],
            "classes": [str(digit) for digit in range(10)],
            "train_samples": 898,
            "test_samples": 899,
            "fingerprint": "0123456789abcdef",
        },
        "protocol": [
            "SGD with Nesterov momentum 0.9, 5 epochs for every run.",
            "Peak learning rate: 0.4 × min(1, batch size / 32), that is 0.025 at 2, 0.1 at 8, 0.4 at 64.",
        ],
        "left_out": [],
        "rates": {str(size): 0.4 * min(1.0, size / 32) for size in batch_sizes},
        "machine": {"processor": "A Processor", "system": "Linux-6.1-x86_64", "device": "cpu"},
        "versions": {"normwise": "0.1.0", "torch": "2.13.0", "numpy": "2.4.6", "python": "3.11.2"},
    } | changes


def _layer(i: int, norm: str, diverged: bool) -> dict[str, Any]:
    grows = 1.0 if norm != "none" else 1.6**i
    start = {"squared_mean": 0.02 * (i + 1), "variance": 0.5 * grows}
    end: dict[str, float | None] = {"squared_mean": 0.1 * (i + 1), "variance": 2.0 * grows}
    return {
        "name": "stem.norm" if i == 0 else f"stages.{(i - 1) // 2}.0.norm{(i - 1) % 2 + 1}",
        "start": start,
        "end": {"squared_mean": None, "variance": None} if diverged else end,
    }
