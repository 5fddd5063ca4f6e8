"""The last call of a layer: what is like it goes its way, and nothing else does."""

import copy
import pickle

import pytest
import torch
from marks import needs_kernels
from torch import nn

import normwise as nw
from normwise.operations import recent
from normwise.operations.ways import choosing

pytestmark = needs_kernels
LAYERS = {
    "group": (lambda: nw.GroupNorm(2, 8), lambda: nn.GroupNorm(2, 8)),
    "instance": (lambda: nw.InstanceNorm2d(8, affine=True), lambda: nn.InstanceNorm2d(8, affine=True)),
    "batch": (lambda: nw.BatchNorm2d(8), lambda: nn.BatchNorm2d(8)),
    "batch, by running statistics": (lambda: nw.BatchNorm2d(8).eval(), lambda: nn.BatchNorm2d(8).eval()),
    "rows": (lambda: nw.LayerNorm(5), lambda: nn.LayerNorm(5)),
    "rows without a bias": (lambda: nw.LayerNorm(5, bias=False), lambda: nn.LayerNorm(5, bias=False)),
    "rows, by power": (lambda: nw.RMSNorm(5, eps=1e-5), lambda: nn.RMSNorm(5, eps=1e-5)),
}
X = torch.randn(4, 8, 6, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=LAYERS)
def pair(request):
    """One of ours that was called, and torch's, as many times."""
    layer, native = (make() for make in LAYERS[request.param])
    for _ in range(2):
        layer(X), native(X)
    return layer, native


@pytest.fixture
def looked_up(monkeypatch):
    """How often a way was looked up by its request."""
    times = []

    def counted(request, check, find=choosing.way_for):
        times.append(request)
        return find(request, check)

    monkeypatch.setattr(recent, "way_for", counted)
    monkeypatch.setattr("normwise.operations.normalize.way_for", counted)
    return times


def close(layer, native, x):
    torch.testing.assert_close(layer(x), native(x), rtol=1e-5, atol=1e-5)


def test_a_call_of_the_same_kind_looks_nothing_up(pair, looked_up):
    close(*pair, X + 1)
    assert not looked_up


def test_gradients_of_later_calls_are_their_own(pair):
    _layer, _native = pair
    for seed in range(3):
        x, grad = (torch.randn(4, 8, 6, 5, generator=torch.Generator().manual_seed(2 * seed + i)) for i in range(2))
        leaves = [[x.clone().requires_grad_(), *m.parameters()] for m in pair]
        found = [torch.autograd.grad(m(these[0]), these, grad) for m, these in zip(pair, leaves, strict=True)]
        for got, want in zip(*found, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m, "eps", 0.5),
        lambda m: m.double(),
        lambda m: m.requires_grad_(False),
        lambda m: setattr(m, "weight", nn.Parameter(torch.full_like(m.weight, 3.0))),
        lambda m: m.eval(),
    ],
    ids=["epsilon", "double", "frozen", "weight", "evaluation"],
)
def test_what_changes_holds_from_then_on(pair, change):
    for m in pair:
        change(m)
    close(*pair, X.to(pair[0].weight.dtype))
    close(*pair, X.to(pair[0].weight.dtype))


@pytest.mark.parametrize("shape", [(2, 8, 6, 5), (4, 8, 3, 5), (4, 8, 1, 1, 5)])
def test_another_shape(pair, shape):
    layer, native = pair
    if len(shape) == 5 and not isinstance(layer, nn.GroupNorm | nn.LayerNorm | nn.RMSNorm):
        pytest.skip("a layer of maps")
    close(layer, native, torch.randn(shape))


def test_another_layout(pair):
    close(*pair, X.to(memory_format=torch.channels_last))
    close(*pair, X.transpose(2, 3).contiguous().transpose(2, 3))


def test_a_wrong_input_is_an_error_as_at_first(pair):
    with pytest.raises(ValueError, match=r"channels|trailing|shape"):
        pair[0](torch.randn(4, 7, 6, 4))
    close(*pair, X)


def test_numbers_of_one_layer():
    layer = nw.GroupNorm(2, 8)
    layer(X)
    layer(X)
    layer.num_groups, layer.activation = 4, "relu"
    torch.testing.assert_close(layer(X), nn.functional.group_norm(X, 4).relu(), rtol=1e-5, atol=1e-5)
    batch = nw.BatchNorm2d(8, momentum=0.5)
    batch(X)
    batch(X)
    batch.running_mean, batch.momentum = torch.zeros(8), 0.25
    batch(X)
    torch.testing.assert_close(batch.running_mean, 0.25 * X.mean((0, 2, 3)))
    batch.policy.frozen = True
    by_running = [batch(X + i) for i in range(3)]
    batch.running_var = torch.full((8,), 4.0)
    by_running.append(batch(X))
    mean = batch.running_mean.view(8, 1, 1)
    assert int(batch.num_batches_tracked) == 3
    torch.testing.assert_close(by_running[2] - by_running[1], by_running[1] - by_running[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(by_running[3], (X - mean) / (4 + batch.eps) ** 0.5, rtol=1e-5, atol=1e-5)


def test_a_chosen_backend_a_transform_and_autocast(pair, looked_up):
    layer, native = pair
    with nw.use_backend("reference"):
        close(*pair, X)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(X).dtype == torch.float32
    assert len(looked_up) == 2
    if not isinstance(layer, nn.BatchNorm2d) or not layer.training:
        mapped = torch.func.vmap(layer)(torch.stack([X, X + 1]))
        torch.testing.assert_close(mapped[1], native(X + 1), rtol=1e-5, atol=1e-5)


def test_what_is_no_tensor_is_an_error_as_at_first(pair):
    with pytest.raises(TypeError):
        pair[0](X.numpy())


def test_a_residual_is_added_first_or_last():
    first, last = nw.LayerNorm(5, add_first=True), nw.LayerNorm(5)
    for i in range(4):
        y, total = first(X, X + i)
        torch.testing.assert_close(total, 2 * X + i)
        torch.testing.assert_close(y, nn.functional.layer_norm(total, (5,)), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(first(X)[1], X)
        torch.testing.assert_close(last(X, X + i), nn.functional.layer_norm(X, (5,)) + X + i, rtol=1e-5, atol=1e-5)


def test_other_parameters_by_functional_call(pair):
    layer, _native = pair
    others = {name: torch.full_like(p, 0.5) for name, p in layer.named_parameters()}
    found = [torch.func.functional_call(m, others, (X,)) for m in pair]
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)
    close(*pair, X)


def test_copies_begin_without(pair):
    layer, native = pair
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert "_recent" in vars(layer)
        assert "_recent" not in vars(other)
        close(other, copy.deepcopy(native), X)


def test_a_residual_and_a_mask_after_a_call_without():
    layer = nw.GroupNorm(2, 8)
    layer(X)
    layer(X)
    batch, native = nw.BatchNorm2d(8), nn.BatchNorm2d(8)
    for other in (X + 1, X + 2, X, X + 3):
        torch.testing.assert_close(batch(X, other), native(X) + other, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(layer(X, other), nn.functional.group_norm(X, 2) + other, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="residual"):
        layer(X, X[..., :2])
    mask = torch.zeros(4, 6, 5, dtype=torch.bool)
    mask[:, 1:4] = True
    want = nn.functional.group_norm(X[:, :, 1:4].contiguous(), 2)
    torch.testing.assert_close(layer(X, mask=mask)[:, :, 1:4], want, rtol=1e-5, atol=1e-5)
