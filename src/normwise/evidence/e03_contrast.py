"""E3: does a painting depend on the contrast of the photograph?"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..comparison import TrainingRun
from ..functional.adaptive import adaptive_instance_norm, style_statistics
from ..nets import StyleNet, vgg_trunk
from ..style.contrast import CONTRASTS, lowered
from ..style.features import Features, vgg_features
from ..style.losses import relative_distance, style_loss, style_targets
from .charts import bars
from .experiment import DOES_NOT_HOLD, HOLDS, HOLDS_WHEN, UNDECIDED, Experiment, Results, Verdict
from .photographs import photographs
from .sheets import sheet
from .steps import take_step

if TYPE_CHECKING:
    from PIL.Image import Image

NORMS = {"InstanceNorm": "instance", "BatchNorm": "batch"}
INSTANCE, BATCH = NORMS
SIZES = (1, 4)
SIDE, RATE, STEPS_OF_EPOCH = 48, 4e-3, 20
STYLE_WEIGHT, BY_PIXELS = 10.0, 0.3
SHOWN = 144
INDEPENDENT, DEPENDENT = 0.1, 0.3


def measure(run: TrainingRun) -> dict[str, float]:
    """How far the painting of the photograph at half and a quarter of its contrast is from that at full contrast,
    where 1 is how far the paintings of other places are."""
    net = trained(run.name, run.batch_size, run.seed, run.epochs)
    content, *others = _places()
    with torch.no_grad():
        full = net(content[None])
        unit = torch.stack([_distance(net(other[None]), full) for other in others]).mean()
        found = {
            f"contrast {share:g}": float(_distance(net(lowered(content, share)[None]), full) / unit)
            for share in CONTRASTS
        }
    return found | {"distance": found[f"contrast {CONTRASTS[-1]:g}"]}


@lru_cache(maxsize=32)
def trained(case: str, size: int, seed: int, epochs: int) -> nn.Module:
    """A small feed-forward net that paints crops of the photographs in waves of a few colours."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        net = StyleNet(NORMS[case], width=8, blocks=2)
        features, style = _features(), waves()[None]
        targets = style_targets(features(style), features.style, "gram")
        palette = style_statistics(style)
        optimizer = torch.optim.Adam(net.parameters(), RATE)
        total = epochs * STEPS_OF_EPOCH
        for step in range(total):
            crops = _crops(size)
            painted = net(crops)
            target = adaptive_instance_norm(crops, palette, 1e-4).clamp(0, 1)
            loss = (painted - target).square().mean()
            if step >= BY_PIXELS * total:
                maps = features(painted)
                loss = 10 * loss + STYLE_WEIGHT * style_loss(maps, targets, "gram")
                with torch.no_grad():
                    kept = features(target, (features.content,))[features.content]
                loss = loss + relative_distance(maps[features.content], kept)
            take_step(optimizer, loss)
    return net.eval()


@lru_cache(maxsize=1)
def _features() -> Features:
    """Random convolutions: they know textures and colours, which is enough for waves."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return vgg_features(vgg_trunk((2, 2), width=16), "random", trained=False)


def waves(side: int = 96) -> Tensor:
    """The style: bent stripes of blue, white and orange, ``[3, side, side]`` in [0, 1]."""
    y, x = torch.meshgrid(*2 * [torch.linspace(0, 1, side)], indexing="ij")
    phase = 2 * math.pi * (9 * y + 0.6 * torch.sin(2 * math.pi * 3 * x))
    share = (0.5 + 0.5 * torch.sin(phase))[None]
    colors = torch.tensor([[0.05, 0.15, 0.45], [0.95, 0.92, 0.8], [0.9, 0.45, 0.1]])[..., None, None]
    return torch.where(
        share < 0.5, torch.lerp(colors[0], colors[1], 2 * share), torch.lerp(colors[1], colors[2], 2 * share - 1)
    )


def _crops(size: int) -> Tensor:
    found = []
    for _ in range(size):
        picture = photographs()[int(torch.randint(2, ()))]
        top, left = (int(torch.randint(picture.shape[i] - SIDE + 1, ())) for i in (1, 2))
        found.append(picture[:, top : top + SIDE, left : left + SIDE])
    return torch.stack(found)


def _places() -> list[Tensor]:
    """The place that is painted, and others."""
    temple, flower = photographs()
    return [temple[:, 60 : 60 + SHOWN, 100 : 100 + SHOWN], flower[:, :SHOWN, :SHOWN], flower[:, -SHOWN:, -SHOWN:]]


def _distance(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().mean().sqrt()


def judge(results: Results) -> Verdict:
    far = {case: {size: results.mean(case, size) for size in results.sizes()} for case in NORMS}
    said = ", ".join(
        f"{case} {far[case][size]:.3f} ± {results.spread(case, size):.3f} at batch size {size}"
        for case in NORMS
        for size in results.sizes()
    )
    sentence = (
        f"At a quarter of the contrast the painting moves, in units of the distance between paintings of different "
        f"places: {said}."
    )
    free = all(value <= INDEPENDENT for value in far[INSTANCE].values())
    bound = [size for size, value in far[BATCH].items() if value >= DEPENDENT]
    if not free or not bound:
        apart = all(far[INSTANCE][size] < far[BATCH][size] for size in results.sizes())
        return Verdict(UNDECIDED if apart else DOES_NOT_HOLD, sentence)
    if len(bound) == len(results.sizes()):
        return Verdict(HOLDS, sentence)
    return Verdict(HOLDS_WHEN, f"the batch size is {bound[0]}. {sentence}")


def picture(results: Results) -> str:
    values = {
        f"{case}, batch size {size}": (results.mean(case, size), results.spread(case, size))
        for case in NORMS
        for size in results.sizes()
    }
    title = "The photograph at a quarter of its contrast: how far does the painting move?"
    return bars(title, "1: as far as a painting of another place", values)


def exhibit(epochs: int) -> Image:
    """The photograph at three contrasts, and what the first seed's nets make of it."""
    contrasts = (1.0, *CONTRASTS)
    shown = torch.stack([lowered(_places()[0], share) for share in contrasts])
    rows = {f"photograph at contrast {', '.join(f'{c:g}' for c in contrasts)}": shown}
    for case in NORMS:
        net = trained(case, SIZES[-1], 0, epochs)
        with torch.no_grad():
            rows[f"{case}, batch size {SIZES[-1]}"] = net(shown)
    return sheet(rows, SHOWN)


EXPERIMENT = Experiment(
    number="E3",
    claim="With InstanceNorm a painting in a style does not depend on the content's contrast, with BatchNorm it does",
    claim_ja="スタイル変換では、InstanceNorm なら結果がコンテンツ画像のコントラストに依存せず、BatchNorm では依存する",
    said_in=("000", "002"),
    protocol="A small feed-forward net is trained to paint crops of two photographs in bent stripes of three colours, "
    "by the Gram matrices of random convolutions, with each normalizer at two batch sizes; then it paints a place at "
    f"full contrast and at {CONTRASTS[0]:g} and {CONTRASTS[1]:g} of it, in evaluation. `normwise stylize contrast` "
    "does the same with pictures of yours and trained features.",
    rule=f"Holds if at a quarter of the contrast the painting moves by at most {INDEPENDENT:g} of the distance between "
    f"paintings of different places with InstanceNorm, and by at least {DEPENDENT:g} with BatchNorm, at both batch "
    "sizes; holds when the batch size is one of them; undecided if it is only smaller.",
    cases=tuple(NORMS),
    measure=measure,
    metric="distance",
    direction="min",
    judge=judge,
    picture=picture,
    exhibit=exhibit,
    sizes=SIZES,
    seeds=5,
    epochs=12,
    quick_seeds=2,
    quick_epochs=6,
)
