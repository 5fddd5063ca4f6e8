"""What each part of the normalizer-free recipe is worth, one change at a time.

    OMP_NUM_THREADS=1 python benchmarks/normalizer_free.py --batch-sizes 64 --seeds 6
    python benchmarks/normalizer_free.py --data photos/ --epochs 12 --cases "the recipe,skip gain from 0"

The data are digits, or whatever `normwise compare --data` takes of images; the protocol and the network are
those of `normwise compare --norms nf`; the table is Markdown.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from normwise import nets
from normwise.comparison.contestants.models import Network
from normwise.comparison.contestants.normalizer_free import ALPHA, DROPOUT, NORMALIZER_FREE, SKIP_GAIN, UNIT_CLIP
from normwise.comparison.data.in_memory import Data
from normwise.comparison.data.sources import load_data
from normwise.comparison.isolation import isolated
from normwise.comparison.settings import Run, Settings, make_settings
from normwise.comparison.training.loop import Trainer, chance_values

RECIPE = {"alpha": ALPHA, "skip_gain": SKIP_GAIN, "dropout": DROPOUT, "stochastic_depth": 0.0}


class Case(NamedTuple):
    """The recipe with something changed: options of the net, unit clipping and its floor, the global clipping."""

    name: str
    net: dict[str, Any] = {}  # noqa: RUF012  # never changed
    unit_clip: float | None = UNIT_CLIP
    global_clip: bool = True
    eps: float = 1e-3


CASES = (
    Case("the recipe"),
    Case("dropout 0", {"dropout": 0.0}),
    Case("dropout 0.4", {"dropout": 0.4}),
    Case("stochastic depth 0.1", {"stochastic_depth": 0.1}),
    Case("skip gain from 0", {"skip_gain": 0.0}),
    Case("α = 0.2", {"alpha": 0.2}),
    Case("α = 1", {"alpha": 1.0}),
    Case("silu", {"activation": "silu"}),
    Case("no scaled weight standardization", {"standardize": False}),
    Case("no unit clipping", unit_clip=None),
    Case("unit clipping to 0.02", unit_clip=0.02),
    Case("unit clipping to 0.32", unit_clip=0.32),
    Case("unit clipping to 0.02 without the global one", unit_clip=0.02, global_clip=False),
    Case("unit clipping to 0.08 without the global one", global_clip=False),
    Case("unit clipping to 0.32 without the global one", unit_clip=0.32, global_clip=False),
    Case("ε = 0.1", eps=0.1),
    Case("ε = 1", eps=1.0),
    Case("skip gain from 0, no unit clipping", {"skip_gain": 0.0}, None),
    Case("skip gain from 0, ε = 1", {"skip_gain": 0.0}, eps=1.0),
)


class WithoutGlobalClipping(Trainer):
    """The protocol without its clipping to a global norm."""

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def accuracy(case: Case, batch_size: int, seed: int, data: Data, settings: Settings) -> float:
    """Held-out accuracy in % after a run."""
    run = Run(NORMALIZER_FREE if case.unit_clip else "none", batch_size, seed)
    with isolated(seed, "cpu"):
        net = nets.nf_resnet(8, len(data.classes), data.sample_shape[0], **(RECIPE | case.net))
    with isolated(seed, "cpu", settings.threads):
        kind = Trainer if case.global_clip else WithoutGlobalClipping
        trainer = kind(Network(net, ()), data, run, settings)
        if case.unit_clip:
            trainer.optimizer.clip, trainer.optimizer.eps = case.unit_clip, case.eps  # type: ignore[attr-defined]
        for epoch in range(1, settings.epochs + 1):
            trainer.epoch(epoch)
        found = trainer.on_held_out_split()
    return 100 * (found if found["loss"] == found["loss"] else chance_values(data))["accuracy"]


def lines(cases: list[Case], batch_sizes: list[int], seeds: int, data: Data, settings: Settings) -> Iterator[str]:
    """The table."""
    yield f"| | {' | '.join(f'batch size {size}' for size in batch_sizes)} |"
    yield f"|---{'|---' * len(batch_sizes)}|"
    for case in cases:
        cells = []
        for size in batch_sizes:
            found = [accuracy(case, size, seed, data, settings) for seed in range(seeds)]
            cells.append(f"{statistics.fmean(found):.1f} ± {statistics.stdev(found):.1f}")
        yield f"| {case.name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", default="64")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--cases", default="", help="names of the table's rows, separated by commas; by default all")
    options = parser.parse_args()
    sizes = [int(size) for size in options.batch_sizes.split(",")]
    torch.set_num_threads(1)
    wanted = options.cases.split(",") if options.cases else [case.name for case in CASES]
    data = load_data(options.data, image_size=32)
    settings = make_settings(
        model="resnet8",
        data=options.data,
        norms=[NORMALIZER_FREE],
        batch_sizes=sizes,
        seeds=options.seeds,
        epochs=options.epochs,
        learning_rate=0.6,
        weight_decay=5e-4,
        image_size=32,
        device="cpu",
    )
    for line in lines([case for case in CASES if case.name in wanted], sizes, options.seeds, data, settings):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
