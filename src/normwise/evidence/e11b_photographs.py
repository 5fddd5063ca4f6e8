"""E11b: nets of equally many operations on photographs: without normalizers, with BatchNorm, and an EfficientNet."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from torch import nn
from torch.nn import functional as F

from ..comparison import TrainingRun
from ..nets import count_macs, nf_resnet, resnet
from .charts import bars
from .classifying import Task, at_best_rate
from .e11_operations import small_efficientnet
from .experiment import DOES_NOT_HOLD, HOLDS, HOLDS_WHEN, UNDECIDED, Experiment, Results, Verdict
from .photographs import scene_and_weather

BN, NF, EFFICIENT = "BN-ResNet-26", "NF-ResNet-26", "EfficientNet"
CLASSES, SIZE, RATES = 8, 32, (0.03, 0.1)
EQUAL, CLOSE, LEARNT = 0.1, 0.01, 3.0

# Widths at which all have about the same number of operations.
FAMILIES: dict[str, Callable[[], nn.Module]] = {
    BN: lambda: resnet(26, preactivation=True, num_classes=CLASSES, width=11, stem="small"),
    NF: lambda: nf_resnet(26, CLASSES, width=11, stem="small", skip_gain=1.0),
    EFFICIENT: lambda: small_efficientnet(CLASSES, 3, 0.5),
}


@lru_cache(maxsize=1)
def task() -> Task:
    """Pieces of two photographs in four kinds of weather, at half their resolution: 8×8 pixels."""
    pieces = scene_and_weather()
    return pieces._replace(x=F.avg_pool2d(pieces.x, 2), x_test=F.avg_pool2d(pieces.x_test, 2))


def measure(run: TrainingRun) -> dict[str, float]:
    """Held-out accuracy at the best of `RATES`, and the counted operations of one picture."""
    make = FAMILIES[run.name]
    found, rate = at_best_rate(make, task(), RATES, size=SIZE, epochs=run.epochs, seed=run.seed)
    return {"accuracy": found, "rate": rate, "MMACs": count_macs(make(), (1, *task().x.shape[1:])) / 1e6}


def judge(results: Results) -> Verdict:
    scores = {case: results.mean(case) for case in FAMILIES}
    macs = {case: results.mean(case, name="MMACs") for case in FAMILIES}
    said = ", ".join(
        f"{case} {100 * scores[case]:.1f} ± {100 * results.spread(case):.1f} with {macs[case]:.2f} MMACs"
        for case in FAMILIES
    )
    low, high = results.interval(NF, BN)
    sentence = (
        f"Accuracy, %: {said}. The normalizer-free net is {100 * low:+.1f} to {100 * high:+.1f} points from the ResNet "
        "with BatchNorm (95 %)."
    )
    if max(macs.values()) > (1 + EQUAL) * min(macs.values()):
        return Verdict(UNDECIDED, f"The nets do not have equally many operations. {sentence}")
    late = [case for case, score in scores.items() if score < LEARNT / CLASSES]
    if late:
        return Verdict(UNDECIDED, f"{late[0]} has not learnt the task in this time. {sentence}")
    level = scores[NF] >= scores[EFFICIENT] - CLOSE
    if level and low > 0:
        return Verdict(HOLDS, sentence)
    if low > 0:
        return Verdict(HOLDS_WHEN, f"it is compared with a ResNet. {sentence}")
    if level and scores[NF] <= scores[BN]:
        return Verdict(HOLDS_WHEN, f"it is compared with the EfficientNet, not with a ResNet. {sentence}")
    return Verdict(UNDECIDED if scores[NF] > scores[BN] else DOES_NOT_HOLD, sentence)


def picture(results: Results) -> str:
    values = {
        f"{case}, {results.mean(case, name='MMACs'):.1f} MMACs": results.shown(case, scale=100) for case in FAMILIES
    }
    axis = "held-out accuracy, %"
    return bars("Equally many operations for a picture: who learns it best?", axis, values)


EXPERIMENT = Experiment(
    number="E11b",
    claim="At the same number of operations normalizer-free nets match EfficientNets, far ahead of common ResNets: "
    "E11's claim with nets of equally many operations",
    claim_ja="NF-Net は FLOPs の観点で EfficientNet と同等の性能であり、一般的な ResNet を大幅に上回る"
    "(E11 の主張を演算量をそろえたネットで検証)",
    said_in=("003",),
    protocol="NF-ResNet-26, ResNet-26 with BatchNorm and an EfficientNet, whose widths give all three about the same "
    "number of counted operations (an NF-RegNet has six times as many even at its smallest), learn to tell pieces of "
    "two photographs in four kinds of weather (8 classes, 8×8 pixels) in mini-batches of "
    f"{SIZE}, each at its own best of the learning rates {RATES[0]:g} and {RATES[1]:g} in each run, chosen on a "
    "quarter of the training samples.",
    rule=f"Holds if the operations agree to {100 * EQUAL:.0f} %, the normalizer-free net is at most "
    f"{100 * CLOSE:.0f} point behind the EfficientNet, and ahead of the ResNet at 95 % confidence (Student's t, seed "
    "by seed); holds when it is compared with the one for which that is so, if it is not ahead of the ResNet even on "
    "average or the EfficientNet is further ahead; undecided if it is ahead of the ResNet on average only, or a net is "
    f"not at {LEARNT:g} times chance (added when the reduced run had shown the EfficientNet at chance).",
    cases=tuple(FAMILIES),
    measure=measure,
    judge=judge,
    picture=picture,
    epochs=3,
    quick_seeds=2,
)
