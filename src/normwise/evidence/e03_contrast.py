"""E3: does a painting depend on the contrast of the photograph?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..comparison import TrainingRun
from ..style.contrast import CONTRASTS, lowered
from .charts import bars
from .experiment import DOES_NOT_HOLD, HOLDS, HOLDS_WHEN, UNDECIDED, Experiment, Results, Verdict
from .painting import BATCH, INSTANCE, NORMS, SHOWN, places, trained
from .sheets import sheet

if TYPE_CHECKING:
    from PIL.Image import Image

SIZES = (1, 4)
INDEPENDENT, DEPENDENT = 0.1, 0.3


def measure(run: TrainingRun) -> dict[str, float]:
    """The distance of the painting at half and a quarter of the photograph's contrast from that at full contrast; 1 is
    the distance between paintings of different places."""
    net = trained(run.name, run.batch_size, run.seed, run.epochs)
    content, *others = places()
    with torch.no_grad():
        full = net(content[None])
        unit = torch.stack([_distance(net(other[None]), full) for other in others]).mean()
        found = {
            f"contrast {share:g}": float(_distance(net(lowered(content, share)[None]), full) / unit)
            for share in CONTRASTS
        }
    return found | {"distance": found[f"contrast {CONTRASTS[-1]:g}"]}


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
    values = {f"{case}, batch size {size}": results.shown(case, size) for case in NORMS for size in results.sizes()}
    title = "The photograph at a quarter of its contrast: how far does the painting move?"
    return bars(title, "1: as far as a painting of another place", values)


def exhibit(epochs: int) -> Image:
    """The photograph at three contrasts, and its paintings by the nets of the first seed."""
    contrasts = (1.0, *CONTRASTS)
    shown = torch.stack([lowered(places()[0], share) for share in contrasts])
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
    epochs=12,
    quick_seeds=2,
    quick_epochs=6,
)
