"""Adaptive gradient clipping against the official rule, unit by unit, and against a loop over tensors."""

import copy

import numpy as np
import pytest
import torch
from agc_by_the_paper import by_units, official_layout, timms_reading, units_of, whole
from clipping_cases import Heads, fill
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.testing import assert_close

import normwise as nw
from normwise.optim import adaptive_clip_grad_

LAYERS = {
    "linear": (lambda: nn.Linear(7, 5), (3, 7)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3), (2, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 6, (3, 2)), (2, 4, 5, 6)),
    "conv2d-grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 5, 6)),
    "conv2d-depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4), (2, 4, 5, 6)),
    "conv3d": (lambda: nn.Conv3d(2, 5, 2), (2, 2, 3, 4, 3)),
    "transposed1d": (lambda: nn.ConvTranspose1d(4, 6, 3), (2, 4, 5)),
    "transposed2d": (lambda: nn.ConvTranspose2d(4, 3, (2, 3)), (2, 4, 5, 4)),
    "transposed2d-square": (lambda: nn.ConvTranspose2d(4, 4, 3), (2, 4, 5, 4)),
    "transposed2d-grouped": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), (2, 4, 5, 4)),
    "transposed3d-grouped": (lambda: nn.ConvTranspose3d(4, 4, 2, groups=2), (2, 4, 2, 3, 2)),
}
every_layer = pytest.mark.parametrize(("make", "shape"), LAYERS.values(), ids=LAYERS)


@every_layer
@pytest.mark.parametrize("clip", [0.01, 0.3])
def test_the_official_rule_for_the_weights_that_feed_one_output(make, shape, clip):
    layer = make()
    before = fill(layer)
    units = units_of(layer, layer.weight, torch.rand(shape) + 0.5)
    assert torch.stack(units).sum(0).unique().tolist() == [1]  # every weight belongs to one unit
    report = adaptive_clip_grad_(layer, clip, classifier=None)
    expected = by_units(layer.weight, before["weight"], units, clip, 1e-3)
    np.testing.assert_allclose(layer.weight.grad.numpy(), expected, rtol=2e-6, atol=1e-9)
    np.testing.assert_allclose(layer.bias.grad.numpy(), whole(layer.bias, before["bias"], clip, 1e-3), rtol=2e-6)
    changed = [not torch.equal(layer.weight.grad[mask], before["weight"][mask]) for mask in units]
    assert [bool(n) for n in report.counts["weight"]] == changed
    assert any(changed)


@pytest.mark.parametrize("seed", range(12))
def test_random_shapes_against_the_official_layout_and_timms_reading(seed):
    generator = np.random.default_rng(seed)
    shape = [int(n) for n in generator.integers(2, 9, size=int(generator.integers(2, 6)))]
    weight = nn.Parameter(torch.randn(shape, dtype=torch.float64) * 10.0 ** generator.uniform(-5, 1))
    spread = 10.0 ** torch.linspace(-4, 0, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    grad = torch.randn(shape, dtype=torch.float64) * spread
    clip, eps = float(10.0 ** generator.uniform(-3, 0)), float(10.0 ** generator.uniform(-4, -1))
    weight.grad = grad.clone()
    adaptive_clip_grad_([weight], clip, eps)
    np.testing.assert_allclose(weight.grad.numpy(), official_layout(weight, grad, clip, eps), rtol=1e-12)
    assert_close(weight.grad, timms_reading(weight, grad, clip, eps), rtol=1e-12, atol=0)


@pytest.mark.parametrize("shape", [(), (1,), (5,), (5, 1), (1, 5), (5, 1, 1, 1), (1, 1, 7)])
def test_scalars_and_vectors_are_one_unit(shape):
    weight, grad = nn.Parameter(torch.randn(shape)), torch.randn(shape)
    weight.grad = grad.clone()
    report = adaptive_clip_grad_(weight)
    np.testing.assert_allclose(weight.grad.numpy(), whole(weight, grad, 0.01, 1e-3), rtol=2e-6)
    assert len(report.counts["0"]) == 1


def net():
    torch.manual_seed(1)
    return nn.Sequential(
        nw.ScaledWSConv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ConvTranspose2d(8, 4, 2, groups=2),
        nn.Conv2d(4, 6, 3, groups=2).to(memory_format=torch.channels_last),
        nn.Linear(6, 6).double(),
        nn.Linear(6, 5).bfloat16(),
        nn.Linear(5, 3),
    )


def test_all_tensors_at_once_are_each_by_itself():
    together = net()
    fill(together)
    alone = copy.deepcopy(together)
    for parameter, other in zip(alone.parameters(), together.parameters(), strict=True):
        parameter.grad = other.grad.clone()
    report = adaptive_clip_grad_(together, 0.05)
    for module in alone[:-1]:
        for parameter in module.parameters():
            adaptive_clip_grad_(
                module if isinstance(module, nn.ConvTranspose2d) else [parameter], 0.05, classifier=None
            )
    adaptive_clip_grad_([alone[-1].bias], 0.05)
    for (name, parameter), other in zip(together.named_parameters(), alone.parameters(), strict=True):
        assert torch.equal(parameter.grad, other.grad), name
    assert report.excluded == ("6.weight",)
    assert set(report.counts) == {name for name, _ in together.named_parameters()} - {"6.weight"}


def test_a_clipped_gradient_has_the_largest_norm_and_another_is_untouched():
    layer = nn.Linear(20, 4, bias=False)
    layer.weight.grad = torch.randn(4, 20) * torch.tensor([1e-6, 1.0, 1e-6, 100.0])[:, None]
    before = layer.weight.grad.clone()
    report = adaptive_clip_grad_(layer, 0.02, classifier=None)
    assert report.counts["weight"].tolist() == [0, 1, 0, 1]
    assert torch.equal(layer.weight.grad[[0, 2]], before[[0, 2]])
    ratio = layer.weight.grad.norm(dim=1) / layer.weight.detach().norm(dim=1)
    assert_close(ratio[[1, 3]], torch.full((2,), 0.02))
    cosine = nn.functional.cosine_similarity(layer.weight.grad, before)
    assert_close(cosine, torch.ones(4))


def test_a_skip_gain_of_zero_gets_the_floor():
    gain = nn.Parameter(torch.zeros(()))
    gain.grad = torch.tensor(-3.0)
    adaptive_clip_grad_([gain])
    assert gain.grad.item() == pytest.approx(-1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_gradients_have_norms_in_float32(dtype):
    weight = nn.Parameter(torch.full((2, 40000), 2.0, dtype=dtype))  # the sum of squares overflows float16
    weight.grad = torch.full((2, 40000), 1.0, dtype=dtype)
    adaptive_clip_grad_([weight], 0.25)
    assert torch.equal(weight.grad, torch.full((2, 40000), 0.5, dtype=dtype))


def test_the_gradients_layout_stays():
    conv = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)
    conv(torch.randn(2, 4, 6, 6).to(memory_format=torch.channels_last)).square().sum().backward()
    grad, strides = conv.weight.grad, conv.weight.grad.stride()
    adaptive_clip_grad_(conv, classifier=None)
    assert conv.weight.grad is grad
    assert grad.stride() == strides
    assert_close(grad.flatten(1).norm(dim=1), 0.01 * conv.weight.detach().flatten(1).norm(dim=1))


def test_nothing_to_clip():
    layer = nn.Linear(3, 2)
    assert adaptive_clip_grad_(layer, classifier=None).counts == {}
    assert adaptive_clip_grad_([]).rate == 0.0
    empty = nn.Parameter(torch.zeros(0, 4))
    empty.grad = torch.zeros(0, 4)
    assert adaptive_clip_grad_([empty]).rates == {}
    layer.weight.grad = torch.zeros(2, 3)
    assert adaptive_clip_grad_([layer.weight]).rate == 0.0
    assert not layer.weight.grad.any()


def test_a_gradient_that_is_not_finite_stays_so():
    layer = nn.Linear(3, 4, bias=False)
    layer.weight.grad = torch.ones(4, 3)
    layer.weight.grad[1, 0], layer.weight.grad[2, 1] = float("nan"), float("inf")
    adaptive_clip_grad_(layer, classifier=None)
    assert torch.isfinite(layer.weight.grad).all(1).tolist() == [True, False, False, True]


def test_a_tensor_given_twice_is_clipped_and_counted_once():
    weight = nn.Parameter(torch.randn(3, 4))
    weight.grad = torch.randn(3, 4)
    assert list(adaptive_clip_grad_([weight, weight]).counts) == ["0"]


def test_originals_of_parametrized_transposed_weights_keep_their_units():
    layer = spectral_norm(nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False))
    original = layer.parametrizations.weight.original
    original.grad = torch.randn_like(original)
    before = original.grad.clone()
    vectors = layer.parametrizations.weight[0]._u.clone()
    adaptive_clip_grad_(layer, classifier=None)
    plain = nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False)
    units = units_of(plain, plain.weight, torch.rand(1, 4, 3, 3) + 0.5)
    expected = by_units(original, before, units, 0.01, 1e-3)
    np.testing.assert_allclose(original.grad.numpy(), expected, rtol=2e-6, atol=1e-9)
    assert torch.equal(layer.parametrizations.weight[0]._u, vectors)  # reading the weight would iterate


def test_the_report_says_which_units_and_how_many():
    model = nn.Sequential(nn.Linear(2, 4, bias=False), nn.Linear(4, 2))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    model[0].weight.grad[1:] = 100.0
    report = adaptive_clip_grad_(model)
    assert report.rates == {"0.weight": 0.75, "1.bias": 0.0}
    assert report.rate == pytest.approx(3 / 5)
    assert str(report).splitlines() == [
        "Adaptive gradient clipping: 60.0% of the units clipped over 1 step.",
        "  0.weight  75.0% of 4",
        "  1.bias     0.0% of 1",
        "  not clipped: 1.weight",
    ]


def test_long_names_leave_the_report_80_columns():
    model = nn.ModuleDict({"a" * 90: nn.Linear(2, 2)})
    fill(model)
    assert max(len(line) for line in str(adaptive_clip_grad_(model, classifier=None)).splitlines()) <= 80


@pytest.mark.parametrize("name", ["clip", "eps"])
@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), True, "0.1"])
def test_bad_numbers(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a positive number, received"):
        adaptive_clip_grad_(nn.Linear(2, 2), **{name: value})


def test_bad_input():
    with pytest.raises(TypeError, match="expects a model or tensors, received str"):
        adaptive_clip_grad_(["weight"])
    with pytest.raises(TypeError, match="expects a model or tensors, received dict"):
        adaptive_clip_grad_([{"params": []}])
    with pytest.raises(ValueError, match=r"classifier='head': it is found by its role.*classifier=model.head"):
        adaptive_clip_grad_(Heads(), classifier="head")
    with pytest.raises(TypeError, match=r"classifier must be a module, received int"):
        adaptive_clip_grad_(Heads(), classifier=[3])
    model = nn.Embedding(4, 3, sparse=True)
    model(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match=r"the gradient of 'weight' is sparse.*sparse=False"):
        adaptive_clip_grad_(model, classifier=None)
