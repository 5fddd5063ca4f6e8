"""E6: does Batch-Instance Normalization learn how much style matters?"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from ..comparison import TrainingRun
from ..layers import make_norm
from ..layers.batch_instance_norm import gates
from .charts import bars
from .classifying import Task, accuracy, fit
from .digits import digits
from .experiment import DOES_NOT_HOLD, HOLDS, UNDECIDED, Experiment, Results, Verdict
from .photographs import weather

NORMS = {"Batch-Instance Norm": "batch-instance", "BatchNorm": "batch", "InstanceNorm": "instance"}
MIXED = "Batch-Instance Norm"
# The labels of the same pictures: their content, or their style.
DIGIT, CONTRAST, SCENE, WEATHER = "which digit", "which contrast", "which scene", "which weather"
PAIRS = ((DIGIT, CONTRAST), (SCENE, WEATHER))
QUESTIONS = (DIGIT, CONTRAST, SCENE, WEATHER)
CONTRASTS = (0.15, 0.4, 1.0)
CHANNELS, SIZE, RATE, GATE_RATE = 16, 16, 0.05, 10.0


def case_of(norm: str, question: str) -> str:
    return f"{norm}: {question}"


@lru_cache(maxsize=len(QUESTIONS))
def task_of(question: str) -> Task:
    if question in (SCENE, WEATHER):
        return weather(by_weather=question == WEATHER)
    data, random = digits(), torch.Generator().manual_seed(0)
    parts: list[Tensor] = []
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        level = torch.randint(len(CONTRASTS), (len(x),), generator=random)
        faint = x * torch.tensor(CONTRASTS)[level].view(-1, 1, 1, 1)
        parts += [faint, level if question == CONTRAST else y]
    return Task(*parts)


def measure(run: TrainingRun) -> dict[str, float]:
    """Held-out accuracy, and the mean gate of all layers and of the first: 1 keeps the style, 0 removes it."""
    norm, _, question = run.name.partition(": ")
    task = task_of(question)
    net = _net(NORMS[norm], task.x.shape[1], task.classes)
    own = gates(net)
    others = [p for p in net.parameters() if all(p is not gate for gate in own)]
    groups = [{"params": others}, *([{"params": own, "lr": GATE_RATE * RATE}] if own else [])]
    optimizer = torch.optim.SGD(groups, lr=RATE, momentum=0.9)
    fit(net, task.x, task.y, size=SIZE, epochs=run.epochs, rate=RATE, seed=run.seed, optimizer=optimizer)
    found = {"accuracy": accuracy(net.eval(), task.x_test, task.y_test)}
    if own:
        shown = [gate.detach().clamp(0, 1) for gate in own]
        found |= {"gate": float(torch.cat(shown).mean()), "first gate": float(shown[0].mean())}
    return found


def _net(norm: str, channels: int, classes: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for i, stride in enumerate((1, 2, 2)):
        conv = nn.Conv2d(CHANNELS if i else channels, CHANNELS, 3, stride, padding=1)
        parts += [conv, make_norm(norm, CHANNELS), nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, classes))


def judge(results: Results) -> Verdict:
    opened, said = [], []
    for content, style in PAIRS:
        asked = {question: case_of(MIXED, question) for question in (content, style)}
        opened.append(results.interval(asked[style], asked[content], name="first gate")[0])
        gate = {question: results.mean(case, name="first gate") for question, case in asked.items()}
        scores = ", ".join(
            f"{norm} " + " and ".join(f"{100 * results.mean(case_of(norm, question)):.1f}" for question in asked)
            for norm in NORMS
        )
        said.append(
            f"Asked {content} the mean gate of the first layer is {gate[content]:.2f}, asked {style} of the same "
            f"pictures {gate[style]:.2f} (accuracy, %: {scores})"
        )
    sentence = f"{'; '.join(said)}."
    best = all(
        results.mean(case_of(MIXED, question)) >= max(results.mean(case_of(norm, question)) for norm in NORMS) - 0.03
        for question in QUESTIONS
    )
    if min(opened) > 0 and best:
        return Verdict(HOLDS, sentence)
    return Verdict(UNDECIDED if min(opened) > 0 or max(opened) > 0 else DOES_NOT_HOLD, sentence)


def picture(results: Results) -> str:
    named = {f"asked {question}": case_of(MIXED, question) for question in QUESTIONS}
    values = {name: results.shown(case, name="first gate") for name, case in named.items()}
    return bars(
        "The same pictures, two questions: how much style does the layer let through?",
        "gate of the first layer, mean",
        values,
    )


EXPERIMENT = Experiment(
    number="E6",
    claim="Batch-Instance Normalization learns how much style matters for the task",
    claim_ja="Batch-Instance Normalization は、スタイル情報をどれだけ重視すべきかをタスクに応じて学習する",
    said_in=("001",),
    protocol="Digits of three contrasts, and pieces of two photographs by day, in haze, at night and in glare. A net "
    "of three convolutions is asked for the content (which digit, which scene) or for the style (which contrast, which "
    "weather) of the same pictures. A gate of 1 is BatchNorm, which keeps style, 0 is InstanceNorm, which takes it "
    "out; all gates start at 1.",
    rule="Holds if on both kinds of pictures the mean gate of the first layer is larger when asked for the style than "
    "for the content at 95 % confidence (Student's t, seed by seed), and in all four tasks the layer is at most 3 "
    "points behind BatchNorm and InstanceNorm; undecided if only one of these is so.",
    cases=tuple(case_of(norm, question) for norm in NORMS for question in QUESTIONS),
    measure=measure,
    judge=judge,
    picture=picture,
    epochs=12,
    quick_epochs=5,
)
