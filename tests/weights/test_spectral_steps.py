"""When spectral normalization iterates, and what its vectors survive."""

import copy
import importlib

import pytest
import torch
from spectral_cases import norm_of, raw, step, vectors
from torch import nn
from torch.nn.utils import parametrize
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from normwise.weights import scaled_weight_standardization, spectral_norm


def test_one_iteration_per_change_of_the_weight():
    layer = spectral_norm(nn.Conv2d(4, 6, 3))
    start = vectors(layer)
    for _ in range(3):
        layer.weight  # noqa: B018  # reading is the access
    assert_close(vectors(layer), start, rtol=0, atol=0)
    step(layer)
    for _ in range(3):
        layer(torch.randn(1, 4, 5, 5))
    once = vectors(layer)
    product = raw(layer).detach().flatten(1) @ start[1]
    u = product / product.norm()
    v = raw(layer).detach().flatten(1).T @ u
    assert_close(once, (u, v / v.norm()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(64, 1), (1, 64), (9, 7)], ids=["one-row", "one-column", "matrix"])
def test_every_optimizer_step_is_one_iteration(shape, monkeypatch):
    """The gradient is orthogonal to W: with a single row Wv stays the same to rounding, though W moves."""
    iterations = []
    module = importlib.import_module("normwise.weights.spectral_norm")
    original = module.iterate
    monkeypatch.setattr(module, "iterate", lambda *a: iterations.append(a[2]) or original(*a))
    layer = spectral_norm(nn.Linear(*shape))
    assert iterations.pop() == module.WARM_UP
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3)
    for done in range(50):
        for _ in range(2):
            layer(torch.randn(4, shape[0])).square().sum().backward()
        assert iterations == [1] * done
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize(
    "change",
    [
        lambda w: torch.optim.SGD([w], lr=0.1).step(),
        lambda w: torch.optim.Adam([w], lr=0.1, foreach=True).step(),
        lambda w: torch.optim.Adam([w], lr=0.1, fused=True).step(),
        lambda w: w.data.add_(0.1 * torch.randn_like(w)),
        lambda w: setattr(w, "data", w.data + 0.1 * torch.randn_like(w)),
    ],
    ids=["sgd", "foreach", "fused", "data-in-place", "data-assigned"],
)
def test_a_step_is_recognized_by_the_values(change):
    """Writes through .data do not count in torch's version counter."""
    layer = spectral_norm(nn.Linear(9, 7))
    raw(layer).grad = torch.randn_like(raw(layer))
    before = vectors(layer)
    change(raw(layer))
    layer.weight  # noqa: B018
    after = vectors(layer)
    assert (before[0] - after[0]).abs().max() > 1e-6
    layer.weight  # noqa: B018
    assert_close(vectors(layer), after, rtol=0, atol=0)


def test_evaluation_and_no_grad_evaluation_never_iterate():
    layer = spectral_norm(nn.Linear(9, 7)).eval()
    step(layer)
    before = vectors(layer)
    with torch.no_grad():
        layer(torch.randn(2, 9))
    layer(torch.randn(2, 9)).sum().backward()
    assert_close(vectors(layer), before, rtol=0, atol=0)


def test_two_forwards_before_one_backward():
    """The pattern of GANs: D(real) - D(fake), also with a step of another access in between."""
    critic = nn.Sequential(spectral_norm(nn.Conv2d(2, 3, 3)), nn.Flatten(), spectral_norm(nn.Linear(27, 1)))
    twin = copy.deepcopy(critic)
    real, fake = torch.randn(2, 2, 5, 5), torch.randn(2, 2, 5, 5)
    (critic(real).mean() - critic(fake).mean()).backward()
    both = twin(torch.cat([real, fake])).squeeze(1)
    (both[:2].mean() - both[2:].mean()).backward()
    for ours, once in zip(critic.parameters(), twin.parameters(), strict=True):
        assert_close(ours.grad, once.grad)


def test_a_graph_outlives_later_iterations():
    """The backward pass of an old forward uses the vectors of that forward."""
    layer = spectral_norm(nn.Linear(6, 5))
    norm, weight = norm_of(layer), raw(layer).detach().clone().requires_grad_()
    old = norm(weight)
    cotangent = torch.randn_like(weight)
    (expected,) = torch.autograd.grad(old, weight, cotangent, retain_graph=True)
    for _ in range(3):
        norm(torch.randn_like(weight))  # iterates and writes the buffers
    assert_close(torch.autograd.grad(old, weight, cotangent)[0], expected, rtol=0, atol=0)


def test_gradient_accumulation_is_one_step():
    layer = spectral_norm(nn.Linear(6, 4))
    whole = copy.deepcopy(layer)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.5) for m in (layer, whole)]
    for _ in range(3):
        x = torch.randn(8, 6)
        for part in x.split(2):
            (layer(part).square().sum() / 8).backward()
        (whole(x).square().sum() / 8).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    layer(x), whole(x)
    assert_close(vectors(layer), vectors(whole))


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_recomputes_the_same(reentrant):
    layer, plain = spectral_norm(nn.Linear(6, 6)), spectral_norm(nn.Linear(6, 6))
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(3, 6, requires_grad=True)
    for model in (layer, plain):
        step_rng = torch.Generator().manual_seed(1)
        with torch.no_grad():
            raw(model).add_(torch.randn(6, 6, generator=step_rng))
    checkpoint(layer, x, use_reentrant=reentrant).square().sum().backward()
    plain(x).square().sum().backward()
    assert_close(raw(layer).grad, raw(plain).grad, rtol=0, atol=0)
    assert_close(vectors(layer), vectors(plain), rtol=0, atol=0)


def test_composes_with_weight_standardization():
    """The second parametrization sees another tensor at each access: only its values can tell a step."""
    layer = spectral_norm(scaled_weight_standardization(nn.Conv2d(3, 4, 3)))
    norm = layer.parametrizations.weight[1]
    before = norm._u.clone()
    layer.weight, layer.weight  # noqa: B018
    assert_close(norm._u, before, rtol=0, atol=0)
    step(layer)
    layer.weight  # noqa: B018
    assert (norm._u - before).abs().max() > 1e-6


def test_construction_is_deterministic_and_leaves_the_random_state():
    layer = nn.Linear(6, 6)
    state = torch.get_rng_state()
    a, b = spectral_norm(copy.deepcopy(layer)), spectral_norm(copy.deepcopy(layer))
    assert torch.equal(torch.get_rng_state(), state)
    assert_close(vectors(a), vectors(b), rtol=0, atol=0)


@pytest.mark.parametrize("operator", [False, True])
def test_copies_are_independent_and_parametrized_modules_save_by_state_dict(operator):
    layer = spectral_norm(nn.Conv2d(3, 4, 3), operator=operator)
    step(layer)
    twin = copy.deepcopy(layer)
    assert_close(twin.weight, layer.weight, rtol=0, atol=0)
    kept = {k: v.clone() for k, v in layer.state_dict().items()}
    step(twin)
    assert (twin.weight - layer.weight).abs().max() > 1e-3
    assert_close(layer.state_dict(), kept, rtol=0, atol=0)
    fresh = spectral_norm(nn.Conv2d(3, 4, 3), operator=operator)
    fresh.load_state_dict(kept)
    assert_close(fresh.eval().weight, layer.eval().weight, rtol=0, atol=0)


def test_resuming_from_a_checkpoint_gives_the_same_run():
    def train(layer, steps, seed):
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.3)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            optimizer.zero_grad()
            layer(torch.randn(4, 6, generator=generator)).square().sum().backward()
            optimizer.step()

    layer = spectral_norm(nn.Linear(6, 5))
    train(layer, 3, 0)
    saved = {k: v.clone() for k, v in layer.state_dict().items()}
    train(layer, 3, 1)
    resumed = spectral_norm(nn.Linear(6, 5))
    resumed.load_state_dict(saved)
    train(resumed, 3, 1)
    assert_close(resumed.state_dict(), layer.state_dict(), rtol=0, atol=0)


def test_cached_parametrization_is_one_access():
    layer = spectral_norm(nn.Linear(4, 4))
    with parametrize.cached():
        assert layer.weight is layer.weight
