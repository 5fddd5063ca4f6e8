"""E12: normalizers of sequences of varying length."""

from __future__ import annotations

from torch import nn

from ..comparison import TrainingRun
from .charts import bars
from .digits import digits
from .experiment import DOES_NOT_HOLD, HOLDS, HOLDS_WHEN, UNDECIDED, Experiment, Results, Verdict
from .sequences import BATCH, BATCH_LENGTHS, GROUP, INSTANCE, LAYER, OF_A_STEP, Recurrent, Transformer, learn, reads

NETS: dict[str, type[nn.Module]] = {"RNN": Recurrent, "Transformer": Transformer}
NORMS = (LAYER, BATCH, BATCH_LENGTHS, GROUP, INSTANCE)
CASES = (*(f"{norm}: RNN" for norm in (*NORMS, OF_A_STEP)), *(f"{norm}: Transformer" for norm in NORMS))
SIZE, RATE, STEPS_OF_EPOCH, TESTED = 16, 3e-3, 40, 400
TRAINED, LONGER = (1, 3), (4, 6)
CHANCE = 0.2


def measure(run: TrainingRun) -> dict[str, float]:
    """Accuracy on sequences of unseen digits as long as in training, and on longer ones."""
    norm, _, kind = run.name.partition(": ")
    data = digits()
    net = NETS[kind](norm, 10)
    learn(net, data.x_train, data.y_train, TRAINED, size=SIZE, rate=RATE, steps=run.epochs * STEPS_OF_EPOCH)
    return {
        name: reads(net, data.x_test, data.y_test, lengths, TESTED)
        for name, lengths in (("accuracy", TRAINED), ("longer", LONGER))
    }


def judge(results: Results) -> Verdict:
    parts = []
    ahead, on_average = [], []
    for net in NETS:
        layer, batch = f"{LAYER}: {net}", f"{BATCH}: {net}"
        if results.interval(layer, batch, name="longer")[0] > 0:
            ahead.append(net)
        if results.mean(layer, name="longer") > results.mean(batch, name="longer"):
            on_average.append(net)
        scores = ", ".join(
            f"{norm} {100 * results.mean(f'{norm}: {net}'):.0f} and "
            f"{100 * results.mean(f'{norm}: {net}', name='longer'):.0f}"
            for norm in NORMS
        )
        parts.append(f"{net}: {scores}")
    nothing = results.mean(f"{OF_A_STEP}: RNN")
    sentence = (
        f"Accuracy on sequences as long as in training and on longer ones, %: {'; '.join(parts)}. InstanceNorm of a "
        f"single step of the RNN, where each channel has one value: {100 * nothing:.0f}, which is chance."
    )
    if nothing > CHANCE or not on_average:
        return Verdict(DOES_NOT_HOLD, sentence)
    if len(ahead) == len(NETS):
        return Verdict(HOLDS, sentence)
    if ahead:
        return Verdict(HOLDS_WHEN, f"the net is the {ahead[0]}. {sentence}")
    return Verdict(UNDECIDED, sentence)


def picture(results: Results) -> str:
    values = {case: results.shown(case, name="longer", scale=100) for case in CASES}
    return bars("Sequences longer than any in training: who still reads them?", "accuracy, %", values, group=": ")


EXPERIMENT = Experiment(
    number="E12",
    claim="LayerNorm suits sequences of varying length and BatchNorm does not; InstanceNorm has no value in RNNs",
    claim_ja="系列長が異なるデータに Batch Normalization は適さず Layer Normalization が適する。"
    "InstanceNorm は RNN では価値を発揮できない",
    said_in=("001", "002"),
    protocol=f"Sequences of {TRAINED[0]} to {TRAINED[1]} digits, read column by column and padded to the longest, are "
    "classified by their last digit, by an RNN (normalized summed inputs) and by a Transformer (pre-norm), and then "
    f"sequences of {LONGER[0]} to {LONGER[1]} digits. BatchNorm counts the padding unless it is told the lengths; "
    "GroupNorm and InstanceNorm are told them. In a single step of an RNN InstanceNorm has one value per channel.",
    rule="Holds if on the longer sequences LayerNorm is ahead of BatchNorm without lengths at 95 % confidence "
    "(Student's t, seed by seed) in both nets and InstanceNorm of a step is at chance; holds when the net is one of "
    "them; undecided if LayerNorm is ahead on average only.",
    cases=CASES,
    measure=measure,
    judge=judge,
    picture=picture,
    epochs=10,
    quick_epochs=3,
)
