"""The user's optimizer, schedule, augmentation, precision and workers in our own loop, and `lrs` with `train=`."""

from dataclasses import replace
from functools import partial

import pytest
import task_problems
import torch
from task_problems import Items, numbers, splits
from torch import nn
from torch.nn import functional as F

from normwise.comparison import InputError, RateTried, SweepStarted, compare, summarize
from normwise.comparison.contestants.models import Network
from normwise.comparison.data.batches import data_order
from normwise.comparison.data.in_memory import Data
from normwise.comparison.report.page import build_page
from normwise.comparison.settings import Run, make_settings
from normwise.comparison.training.choices import make_choices
from normwise.comparison.training.trainer import Trainer

SMALL = {"model": task_problems.net, "data": splits, "task": "regression"}
SMALL |= {"norms": ["batch", "none"], "batch_sizes": [8], "seeds": 1, "epochs": 2}
X, Y = numbers(40)
DATA = Data("sums", X, Y[:, None], X, Y[:, None], ("y",), task="regression")


def trainer(**given):
    settings = make_settings(
        **{"model": "net", "data": "sums", "norms": ["none"], "batch_sizes": [8], "seeds": 1, "epochs": 2},
        **{"learning_rate": 0.1, "weight_decay": 0.0, "image_size": 8, "device": "cpu"},
    )
    asked = {"optimizer": torch.optim.SGD, "schedule": "constant", "augment": None, "precision": "fp32"} | given
    choices = make_choices(*asked.values(), "cpu")
    settings = replace(settings, task="regression", metric="rmse", optimizer="SGD")
    torch.manual_seed(3)
    return Trainer(Network(nn.Linear(2, 1), ()), DATA, Run("none", 8, 0), settings, choices)


def reference(change=lambda x, step: x, rates=(0.1,) * 5):
    """Plain SGD on the standardized targets, by hand; the loss and the weights after an epoch."""
    torch.manual_seed(3)
    net, total = nn.Linear(2, 1), 0.0
    target = ((DATA.y_train.double() - DATA.y_train.double().mean()) / DATA.y_train.double().std(correction=0)).float()
    for step, index in enumerate(data_order(40, 0, 1).split(8)):
        loss = F.mse_loss(net(change(X[index], step)), target[index])
        gradients = torch.autograd.grad(loss, list(net.parameters()))
        size = torch.cat([g.flatten() for g in gradients]).norm()
        with torch.no_grad():
            for p, g in zip(net.parameters(), gradients, strict=True):
                p -= rates[step] * g * min(1.0, 1.0 / (float(size) + 1e-6))
        total += loss.item()
    return total / 5, net


def assert_same(made, expected):
    loss, net = expected
    assert made.epoch(1) == pytest.approx(loss, rel=1e-5)
    for ours, theirs in zip(made.model.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_users_optimizer_has_the_rate_as_it_is():
    assert_same(trainer(), reference())


def test_a_users_schedule_is_stepped_after_each_step():
    def schedule(optimizer, steps):
        assert steps == 10
        return torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)

    assert_same(trainer(schedule=schedule), reference(rates=(0.1, 0.1, 0.05, 0.05, 0.025)))


def test_a_users_augmentation_changes_each_batch_by_the_runs_own_random_numbers():
    assert_same(trainer(augment=lambda x, y: (2 * x, y)), reference(lambda x, step: 2 * x))
    losses = []
    for state_of_the_process in (1, 2):
        made = trainer(augment=task_problems.double)
        torch.manual_seed(state_of_the_process)
        losses.append(made.epoch(1))
    assert losses[0] == losses[1] != trainer().epoch(1)


def test_fp16_scales_the_loss_and_clips_what_is_unscaled(monkeypatch):
    """The scaler on the CPU, which `compare` keeps for CUDA: the same steps, as exactly as fp16 allows."""
    scaled = trainer()
    scaled.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    assert_same(scaled, reference())
    assert scaled.scaler.get_scale() == 2.0**10


def test_bf16_runs_under_autocast():
    seen = []

    def net(in_channels, outputs):
        made = nn.Sequential(nn.Linear(in_channels, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, outputs))
        made[0].register_forward_hook(lambda module, args, output: seen.append((module.training, output.dtype)))
        return made

    (row,) = compare(**(SMALL | {"model": net, "norms": ["batch"]}), precision="bf16")
    assert row["status"] == "finished"
    assert {(True, torch.bfloat16), (False, torch.bfloat16)} <= set(seen)
    (exact,) = compare(**(SMALL | {"model": net, "norms": ["batch"]}))
    assert row["test_rmse"] != exact["test_rmse"]
    assert row["test_rmse"] == pytest.approx(exact["test_rmse"], rel=0.05)
    assert row["key"] != exact["key"]


def test_data_sets_behind_workers_give_rows_of_their_own():
    data = tuple(Items(zip(*split, strict=True)) for split in splits())
    by_workers = compare(**(SMALL | {"data": data, "norms": ["batch"]}), workers=1)
    here = compare(**(SMALL | {"data": data, "norms": ["batch"]}), workers=0)
    assert by_workers[0]["test_rmse"] == here[0]["test_rmse"]
    held = compare(**(SMALL | {"data": data, "norms": ["batch"]}))
    assert held[0]["train_samples"] == here[0]["train_samples"] == 40
    assert held[0]["key"] != here[0]["key"]


def test_every_choice_is_in_the_protocol_and_in_the_key():
    keys, events = set(), []
    for given in (
        {},
        {"optimizer": "sgd", "learning_rate": 0.1},
        {"optimizer": partial(torch.optim.RMSprop, alpha=0.9), "learning_rate": 0.01},
        {"schedule": "constant"},
        {"augment": task_problems.double},
        {"metric": "mae"},
    ):
        rows = compare(**(SMALL | {"norms": ["none"], "epochs": 1}), **given, on_event=events.append)
        keys.add(rows[0]["key"])
    assert len(keys) == 6
    protocols = [" ".join(event.about["protocol"]) for event in events if isinstance(event, SweepStarted)]
    assert "AdamW" in protocols[0]
    assert "√(batch size / 32)" in protocols[0]
    assert "0.01 at every batch size" in protocols[2]
    assert "follows the schedule constant" in protocols[3]
    assert "double changes each training batch" in protocols[4]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"optimizer": "lion"}, "optimizer='lion' is unknown; write 'sgd' or 'adamw', or a function"),
        ({"optimizer": torch.optim.Adam}, "optimizer='Adam' needs a learning rate"),
        ({"optimizer": lambda groups: None, "learning_rate": 0.1}, r"called as optimizer\(parameter_groups, lr=rate\)"),
        (
            {"optimizer": lambda groups, lr: 3, "learning_rate": 0.1},
            "must return a torch.optim.Optimizer, it returns int",
        ),
        ({"schedule": "linear"}, "schedule='linear' is unknown; write 'cosine' or 'constant'"),
        ({"schedule": lambda optimizer: None}, r"called as schedule\(optimizer, total_steps\)"),
        ({"schedule": lambda optimizer, steps: 3}, "must return a scheduler"),
        ({"augment": 3}, "augment='int' is no function"),
        ({"augment": lambda x: x}, r"called as augment\(x, y\)"),
        ({"augment": "flip"}, "augment='flip' is unknown; write a function, package.module:function"),
        ({"precision": "fp8"}, "precision='fp8' is unknown; write fp32, bf16, fp16"),
        ({"precision": "fp16"}, "precision='fp16' is for CUDA, and the device is cpu; write bf16"),
        ({"image_size": 16}, "image_size=16 goes with a folder of images, and 'splits' is none"),
        ({"metric": "accuracy"}, "regression has rmse, mae, r2"),
        ({"model": "unet"}, r"unet takes images .*, the data have samples of shape \[2\] for regression"),
        (
            {"model": lambda: nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4))},
            r"must give the 1 numbers of each sample",
        ),
    ],
)
def test_what_cannot_be_is_said_before_the_first_run(given, said):
    with pytest.raises(InputError, match=said):
        compare(**(SMALL | given))


@pytest.mark.parametrize("task", ["regression", "segmentation", "labelling", "language"])
def test_report_and_verdict_of_each_task(task):
    """From rows to the page, with small data of each task."""
    x = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    tokens = (x[:, 0, 0] * 7).long()
    data = {
        "regression": (numbers(24), numbers(12, 1)),
        "segmentation": ((x, (x[:, 0] > 0.5).long()),) * 2,
        "labelling": ((tokens, tokens % 2),) * 2,
        "language": (tokens, tokens),
    }[task]
    norms = ["token-layer", "none"] if task == "language" else ["batch", "none"]
    events = []
    rows = compare(data=data, task=task, norms=norms, batch_sizes=[8], seeds=2, epochs=1, on_event=events.append)
    metric = rows[0]["metric"]
    assert {row["status"] for row in rows} == {"finished"}
    for row in rows:
        assert row["metrics"][metric] == row[f"test_{metric}"] == row["curve"][-1][f"test_{metric}"]
        assert row["train_eval_gap"] == row[f"test_{metric}_train_mode"] - row[f"test_{metric}"]
    summary = summarize(rows)
    assert summary.metric.name == metric
    about = next(event.about for event in events if isinstance(event, SweepStarted))
    page = build_page(rows, about)
    spoken = {"rmse": "RMSE", "dice": "Dice", "f1": "F1", "perplexity": "perplexity"}[metric]
    assert f"{spoken} of always answering the" in page.replace("\n", " ")
    assert "train-eval gap" in page


def chosen_run(run):
    """The best rate depends on the normalizer; a rate of 9 fails, and 8 is not finite."""
    if run.learning_rate == 9:
        raise ValueError("too much")
    best = {"batch": 0.1, "none": 0.2}[run.name]
    assert isinstance(run.choosing, bool)
    return {
        "error": float("nan") if run.learning_rate == 8 else abs(run.learning_rate - best),
        "choosing": run.choosing,
    }


def test_a_contestant_of_a_users_training_has_its_own_best_rate(tmp_path, monkeypatch):
    asked = {
        "train": chosen_run,
        "metric": "error",
        "direction": "min",
        "lrs": [0.1, 0.2, 8, 9],
        "norms": ["batch", "none"],
    }
    asked |= {"batch_sizes": [4], "seeds": 2, "out": tmp_path}
    events = []
    rows = compare(**asked, on_event=events.append)
    assert [(row["norm"], row["learning_rate"], row["value"]) for row in rows] == [
        ("batch", 0.1, 0),
        ("none", 0.2, 0),
    ] * 2
    assert [row["metrics"]["choosing"] for row in rows] == [None] * 4
    tries = [event.tried for event in events if isinstance(event, RateTried)]
    assert [(tried.rate, tried.value) for tried in tries[:4]] == [(0.1, 0), (0.2, 0.1), (8, None), (9, None)]
    about = next(event.about for event in events if isinstance(event, SweepStarted))
    assert about["chosen_rates"] == [["batch", 4, 0.1], ["none", 4, 0.2]]
    assert "Learning rate that was chosen" in build_page(rows, about)
    monkeypatch.setattr("normwise.comparison.experiments.own_training.OwnTraining._call", None)
    assert compare(**asked) == rows
