"""A pretrained MobileNetV2, fine-tuned with small batches in the ways that `nw.compare` knows.

Needs what tools/on_a_real_net.py needs. Which of ten photographs does a crop of 64 pixels come from?

    python tools/fine_tuning.py FOLDER
"""

from __future__ import annotations

import math
import sys
from functools import cache
from pathlib import Path

import torch
from on_a_real_net import crops, photographs
from torch import Tensor, nn
from torch.nn import functional as F

import normwise as nw

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from real_nets import mobilenet

PICTURES, SIZE, TRAINED_ON, HELD_OUT = 10, 64, 96, 100
WAYS = ("batch", "batch:frozen", "batch:recalibrated", "renorm", "swap:group", "swap:layer", "nf")
#: At batches of 32; less in proportion below.
RATE = 0.02


@cache
def data() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    images = photographs()[:PICTURES]
    return crops(images, TRAINED_ON, seed=2, size=SIZE), crops(images, HELD_OUT, seed=1, size=SIZE)


def train(run: nw.comparison.TrainingRun) -> dict[str, float]:
    """The protocol of compare's own loop, without what it measures beside the accuracy."""
    (x, y), (x_test, y_test) = data()
    net = mobilenet().train()
    net.classifier[1] = nn.Linear(1280, PICTURES)
    net = run.replace(net, x[:2])
    optimizer = torch.optim.SGD(nw.param_groups(net, 5e-4), lr=0.0, momentum=0.9, nesterov=True)
    order, step = torch.Generator().manual_seed(run.seed), 0
    steps = run.epochs * (len(x) // run.batch_size)
    for epoch in range(run.epochs):
        net.train()
        for batch in torch.randperm(len(x), generator=order).split(run.batch_size):
            run.advance(step / steps)
            at = (step + 0.5) / steps
            share = at / 0.1 if at < 0.1 else 0.5 * (1 + math.cos(math.pi * (at - 0.1) / 0.9))
            for group in optimizer.param_groups:
                group["lr"] = RATE * run.batch_size / 32 * share
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x[batch]), y[batch])
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            step += 1
        run.report(epoch + 1, train_loss=loss)
    run.finish(net, x.split(32))
    with torch.no_grad():
        right = [net.eval()(part).argmax(1) for part in x_test.split(50)]
    return {"accuracy": float((torch.cat(right) == y_test).double().mean())}


def told(event: nw.comparison.Event) -> None:
    if isinstance(event, nw.comparison.RunFinished):
        print(*event.run, event.row["status"], event.row["value"], flush=True)


if __name__ == "__main__":
    nw.compare(
        train=train,
        norms=WAYS,
        batch_sizes=(2, 16),
        seeds=3,
        epochs=2,
        metric="accuracy",
        direction="max",
        out=Path(sys.argv[1]),
        on_event=told,
    )
