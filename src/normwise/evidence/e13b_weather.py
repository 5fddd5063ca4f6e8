"""E13b: one group, some, as many as channels, where contrast and brightness are a part of the answer."""

from __future__ import annotations

from ..comparison import TrainingRun
from ..nets import resnet
from .classifying import accuracy, fit, kept_back
from .e13_groups import CASES, GROUPS, INSTANCE, LAST, RATE, WIDTH, picture, verdict
from .experiment import Experiment, Results, Verdict
from .photographs import scene_and_weather

SIZE, CLASSES = 32, 8
BETWEEN = tuple(str(groups) for groups in GROUPS[1:])
CHOOSING = "accuracy on the part that chooses"


def measure(run: TrainingRun) -> dict[str, float]:
    """Held-out accuracy, that on the part that chooses, and the mean loss of the last steps of the training."""
    task = scene_and_weather()
    learning, choosing = kept_back(task, run.seed)
    norm = "instance" if run.name == INSTANCE else f"group:{run.name}"
    net = resnet(8, norm, in_channels=3, width=WIDTH, num_classes=CLASSES)
    x, y = task.x[learning], task.y[learning]
    losses = fit(net, x, y, size=SIZE, epochs=run.epochs, rate=RATE, seed=run.seed)
    return {
        "accuracy": accuracy(net, task.x_test, task.y_test),
        CHOOSING: accuracy(net, task.x[choosing], task.y[choosing]),
        "training loss": sum(losses[-LAST:]) / LAST,
    }


def judge(results: Results) -> Verdict:
    chosen = max(BETWEEN, key=lambda case: results.mean(case, name=CHOOSING))
    found = verdict(results, chosen)
    return found._replace(sentence=f"{chosen} groups are chosen. {found.sentence}")


EXPERIMENT = Experiment(
    number="E13b",
    claim="GroupNorm generalizes better than InstanceNorm and LayerNorm and can express more than InstanceNorm: "
    "E13's claim where contrast is a part of the answer",
    claim_ja="GroupNorm はグループ単位で正規化するので InstanceNorm より表現力が高く、汎化性もよい"
    "(E13 の主張を、コントラストも答えに含む課題で検証)",
    said_in=("002",),
    protocol="E13's digits are learnt almost perfectly whatever the groups. Here the ResNet-8 tells pieces of two "
    f"photographs in four kinds of weather ({CLASSES} classes, 16×16 pixels; a trial of two seeds gave 79 to 86 %), in "
    f"mini-batches of {SIZE}. A quarter of the training samples is kept back and chooses the number of groups between "
    "the two ends, by the mean over the seeds.",
    rule="Holds if the chosen number of groups gives a better held-out accuracy than both ends and a smaller training "
    "loss than InstanceNorm, each at 95 % confidence (Student's t, seed by seed); holds when it is compared with one "
    "of them, if that is so of the accuracy there; undecided if it is ahead on average only.",
    cases=CASES,
    measure=measure,
    judge=judge,
    picture=picture,
    epochs=10,
    quick_epochs=3,
)
