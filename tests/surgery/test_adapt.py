"""`adapt`: statistics of another domain, in place or in banks, and gains and biases of lower entropy."""

import pytest
import torch
from recalibration import fingerprint, surroundings, unwarned
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import normwise as nw


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 3)).eval()


X = torch.randn(60, 4, generator=torch.Generator().manual_seed(1)) * 2 + 1


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def adapted(model, *arguments, **options):
    with unwarned():
        return nw.adapt(model, *arguments, **options)


def test_stats_are_those_of_recalibrate():
    model, twin = net(), net()
    result = adapted(model, X.split(16), upstream="running", blend=0.5)
    with unwarned():
        nw.recalibrate(twin, X.split(16), upstream="running", blend=0.5)
    assert_close(state(model), state(twin))
    result.undo()
    assert_close(state(model), state(net()))


@pytest.mark.parametrize("ours", [False, True])
def test_a_bank_keeps_both_domains_in_one_net(ours):
    model = net()
    if ours:
        model[1] = nw.BatchNorm1d(6).eval()
    before, hooked, old = model(X), [], model[1]
    model[1].register_forward_hook(lambda *_: hooked.append(1))
    names = list(model.state_dict())
    day = adapted(model, [X + 5], bank="day")
    night = adapted(model, X.split(16), bank="night")
    assert_close(model(X), before)
    with nw.statistics_bank(model, "night"):
        at_night = model(X)
    h = model[0](X).detach()
    expected = model[4](F.batch_norm(h, h.mean(0), h.var(0)).relu())
    assert_close(at_night, expected)
    assert hooked
    assert "nw.statistics_bank(model, 'night')" in str(night)
    assert set(names) < set(model.state_dict())
    night.undo()
    assert list(model[1].banks) == ["day"]
    day.undo()
    assert model[1] is old
    assert list(model.state_dict()) == names


def test_a_new_bank_starts_with_the_layers_statistics():
    model = net()
    model[1].running_mean.fill_(10)
    result = adapted(model, [X], bank="night", blend=0.25)
    assert_close(model[1].banks["night"].running_mean, 7.5 + 0.25 * model[0](X).mean(0))
    assert_close(model[1].running_mean, torch.full((6,), 10.0))
    assert result.bank == "night"


def test_entropy_trains_gains_and_biases_and_nothing_else():
    model = net()
    before, around, old = fingerprint(model), surroundings(), state(model)
    result = adapted(model, X.split(20), method="entropy", lr=0.05)
    changed = {name for name, t in model.state_dict().items() if not torch.equal(t, old[name])}
    assert changed == {f"1.{n}" for n in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}
    after = fingerprint(model)
    same = {key for key in before if key[0] != "1" or key[1] not in ("weight", "bias")}
    assert {key: after[key] for key in same} == {key: before[key] for key in same}
    assert surroundings() == around
    twin = net()
    twin[1].train()
    logits = twin(X[:20])
    entropy = -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
    assert result.entropies[0] == pytest.approx(entropy.item(), rel=1e-5)
    assert adapted(model, X.split(20), method="entropy").entropies[0] < result.entropies[0]


def test_the_first_step_is_adams():
    model, twin = net(), net()
    adapted(model, [X], method="entropy", lr=0.01)
    twin[1].train()
    logits = twin(X)
    gradient = torch.autograd.grad(-(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean(), twin[1].weight)[0]
    assert_close(model[1].weight, (twin[1].weight - 0.01 * gradient.sign()).detach(), rtol=0, atol=1e-4)


def test_undo_of_entropy():
    model = net()
    old = state(model)
    result = adapted(model, [X], method="entropy")
    assert "The entropy of a batch went from" in str(result)
    assert result.undo() is model
    assert_close(state(model), old, rtol=0, atol=0)


class Broken(list):
    def __iter__(self):
        yield X
        raise KeyboardInterrupt


@pytest.mark.parametrize("options", [{}, {"bank": "night"}, {"method": "entropy"}])
def test_after_an_exception_all_is_as_it_was(options):
    model = net()
    before, around, old, modules = fingerprint(model), surroundings(), state(model), list(model.modules())
    with pytest.raises(KeyboardInterrupt):
        nw.adapt(model, Broken(), **options)
    versions = lambda found: {k: v[:2] if "values" in k else v for k, v in found.items()}  # noqa: E731
    assert versions(fingerprint(model)) == versions(before)
    assert surroundings() == around
    assert list(model.modules()) == modules
    assert_close(state(model), old, rtol=0, atol=0)


class Odd(nn.BatchNorm1d):
    def forward(self, x):
        return super().forward(x)


class Single(nn.Sequential):
    def __init__(self):
        super().__init__(nn.BatchNorm1d(4))

    def forward(self, x):
        return super().forward(x).sum(1)


REFUSED = {
    "method": (net, {"method": "mean"}, ValueError, "method must be 'stats' or 'entropy', received 'mean'"),
    "entropy and bank": (net, {"method": "entropy", "bank": "night"}, ValueError, "bank= goes with method='stats'"),
    "a bank's name": (net, {"bank": "a.b"}, ValueError, "bank's name must be a non-empty string without dots"),
    "no classifier": (lambda: Single(), {"method": "entropy"}, ValueError, r"needs logits \[N, K, \*\] .* \[60\]"),
    "no affine": (lambda: nn.BatchNorm1d(4, affine=False), {"method": "entropy"}, ValueError, "trains γ and β, and"),
    "a forward of its own": (lambda: Odd(4), {"bank": "night"}, ValueError, "is a Odd with a forward of its own"),
    "no layer": (lambda: nn.Linear(4, 4), {}, ValueError, "adapt: Linear has no layer with running statistics"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_adapted(case):
    make, options, kind, words = REFUSED[case]
    model = make()
    modules = list(model.modules())
    with pytest.raises(kind, match=words):
        nw.adapt(model, [X], **options)
    assert list(model.modules()) == modules
    assert "banks" not in dir(model)


def test_an_iterator_can_be_read_only_once():
    with pytest.raises(TypeError, match=r"reads the loader twice, .* write list\(loader\)"):
        nw.adapt(net(), iter([X]), method="entropy")
