import copy

import pytest
import small_problems
import torch
from torch import nn
from torch.nn import functional as F

from normwise.comparison.contestants.models import Network
from normwise.comparison.data.in_memory import Data
from normwise.comparison.training.measure import evaluate, evaluate_in_training, layer_signal, step_memory

X, Y = small_problems.pair(21, 5)
DATA = Data("pairs", X, Y, X, Y, ("0", "1", "2"))


def evaluated(model):
    return DATA.objective.values(evaluate(model, DATA.objective, DATA.in_order("test")).sum(0))


def train_mode_accuracy(net, batch_size):
    sums = evaluate_in_training(net, DATA.objective, DATA.full_batches(batch_size))
    assert len(sums) == len(X)
    return DATA.objective.values(sums.sum(0))["accuracy"]


def network(norm="batch"):
    torch.manual_seed(1)
    module = small_problems.Net(norm)
    module(X + 3).sum().backward()  # running statistics that are not those of X
    return Network(module, ("norm1", "a_norm"))


def snapshot(model):
    return copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]


def assert_same(before, model):
    state, modes = before
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert modes == [m.training for m in model.modules()]


def test_evaluate_is_accuracy_and_mean_loss_in_eval_mode(monkeypatch):
    monkeypatch.setattr("normwise.comparison.data.in_memory.EVALUATION_BATCH", 8)
    model = network().module.train()
    before = snapshot(model)
    values = evaluated(model)
    assert_same(before, model)
    logits = copy.deepcopy(model).eval()(X)
    assert values["accuracy"] == pytest.approx((logits.argmax(1) == Y).float().mean().item())
    assert values["loss"] == pytest.approx(F.cross_entropy(logits, Y).item(), rel=1e-5)


@pytest.mark.parametrize("batch_size", [2, 4, 21, 30])
def test_train_mode_accuracy_counts_each_sample_once_in_full_batches(batch_size):
    net = network()
    before = snapshot(net.module)
    accuracy = train_mode_accuracy(net, batch_size)
    assert_same(before, net.module)
    model = copy.deepcopy(net.module).eval()
    for layer in (model.norm1, model.a_norm):
        layer.train()
    order, hits = torch.randperm(21, generator=torch.Generator().manual_seed(0)), 0
    for start in range(0, 21, batch_size):
        index = [int(order[i % 21]) for i in range(start, start + batch_size)]
        right = model(X[index]).argmax(1) == Y[index]
        hits += int(right[: 21 - start].sum())
    assert accuracy == pytest.approx(hits / 21)


def test_train_mode_accuracy_is_that_of_evaluation_without_batch_statistics():
    net = network("group")
    assert train_mode_accuracy(net, 4) == evaluated(net.module)["accuracy"]


def test_layer_signal_is_the_papers_statistic_of_each_sites_input():
    net = network()
    before = snapshot(net.module)
    signal = layer_signal(net, X)
    assert_same(before, net.module)
    inputs = {}
    model = copy.deepcopy(net.module).train()
    for name in net.sites:
        dict(model.named_modules())[name].register_forward_pre_hook(lambda m, a, name=name: inputs.update({name: a[0]}))
    model(X)
    for name in net.sites:
        channels = inputs[name].detach().double().transpose(0, 1).flatten(1)
        expected = {
            "squared_mean": channels.mean(1).square().mean().item(),
            "variance": channels.var(1, correction=0).mean().item(),
        }
        assert signal[name] == pytest.approx(expected, rel=1e-5)


def test_layer_signal_also_where_no_normalizer_stands_and_of_features():
    signal = layer_signal(network("none"), X)
    assert set(signal) == {"norm1", "a_norm"}
    features = Network(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), ("1",))
    x = torch.randn(8, 3)
    expected = features.module[0](x).var(0, correction=0).mean().item()
    assert layer_signal(features, x)["1"]["variance"] == pytest.approx(expected, rel=1e-5)


def test_layer_signal_of_tokens_is_over_their_channels():
    tokens = Network(nn.Sequential(nn.Identity()), ("0",), of_tokens=True)
    x = torch.randn(4, 5, 3)
    found = layer_signal(tokens, x)["0"]
    channels = x.double().reshape(20, 3)
    assert found["variance"] == pytest.approx(channels.var(0, correction=0).mean().item(), rel=1e-5)
    assert found["squared_mean"] == pytest.approx(channels.mean(0).square().mean().item(), rel=1e-4)


def test_signal_that_is_not_finite_is_none():
    net = Network(nn.Sequential(nn.Identity()), ("0",))
    assert layer_signal(net, torch.tensor([[torch.inf], [1.0]])) == {"0": {"squared_mean": None, "variance": None}}


def test_step_memory_is_the_peak_of_what_a_step_allocates(capfd):
    def step():
        a = torch.empty(1000, dtype=torch.float32)
        b = torch.empty(500, dtype=torch.float64)
        del a
        torch.empty(250, dtype=torch.int32)
        del b

    peak, kind = step_memory(step, held=100, device="cpu")
    assert peak == 100 + 4000 + 4000
    assert kind == "CPU allocator events"
    assert capfd.readouterr().err == ""
    assert step_memory(lambda: None, held=7, device="cpu")[0] == 7


def test_step_memory_of_a_training_step():
    linear = nn.Linear(100, 50, bias=False)
    x = torch.randn(200, 100)
    peak, _ = step_memory(lambda: torch.relu(linear(x)).sum().backward(), held=0, device="cpu")
    # The output of the layer beside that of the ReLU, or the latter beside its gradient.
    assert peak == pytest.approx(2 * 200 * 50 * 4, rel=0.01)
