"""E9b: E9 in deeper nets, whose last maps have a single position, each contestant at its own learning rate."""

from __future__ import annotations

from ..comparison import TrainingRun
from .classifying import Task, at_best_rate
from .digits import digits
from .e09_normalizer_free import CASES, RULE, judge, net_of, optimizer_of, picture
from .experiment import Experiment

DEPTH, WIDTH = 26, 4
# Passes over the data for each "epoch" of the experiment: the larger batch has fewer steps in a pass.
PASSES = {4: 1, 32: 3}
SIZES = tuple(PASSES)
RATES = {4: (0.02, 0.05), 32: (0.1, 0.3)}


def measure(run: TrainingRun) -> dict[str, float]:
    """Accuracy on held-out digits at the best of `RATES`."""
    data = digits()
    found, rate = at_best_rate(
        lambda: net_of(run.name, DEPTH, WIDTH),
        Task(data.x_train, data.y_train, data.x_test, data.y_test),
        RATES[run.batch_size],
        size=run.batch_size,
        epochs=run.epochs * PASSES[run.batch_size],
        seed=run.seed,
        optimizer=optimizer_of,
    )
    return {"accuracy": found, "rate": rate}


EXPERIMENT = Experiment(
    number="E9b",
    claim="Regularized normalizer-free ResNets are at least as accurate as BatchNorm's, and far ahead at tiny batches: "
    "E9's claim in deeper nets",
    claim_ja="正則化した NF-ResNet はバッチ正規化ありの ResNet と同等以上で、バッチが小さいと大きく上回る"
    "(E9 の主張をより深いネットで検証)",
    said_in=("003",),
    protocol=f"As E9 with {DEPTH} layers in four stages (bottleneck blocks), the last of which has maps of a single "
    f"position: there a mini-batch of {SIZES[0]} gives BatchNorm {SIZES[0]} values for each channel, as nowhere "
    f"in E9. {PASSES[SIZES[1]]} times as many passes at batch size {SIZES[1]}; each run takes its own best of two "
    "learning rates, chosen on a quarter of the training samples.",
    rule=RULE,
    cases=CASES,
    measure=measure,
    judge=judge,
    picture=picture,
    sizes=SIZES,
    epochs=2,
)
