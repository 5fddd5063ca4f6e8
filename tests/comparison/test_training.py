import math
from dataclasses import replace

import pytest
import small_problems
import torch
from torch import nn
from torch.nn import functional as F

from normwise import adaptive_clip_grad_, nets, param_groups
from normwise.comparison.contestants.models import Network
from normwise.comparison.contestants.normalizer_free import UNIT_CLIP
from normwise.comparison.data.batches import data_order
from normwise.comparison.isolation import isolated
from normwise.comparison.settings import CLIP_NORM, Run, make_settings, schedule
from normwise.comparison.training.loop import Trainer, chance_values, parameter_groups, train

DATA = small_problems.blob_data()
SITES = ("norm1", "a_norm")


def chance(data):
    return chance_values(data)["accuracy"]


def settings(**changes):
    arguments = {
        "model": "net",
        "data": "blobs",
        "norms": ["batch"],
        "batch_sizes": [5],
        "seeds": 1,
        "epochs": 3,
        "learning_rate": 0.4,
        "weight_decay": 0.01,
        "image_size": 32,
        "device": "cpu",
    }
    return make_settings(**(arguments | changes))


def network(norm="batch"):
    torch.manual_seed(2)
    module = small_problems.Net(norm)
    module.drop.p = 0.0
    return Network(module, SITES)


def test_schedule_warms_up_to_the_peak_and_falls_to_zero():
    values = [schedule(step, 1000) for step in range(1000)]
    peak = max(range(1000), key=values.__getitem__)
    assert peak == pytest.approx(100, abs=1)
    assert values[peak] == pytest.approx(1, abs=1e-2)
    assert values[49] == pytest.approx(0.495)
    assert values[549] == pytest.approx(0.5, abs=2e-3)
    assert values[-1] < 1e-5
    assert schedule(0, 1) == pytest.approx(0.5 * (1 + math.cos(math.pi * 4 / 9)))


def test_data_order_depends_on_seed_and_epoch_only():
    torch.manual_seed(0)
    first = data_order(20, 3, 1)
    assert torch.equal(first, data_order(20, 3, 1))
    assert sorted(first.tolist()) == list(range(20))
    assert not torch.equal(first, data_order(20, 3, 2))
    assert not torch.equal(first, data_order(20, 4, 1))


def test_weight_decay_is_for_weights_only():
    net = network()
    decayed, plain = parameter_groups(net, 0.01)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.01, 0.0)
    names = {id(p): name for name, p in net.module.named_parameters()}
    assert sorted(names[id(p)] for p in decayed["params"]) == ["classifier.weight", "conv1.weight", "conv2.weight"]
    assert len(plain["params"]) == 6  # two normalizers, two biases
    wide = Network(nn.Sequential(nn.Conv2d(1, 2, 1), nn.Linear(2, 2)), ("1",))
    assert [p.shape for p in parameter_groups(wide, 0.01)[0]["params"]] == [(2, 1, 1, 1)]


def test_training_is_the_stated_algorithm():
    """Against momentum SGD written out, on the same batches."""
    run, chosen = Run("batch", 5, 0), settings()
    net, reference = network(), network().module
    trainer = Trainer(net, DATA, run, chosen)
    losses = [trainer.epoch(1), trainer.epoch(2)]

    velocity = {name: torch.zeros_like(p) for name, p in reference.named_parameters()}
    steps, done, expected = 48 // 5, 0, []
    for epoch in (1, 2):
        total = 0.0
        for i in range(steps):
            index = data_order(48, 0, epoch)[5 * i : 5 * i + 5]
            reference.zero_grad()
            loss = F.cross_entropy(reference.train()(DATA.x_train[index]), DATA.y_train[index])
            loss.backward()
            norm = torch.cat([p.grad.flatten() for p in reference.parameters()]).norm()
            rate = 0.4 * 5 / 32 * schedule(done, 3 * steps)
            with torch.no_grad():
                for name, p in reference.named_parameters():
                    gradient = p.grad * min(1.0, CLIP_NORM / (norm.item() + 1e-6))
                    if name in ("conv1.weight", "conv2.weight", "classifier.weight"):
                        gradient = gradient + 0.01 * p
                    velocity[name] = 0.9 * velocity[name] + gradient
                    p -= rate * (gradient + 0.9 * velocity[name])
            total += loss.item()
            done += 1
        expected.append(total / steps)
    assert losses == pytest.approx(expected, rel=1e-4)
    for (name, p), q in zip(net.module.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5, msg=name)


def test_a_tail_of_one_is_dropped():
    class NeedsTwo(nn.Module):
        def forward(self, x):
            assert len(x) > 1
            return F.pad(x.flatten(1)[:, :2], (0, 1))

    net = Network(nn.Sequential(NeedsTwo(), nn.BatchNorm1d(3)), ("1",))
    result = train(net, DATA, Run("batch", 47, 0), settings(batch_sizes=[47], epochs=1), lambda *_: None)
    assert result["status"] == "finished"


def test_a_run_learns_and_is_measured():
    heard = []
    result = train(network(), DATA, Run("batch", 8, 0), settings(batch_sizes=[8], epochs=8), lambda *a: heard.append(a))
    assert result["status"] == "finished"
    assert result["test_accuracy"] > 0.9
    assert result["train_accuracy"] > 0.9
    assert result["train_eval_gap"] == result["test_accuracy_train_mode"] - result["test_accuracy"]
    assert [c["epoch"] for c in result["curve"]] == list(range(1, 9))
    assert heard == [(c["epoch"], c["train_loss"], c["test_accuracy"]) for c in result["curve"]]
    assert result["curve"][-1]["test_accuracy"] == result["test_accuracy"]
    assert result["curve"][-1]["train_loss"] < result["curve"][0]["train_loss"]
    assert result["parameters"] == sum(p.numel() for p in small_problems.Net().parameters())
    weights = 4 * result["parameters"]
    assert result["peak_memory_bytes"] > 2 * weights
    assert [layer["name"] for layer in result["layers"]] == list(SITES)
    assert result["layers"][1]["start"] != result["layers"][1]["end"]


def test_the_largest_batch_is_the_whole_split():
    result = train(network(), DATA, Run("batch", 48, 0), settings(batch_sizes=[48]), lambda *_: None)
    assert len(result["curve"]) == 3


def test_a_diverging_run_is_a_result():
    net = Network(small_problems.diverging_net("batch"), ("0.norm1", "0.a_norm"))
    with isolated(0, "cpu"):
        result = train(net, DATA, Run("batch", 5, 0), settings(), lambda *_: None)
    assert result["status"] == "diverged"
    assert result["message"] == "The loss is not finite after epoch 1 of 3."
    assert result["curve"] == [{"epoch": 1, "train_loss": None, "test_accuracy": chance(DATA)}]
    assert result["test_accuracy"] == chance(DATA)
    for field in ("test_loss", "train_accuracy", "test_accuracy_train_mode", "train_eval_gap"):
        assert result[field] is None
    assert result["layers"][0]["end"] == {"squared_mean": None, "variance": None} or result["layers"][0]["end"]


def test_chance_is_the_most_frequent_training_class():
    data = replace(DATA, y_train=torch.tensor([0, 2, 2]), x_test=DATA.x_test[:4], y_test=torch.tensor([2, 1, 0, 2]))
    assert chance(data) == 0.5


def test_the_normalizer_free_net_is_clipped_unit_by_unit_after_the_global_norm():
    """Against the global clipping, adaptive clipping and momentum SGD done by hand."""
    run, chosen = Run("nf", 5, 0), settings()

    def made():
        torch.manual_seed(2)
        return nets.nf_resnet(8, 3, 1, skip_gain=1.0, stochastic_depth=0.0)

    trainer, reference = Trainer(Network(made(), ()), DATA, run, chosen), made()
    loss = trainer.epoch(1)
    optimizer = torch.optim.SGD(param_groups(reference, 0.01), lr=1.0, momentum=0.9, nesterov=True)
    order, losses = data_order(len(DATA.x_train), 0, 1), []
    for step in range(len(order) // 5):
        index = order[5 * step : 5 * step + 5]
        optimizer.zero_grad()
        losses.append(F.cross_entropy(reference(DATA.x_train[index]), DATA.y_train[index]))
        losses[-1].backward()
        nn.utils.clip_grad_norm_(reference.parameters(), CLIP_NORM)
        adaptive_clip_grad_(reference, UNIT_CLIP)
        for group in optimizer.param_groups:
            group["lr"] = chosen.rate(5) * schedule(step, trainer.total_steps)
        optimizer.step()
    assert loss == pytest.approx(sum(losses).item() / len(losses), rel=1e-5)
    for ours, theirs in zip(trainer.model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert trainer.optimizer.report.rate > 0
    assert not hasattr(Trainer(network(), DATA, Run("batch", 5, 0), chosen).optimizer, "report")
