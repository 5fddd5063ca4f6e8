"""E1b: mini-batches that are not a fair sample of the data."""

from __future__ import annotations

from functools import lru_cache

from ..comparison import TrainingRun
from ..comparison.data.embedded import DOMAIN, MIXED
from ..comparison.data.in_memory import Data
from ..comparison.data.sources import load_data
from ..nets import resnet
from .charts import bars
from .classifying import accuracy, fit, hits, in_training
from .experiment import DOES_NOT_HOLD, HOLDS, UNDECIDED, Experiment, Results, Verdict

SIZE, RATE = 16, 0.1
FAIR = "BatchNorm, fair mini-batches"
BATCH, BANK = "BatchNorm", "BatchNorm, a bank per domain"
NORMS = {
    FAIR: "batch",
    BATCH: "batch",
    BANK: "batch",
    "BatchRenorm": "renorm",
    "GroupNorm": "group",
    "InstanceNorm": "instance",
}
LOST, KEPT = 0.2, 0.05


@lru_cache(maxsize=1)
def mixed() -> Data:
    """Digits, every second one a faint negative."""
    data = load_data(MIXED, 8, None, False, DOMAIN)
    assert isinstance(data, Data)
    return data


def measure(run: TrainingRun) -> dict[str, float]:
    """Accuracy on the held-out digits of both domains, in evaluation and with the normalizers in training mode."""
    data = mixed()
    assert data.groups is not None
    net = resnet(8, NORMS[run.name], in_channels=1)
    banked, groups = run.name == BANK, None if run.name == FAIR else data.groups.train
    fit(
        net,
        data.x_train,
        data.y_train,
        size=SIZE,
        epochs=run.epochs,
        rate=RATE,
        seed=run.seed,
        groups=groups,
        banked=banked,
    )
    net.eval()
    found = {"accuracy": accuracy(net, data.x_test, data.y_test, data.groups.test, banked)}
    if not banked:
        outputs = in_training(net, data.x_test, SIZE, None if run.name == FAIR else data.groups.test)
        found["accuracy in training mode"] = hits(outputs, data.y_test)
    for number, name in enumerate(data.groups.names):
        members = data.groups.test == number
        of_it = (data.x_test[members], data.y_test[members], data.groups.test[members])
        found[name] = accuracy(net, *of_it, banked)
    return found


def judge(results: Results) -> Verdict:
    mode = "accuracy in training mode"
    low, _ = results.interval(FAIR, BATCH)
    kept = results.mean(FAIR) - results.mean(BANK)
    learnt = results.mean(BATCH, name=mode)
    said = ", ".join(f"{name} {100 * results.mean(name):.1f}" for name in NORMS)
    sentence = (
        f"Accuracy in evaluation, %: {said}. BatchNorm's weights are good: in training mode they reach "
        f"{100 * learnt:.1f}. At 95 % confidence unfair mini-batches cost it at least {100 * low:.0f} points."
    )
    if low >= LOST and abs(kept) <= KEPT and learnt >= results.mean(BATCH) + LOST:
        return Verdict(HOLDS, sentence)
    broken = results.mean(FAIR) - results.mean(BATCH) >= LOST
    return Verdict(UNDECIDED if broken else DOES_NOT_HOLD, sentence)


def picture(results: Results) -> str:
    values = {name: results.shown(name, scale=100) for name in NORMS}
    title = "Each mini-batch of one kind of picture only (but the first): accuracy afterwards"
    return bars(title, "held-out accuracy, %", values)


EXPERIMENT = Experiment(
    number="E1b",
    claim="BatchNorm breaks where mini-batches are no fair sample of the whole, since their statistics are not global",
    claim_ja="理想は全体の平均・分散での正規化であり、ミニバッチが全体の公平な標本でないと BatchNorm は破綻する",
    said_in=("001",),
    protocol=f"A ResNet-8 learns the digits, half of them faint negatives, in mini-batches of {SIZE}. In all cases but "
    "the first each mini-batch is of one of the two kinds. Accuracy is measured on held-out digits of both kinds in "
    "evaluation, and with the normalizers in training mode; the bank remembers statistics of each kind by itself.",
    rule=f"Holds if unfair mini-batches cost BatchNorm at least {100 * LOST:.0f} points at 95 % confidence (Student's "
    f"t, seed by seed), its weights are as much better in training mode, and banks bring it within {100 * KEPT:.0f} "
    "points of fair mini-batches; undecided if it loses as much on average only.",
    cases=tuple(NORMS),
    measure=measure,
    judge=judge,
    picture=picture,
    epochs=14,
    quick_epochs=6,
)
