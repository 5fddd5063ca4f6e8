"""E1: accuracy against batch size."""

from __future__ import annotations

from ..comparison import TrainingRun
from .charts import lines
from .classifying import accuracy, fit, hits, in_training, perceptron
from .digits import digits, flat
from .experiment import DOES_NOT_HOLD, HOLDS, UNDECIDED, Experiment, Results, Verdict

NORMS = {"BatchNorm": "batch", "GroupNorm": "group:8", "LayerNorm": "layer", "none": "none"}
BATCH, GROUP = "BatchNorm", "GroupNorm"
SIZES = (2, 4, 8, 16, 64)
DEPTH, WIDTH, RATE_AT_32 = 4, 64, 0.1
LOST, KEPT = 0.1, 0.03


def rate_at(size: int) -> float:
    """The learning rate grows with the batch size."""
    return RATE_AT_32 * size / 32


def measure(run: TrainingRun) -> dict[str, float]:
    """Accuracy on held-out digits in evaluation, and with the normalizers in training mode at the same batch size."""
    data = digits()
    x, x_test, size = flat(data.x_train), flat(data.x_test), run.batch_size
    net = perceptron(NORMS[run.name], WIDTH, WIDTH, DEPTH, 10)
    fit(net, x, data.y_train, size=size, epochs=run.epochs, rate=rate_at(size), seed=run.seed)
    net.eval()
    outputs = in_training(net, x_test, size)
    return {"accuracy": accuracy(net, x_test, data.y_test), "in training mode": hits(outputs, data.y_test)}


def judge(results: Results) -> Verdict:
    small, large = min(results.sizes()), max(results.sizes())
    low, _ = results.interval(GROUP, BATCH, small)
    lost = {norm: results.mean(norm, large) - results.mean(norm, small) for norm in (BATCH, GROUP)}
    said = ", ".join(
        f"at {size} {100 * results.mean(BATCH, size):.1f} and {100 * results.mean(GROUP, size):.1f}"
        for size in results.sizes()
    )
    sentence = (
        f"Accuracy of BatchNorm and GroupNorm by batch size, %: {said}. At {small} BatchNorm is behind by at least "
        f"{100 * low:.0f} points (95 %)."
    )
    if lost[BATCH] < LOST or results.mean(GROUP, small) <= results.mean(BATCH, small):
        return Verdict(DOES_NOT_HOLD, sentence)
    return Verdict(HOLDS if low > 0 and lost[GROUP] <= KEPT else UNDECIDED, sentence)


def picture(results: Results) -> str:
    series = {norm: results.over_sizes(norm, scale=100) for norm in NORMS}
    title = "Smaller mini-batches: BatchNorm falls, what looks at one sample does not"
    return lines(title, "batch size", "held-out accuracy, %", series)


EXPERIMENT = Experiment(
    number="E1",
    claim="BatchNorm gets inaccurate as the batch shrinks, GroupNorm does not",
    claim_ja="バッチサイズが小さいと BatchNorm の精度は落ちるが、GroupNorm は小バッチでも安定する",
    said_in=("000", "001", "002"),
    protocol=f"A fully connected net of {DEPTH} hidden layers learns the digits for the same number of passes at each "
    "batch size, with a learning rate in proportion to it. There a mini-batch of 2 turns every feature into +1 and -1, "
    "whatever the digits are; a convolution has positions besides samples, and with a ResNet-8 on the same digits "
    "BatchNorm is ahead even at 2.",
    rule=f"Holds if from the largest to the smallest batch size BatchNorm loses at least {100 * LOST:.0f} points and "
    f"GroupNorm at most {100 * KEPT:.0f}, and at the smallest GroupNorm is ahead at 95 % confidence (Student's t, seed "
    "by seed); undecided if only BatchNorm's loss is seen.",
    cases=tuple(NORMS),
    measure=measure,
    judge=judge,
    picture=picture,
    sizes=SIZES,
    epochs=8,
    quick_epochs=3,
)
