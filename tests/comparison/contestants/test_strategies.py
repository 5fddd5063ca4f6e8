"""Strategies of fine-tuning as contestants."""

import copy

import pytest
import torch
from torch import nn

from normwise.comparison import InputError, SweepStarted, TrainingRun, compare
from normwise.comparison.contestants.strategies import treat
from normwise.comparison.contestants.strategy_names import strategy_of, trains_by_the_batch
from normwise.comparison.contestants.zoo import open_model
from normwise.comparison.report.page import build_page
from normwise.comparison.settings import named_norms
from normwise.comparison.storage import read_sweep
from normwise.comparison.verdicts.cells import spoken, title
from normwise.layers import BatchNorm2d, GroupNorm

IMAGES = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(3))
SWEEP = {"data": "small_problems:blobs", "batch_sizes": (4,), "seeds": 1, "epochs": 2}
WAYS = ("batch:frozen", "batch:recalibrated", "swap:group", "anneal:group:2")


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)

    def forward(self, x):
        return x + self.norm(self.conv(x).relu())


def trained() -> nn.Module:
    """A small residual net whose statistics data have moved."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            Block(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 3),
        )
        for layer in (net[1], net[3].norm):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias)
        for _ in range(5):
            net(torch.randn(16, 1, 6, 6) + 1)
    return net.eval()


def built(norm, net=None):
    return open_model(net or trained(), IMAGES, 3).build(norm, 0)


def test_frozen_is_the_models_own_function_in_training_too():
    network, expected = built("batch:frozen"), trained()(IMAGES)
    assert type(network.module[1]) is BatchNorm2d
    torch.testing.assert_close(network.module.train()(IMAGES), expected)
    assert torch.equal(network.module[1].running_mean, trained()[1].running_mean)
    assert network.module[1].weight.requires_grad
    assert network.sites == ("1", "3.norm")


def test_annealed_begins_as_the_models_own_function_and_ends_as_the_normalizer():
    network, expected = built("anneal:group:2"), trained()(IMAGES)
    torch.testing.assert_close(network.module.train()(IMAGES), expected, rtol=1e-4, atol=1e-4)
    network.treatment.advance(1 / 3)
    assert network.module[1].t == 0.5
    network.treatment.end([])
    assert type(network.module[1]) is GroupNorm
    assert network.module[1].num_groups == 2


def test_swapped_starts_from_the_running_statistics():
    """γ' and β' of one group, by the law of total variance, against SURGERY's formula written out."""
    old, new = trained()[1], built("swap:group:1").module[1]
    mean, var = old.running_mean.double(), old.running_var.double()
    total = var.mean() + (mean - mean.mean()).square().mean()
    scale = old.weight.double() / (var + old.eps).sqrt()
    torch.testing.assert_close(new.weight.double(), scale * (total + old.eps).sqrt(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(new.bias.double(), old.bias + scale * (mean.mean() - mean), rtol=1e-5, atol=1e-6)


def test_recalibrated_ends_with_the_statistics_of_the_training_data():
    network = built("batch:recalibrated")
    network.treatment.end([IMAGES])
    first = network.module[0](IMAGES).detach()
    torch.testing.assert_close(network.module[1].running_mean, first.mean((0, 2, 3)))
    torch.testing.assert_close(network.module[1].running_var, first.var((0, 2, 3)))


def test_all_run_and_the_report_says_what_each_does(tmp_path):
    rows = compare(trained, norms=["batch", *WAYS, "nf"], out=tmp_path, **SWEEP)
    assert [(row["norm"], row["status"]) for row in rows] == [(norm, "finished") for norm in ("batch", *WAYS, "nf")]
    by_norm = {row["norm"]: row for row in rows}
    # What comes after training changes evaluation alone.
    assert by_norm["batch"]["curve"][0] == by_norm["batch:recalibrated"]["curve"][0]
    assert by_norm["batch"]["test_loss"] != by_norm["batch:recalibrated"]["test_loss"]
    page = build_page(*read_sweep(tmp_path))
    for words in ("Frozen BatchNorm", "normwise.freeze", "start=&#x27;data-free&#x27;", "normwise.normalizer_free"):
        assert words in page
    again = compare(trained, norms=["batch", *WAYS, "nf"], **SWEEP)
    assert [row["test_loss"] for row in again] == [row["test_loss"] for row in rows]


def test_a_batch_of_one_is_frozen_batchnorms():
    rows = compare(trained, norms=["batch", *WAYS], **(SWEEP | {"batch_sizes": (1,), "epochs": 1}))
    assert [row["norm"] for row in rows] == ["batch:frozen", "swap:group", "anneal:group:2"]
    assert [trains_by_the_batch(norm) for norm in (*WAYS, "swap:batch", "bank")] == [
        False,
        True,
        False,
        False,
        True,
        True,
    ]


def test_fresh_statistics_are_nothing_to_go_on_from():
    events = []
    fresh = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(128, 3))
    rows = compare(fresh, norms=["batch", *WAYS], on_event=events.append, **(SWEEP | {"epochs": 1}))
    assert [row["norm"] for row in rows] == ["batch", "batch:recalibrated"]
    about = next(event.about for event in events if isinstance(event, SweepStarted))
    assert len(about["left_out"]) == 3
    assert "frozen BatchNorm ('batch:frozen') is left out" in about["left_out"][0]
    assert "give trained weights (weights=, --weights)" in about["left_out"][0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("batch:molten", "'batch:molten' is unknown: after 'batch:' comes frozen or recalibrated"),
        ("batch:", "received ''"),
        ("swap:grop", "norms: 'swap:grop': Unknown normalizer 'grop': did you mean 'group'"),
        ("swap:", "Unknown normalizer ''"),
        ("anneal:token-rms", "anneal: takes a normalizer of maps"),
        ("swap:nf", "Unknown normalizer 'nf'"),
    ],
)
def test_names_that_mean_nothing(name, message):
    with pytest.raises(InputError, match=message):
        named_norms(["batch", name])


def test_how_they_are_called():
    assert title("swap:group:8") == "Swapped-in GroupNorm (8 groups)"
    assert spoken("anneal:layer") == f"annealed {title('layer')}"


def own(run):
    net = run.replace(trained(), IMAGES)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    for step in range(4):
        run.advance(step / 4)
        optimizer.zero_grad()
        net.train()(IMAGES).square().mean().backward()
        optimizer.step()
    run.finish(net, IMAGES.split(2))
    return {"loss": net.eval()(IMAGES).square().mean()}


OWN = {"metric": "loss", "direction": "min", "batch_sizes": (4,), "seeds": 1}


def test_in_a_loop_of_ones_own():
    rows = compare(train=own, norms=["batch", *WAYS, "nf"], **OWN)
    assert [row["status"] for row in rows] == ["finished"] * 6
    values = {row["norm"]: row["value"] for row in rows}
    assert values["batch"] != values["batch:recalibrated"]


def test_a_loop_that_forgets_the_end_has_failed():
    def train(run):
        run.replace(trained())
        return {"loss": 1.0}

    rows = compare(train=train, norms=["batch", *WAYS], **OWN)
    assert [row["status"] for row in rows] == ["finished", "finished", "failed", "finished", "failed"]
    assert "must call run.finish(model, loader) after training" in rows[2]["message"]


@pytest.mark.parametrize("norm", ["nf", "swap:group"])
def test_a_strategy_is_no_layer(norm):
    rows = compare(train=lambda run: {"loss": len(run.norm(8).state_dict())}, norms=["group", norm], **OWN)
    assert [row["status"] for row in rows] == ["finished", "failed"]
    assert "changes a whole model and has no single layer; call run.replace(model)" in rows[1]["message"]


def test_without_train_nf_is_among_the_usual_ones_and_with_train_it_is_not():
    rows = compare(train=lambda run: {"loss": 1.0}, **OWN)
    assert [row["norm"] for row in rows] == ["batch", "group", "instance", "layer", "none"]


def test_a_model_is_left_as_it_was_where_there_is_nothing_to_begin_with():
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.GroupNorm(2, 4))
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match="has no layer with running statistics"):
        treat(net, strategy_of("batch:frozen"), {"1": 2})
    assert type(net[1]) is nn.GroupNorm
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    run = TrainingRun("nf", "nf", batch_size=2, seed=0, epochs=1, learning_rate=None, device="cpu", on_report=print)
    with pytest.raises(ValueError, match="'nf' measures the model's signal on a batch; pass one as example="):
        run.replace(net)
