"""E13: one group, some, as many as channels."""

from __future__ import annotations

from ..comparison import TrainingRun
from ..nets import resnet
from .charts import lines, stacked
from .classifying import accuracy, fit
from .digits import digits
from .experiment import DOES_NOT_HOLD, HOLDS, HOLDS_WHEN, UNDECIDED, Experiment, Results, Verdict

WIDTH, SIZE, RATE = 16, 16, 0.1
GROUPS = (1, 2, 4, 8, 16)
LAYER, MIDDLE, INSTANCE = "1", "4", "of one channel"
CASES = (*(str(groups) for groups in GROUPS), INSTANCE)
LAST = 20


def measure(run: TrainingRun) -> dict[str, float]:
    """Held-out accuracy, and the mean loss of the last steps of the training."""
    data = digits()
    norm = "instance" if run.name == INSTANCE else f"group:{run.name}"
    net = resnet(8, norm, in_channels=1, width=WIDTH)
    losses = fit(net, data.x_train, data.y_train, size=SIZE, epochs=run.epochs, rate=RATE, seed=run.seed)
    return {"accuracy": accuracy(net.eval(), data.x_test, data.y_test), "training loss": sum(losses[-LAST:]) / LAST}


def judge(results: Results) -> Verdict:
    return verdict(results, MIDDLE)


def verdict(results: Results, middle: str) -> Verdict:
    """GroupNorm with so many groups against both ends."""
    others = (LAYER, INSTANCE)
    low = {other: results.interval(middle, other)[0] for other in others}
    loss = {case: results.mean(case, name="training loss") for case in CASES}
    more = results.interval(INSTANCE, middle, name="training loss")[0]
    scores = ", ".join(f"{case} {100 * results.mean(case):.1f}" for case in CASES)
    sentence = (
        f"Accuracy by number of groups, %: {scores}. Training loss with 1, {middle} and groups of one channel: "
        f"{loss[LAYER]:.3f}, {loss[middle]:.3f}, {loss[INSTANCE]:.3f}."
    )
    ahead = [other for other in others if low[other] > 0]
    if len(ahead) == 2 and more > 0:
        return Verdict(HOLDS, sentence)
    if ahead:
        name = "InstanceNorm" if ahead == [INSTANCE] else "LayerNorm" if ahead == [LAYER] else "both"
        return Verdict(HOLDS_WHEN, f"GroupNorm is compared with {name}. {sentence}")
    best = all(results.mean(middle) > results.mean(other) for other in others)
    return Verdict(UNDECIDED if best else DOES_NOT_HOLD, sentence)


def picture(results: Results) -> str:
    # InstanceNorm has a group for each channel, and in this net from 16 to 64 of them.
    place = {**{str(groups): groups for groups in GROUPS}, INSTANCE: 32}
    shown = (("accuracy", "held-out accuracy, %"), ("training loss", "training loss × 100"))
    found = {
        label: [(place[case], *results.shown(case, name=name, scale=100)) for case in CASES] for name, label in shown
    }
    titles = (
        "From LayerNorm (1 group) to InstanceNorm: how well does it generalize?",
        "How well does it fit what it has seen?",
    )
    axis = "number of groups (32: one per channel)"
    return stacked(
        *(lines(title, axis, label, {"GroupNorm": found[label]}) for title, label in zip(titles, found, strict=True))
    )


EXPERIMENT = Experiment(
    number="E13",
    claim="GroupNorm generalizes better than InstanceNorm and LayerNorm and can express more than InstanceNorm",
    claim_ja="GroupNorm はグループ単位で正規化するので InstanceNorm より表現力が高く、汎化性もよい",
    said_in=("002",),
    protocol=f"A ResNet-8 of 16, 32 and 64 channels learns the digits in mini-batches of {SIZE} with 1, 2, 4, 8 and "
    "16 groups, and with a group for each channel, which is InstanceNorm; one group is LayerNorm over channels and "
    "positions. The training loss stands for what the net can express.",
    rule=f"Holds if {MIDDLE} groups, chosen before, give a better held-out accuracy than both ends and a smaller "
    "training loss than InstanceNorm, each at 95 % confidence (Student's t, seed by seed); holds when it is compared "
    "with one of them, if that is so of the accuracy there; undecided if it is ahead on average only.",
    cases=CASES,
    measure=measure,
    judge=judge,
    picture=picture,
    epochs=10,
    quick_epochs=5,
)
