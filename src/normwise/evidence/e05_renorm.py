"""E5: is inference close to training under Batch Renormalization?"""

from __future__ import annotations

import torch

from ..comparison import TrainingRun
from .charts import lines
from .classifying import accuracy, fit, hits, in_training, perceptron
from .digits import digits, flat
from .e01_small_batches import DEPTH, WIDTH, rate_at
from .experiment import DOES_NOT_HOLD, HOLDS, HOLDS_WHEN, Experiment, Results, Verdict

NORMS = {"BatchNorm": "batch", "BatchRenorm": "renorm"}
BATCH, RENORM = "BatchNorm", "BatchRenorm"
SIZES = (4, 8, 32)
SMALLER = 0.5


def measure(run: TrainingRun) -> dict[str, float]:
    """The distance of the probabilities in evaluation from those in training mode (half the sum of the absolute
    differences, averaged over held-out digits); and the accuracy of both."""
    data = digits()
    x, x_test, size = flat(data.x_train), flat(data.x_test), run.batch_size
    net = perceptron(NORMS[run.name], WIDTH, WIDTH, DEPTH, 10)
    fit(net, x, data.y_train, size=size, epochs=run.epochs, rate=rate_at(size), seed=run.seed)
    net.eval()
    training = in_training(net, x_test, size)
    with torch.no_grad():
        moved = (training.softmax(1) - net(x_test).softmax(1)).abs().sum(1) / 2
    return {
        "gap": float(moved[~moved.isnan()].mean()),
        "accuracy": accuracy(net, x_test, data.y_test),
        "in training mode": hits(training, data.y_test),
    }


def judge(results: Results) -> Verdict:
    sizes = results.sizes()
    clear = [size for size in sizes if results.interval(RENORM, BATCH, size)[1] < 0]
    halved = [size for size in clear if results.mean(RENORM, size) <= SMALLER * results.mean(BATCH, size)]
    said = "; ".join(
        f"{size}: {results.mean(BATCH, size):.2f} and {results.mean(RENORM, size):.2f}, accuracy "
        f"{100 * results.mean(BATCH, size, 'accuracy'):.1f} and {100 * results.mean(RENORM, size, 'accuracy'):.1f} %"
        for size in sizes
    )
    sentence = f"Probability that moves between training mode and evaluation, BatchNorm's and BatchRenorm's, at {said}."
    if halved == sizes:
        return Verdict(HOLDS, sentence)
    if len(halved) > 1:
        return Verdict(HOLDS_WHEN, f"the batch size is {', '.join(map(str, halved))}. {sentence}")
    return Verdict(DOES_NOT_HOLD, sentence)


def picture(results: Results) -> str:
    series = {norm: results.over_sizes(norm) for norm in NORMS}
    title = "How far are the answers in use from those in training?"
    return lines(title, "batch size", "probability that moves", series)


EXPERIMENT = Experiment(
    number="E5",
    claim="With Batch Renormalization inference is close to training at small batches, too",
    claim_ja="Batch Renormalization は、バッチサイズが小さいときでも学習時と推論時の誤差を小さくする",
    said_in=("001",),
    protocol="The net of E1 is trained with BatchNorm and with Batch Renormalization, whose limits widen in the course "
    "of the run; then held-out digits go through it in mini-batches of the same size with the normalizers in training "
    "mode, and in evaluation. Accuracy is told beside: where batches are large it does not help.",
    rule=f"Holds if at every batch size the gap is at most {SMALLER:g} times BatchNorm's and smaller at 95 % "
    "confidence (Student's t, seed by seed); holds when the batch size is one of those where that is so, if there are "
    "at least two of them.",
    cases=tuple(NORMS),
    measure=measure,
    metric="gap",
    direction="min",
    judge=judge,
    picture=picture,
    sizes=SIZES,
    epochs=8,
    quick_epochs=3,
)
