"""E12b: normalizers inside a recurrence, sequences of varying length."""

from __future__ import annotations

from ..comparison import TrainingRun
from .charts import bars
from .digits import digits
from .experiment import DOES_NOT_HOLD, HOLDS, HOLDS_WHEN, UNDECIDED, Experiment, Results, Verdict
from .sequences import COLUMNS, GROUP, LAYER, OF_A_STEP, PER_STEP, SHARED, NormalizedRecurrence, learn, reads

CASES = (LAYER, GROUP, PER_STEP, SHARED, OF_A_STEP)
BATCHES = (PER_STEP, SHARED)
TRAINED, LONGER = (1, 3), (4, 6)
SIZE, RATE, STEPS_OF_EPOCH, TESTED = 16, 3e-3, 40, 400
CHANCE = 0.2


def measure(run: TrainingRun) -> dict[str, float]:
    """Accuracy on sequences of unseen digits as long as in training, and on longer ones."""
    data = digits()
    net = NormalizedRecurrence(run.name, 10, TRAINED[1] * COLUMNS)
    learn(net, data.x_train, data.y_train, TRAINED, size=SIZE, rate=RATE, steps=run.epochs * STEPS_OF_EPOCH)
    return {
        name: reads(net, data.x_test, data.y_test, lengths, TESTED)
        for name, lengths in (("accuracy", TRAINED), ("longer", LONGER))
    }


def judge(results: Results) -> Verdict:
    names = ("accuracy", "longer")
    behind = {case: [name for name in names if results.interval(LAYER, case, name=name)[0] > 0] for case in BATCHES}
    scores = ", ".join(
        f"{case} {100 * results.mean(case):.0f} and {100 * results.mean(case, name='longer'):.0f}" for case in CASES
    )
    nothing = results.mean(OF_A_STEP)
    sentence = f"Accuracy on sequences as long as in training and on longer ones, %: {scores}."
    if nothing > CHANCE or not any(
        results.mean(LAYER, name=n) > results.mean(c, name=n) for c in BATCHES for n in names
    ):
        return Verdict(DOES_NOT_HOLD, sentence)
    if all("longer" in found for found in behind.values()):
        return Verdict(HOLDS, sentence)
    weak = [case for case in BATCHES if behind[case]]
    if weak:
        return Verdict(HOLDS_WHEN, f"it is compared with {weak[0]}. {sentence}")
    return Verdict(UNDECIDED, sentence)


def picture(results: Results) -> str:
    lengths = {"as long as in training": "accuracy", "longer": "longer"}
    values = {
        f"{case}: {length}": results.shown(case, name=name, scale=100)
        for length, name in lengths.items()
        for case in CASES
    }
    axis = "accuracy, %"
    return bars("Normalized inside the recurrence: who still reads longer sequences?", axis, values, group=": ")


EXPERIMENT = Experiment(
    number="E12b",
    claim="LayerNorm suits sequences of varying length and BatchNorm does not: E12's claim with the normalizer inside "
    "the recurrence",
    claim_ja="系列長が異なるデータに Batch Normalization は適さず Layer Normalization が適する"
    "(E12 の主張を再帰の内側の正規化で検証)",
    said_in=("001", "002"),
    protocol="As the RNN of E12, with one layer and the normalizer where Ba, Kiros and Hinton 2016 have it: inside the "
    "recurrence, at one step after another. There BatchNorm has no positions to pool over: the fewer sequences go on, "
    "the smaller is its mini-batch, and it needs statistics of each step, which steps beyond the longest sequence of "
    "the training do not have; or one memory for all steps, which differ. InstanceNorm has one value per channel, of "
    "which nothing is left.",
    rule="Holds if on sequences longer than in training LayerNorm is ahead of both kinds of BatchNorm at 95 % "
    "confidence (Student's t, seed by seed) and InstanceNorm of a step is at chance; holds when BatchNorm is of one "
    "kind, if LayerNorm is ahead of that one at either length; undecided if it is ahead on average only.",
    cases=CASES,
    measure=measure,
    judge=judge,
    picture=picture,
    epochs=6,
    quick_epochs=3,
)
