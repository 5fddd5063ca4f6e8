"""Spectral normalization against numpy's SVD and torch's parametrization; dtypes, zero weights, errors."""

import copy

import numpy as np
import pytest
import torch
from spectral_cases import norm_of, numpy_matrix, raw, step, vectors
from torch import nn
from torch.nn.utils import parametrizations as torchs
from torch.testing import assert_close

from normwise.weights import bake, spectral_norm

LAYERS = {
    "linear": lambda: nn.Linear(7, 5),
    "one-row": lambda: nn.Linear(6, 1),
    "one-column": lambda: nn.Linear(1, 6),
    "conv1d": lambda: nn.Conv1d(4, 6, 3),
    "conv2d-grouped": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "conv3d": lambda: nn.Conv3d(2, 5, 2),
    "transposed1d": lambda: nn.ConvTranspose1d(4, 6, 3),
    "transposed2d-grouped": lambda: nn.ConvTranspose2d(4, 6, 3, groups=2),
    "transposed3d": lambda: nn.ConvTranspose3d(3, 2, 2),
}
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


@every_layer
def test_right_after_construction_the_norm_is_one_in_evaluation(make):
    layer = spectral_norm(make()).eval()
    top = np.linalg.svd(numpy_matrix(layer.weight, layer), compute_uv=False)[0]
    # Power iteration approaches σ from below; 50 iterations on small matrices leave well under 1 %.
    assert 1 - 1e-6 < top < 1.01


@every_layer
def test_converges_to_numpys_singular_value(make):
    layer = spectral_norm(make().double(), n_power_iterations=300)
    step(layer)
    expected = numpy_matrix(raw(layer), layer)
    expected = expected / np.linalg.svd(expected, compute_uv=False)[0]
    np.testing.assert_allclose(numpy_matrix(layer.weight, layer), expected, rtol=1e-9, atol=1e-12)


@every_layer
def test_follows_torchs_iteration_step_by_step(make):
    """One access per step is what torch does, too: the same u, v and weights in each step, and gradients."""
    theirs = torchs.spectral_norm(make().double())
    ours = spectral_norm(make().double())
    ours.load_state_dict(theirs.state_dict())
    for _ in range(4):
        noise = torch.randn_like(raw(ours))
        weights, grads = [], []
        for layer in (ours, theirs):
            with torch.no_grad():
                raw(layer).add_(noise)
            weights.append(layer.weight)
            grads.append(torch.autograd.grad(weights[-1], raw(layer), noise)[0])
        assert_close(vectors(ours), vectors(theirs), rtol=1e-12, atol=1e-12)
        assert_close(*grads, rtol=1e-10, atol=1e-12)
        assert_close(*weights, rtol=1e-12, atol=1e-12)


def test_state_dict_has_torchs_names_and_goes_both_ways():
    ours, theirs = spectral_norm(nn.Conv2d(3, 4, 3)), torchs.spectral_norm(nn.Conv2d(3, 4, 3))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = torch.randn(2, 3, 5, 5)
    theirs.load_state_dict(ours.state_dict())
    assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-6, atol=1e-6)
    third = torchs.spectral_norm(nn.Conv2d(3, 4, 3))
    ours.load_state_dict(third.state_dict())
    assert_close(ours(x), third.eval()(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("operator", [False, True])
def test_gradient_holds_the_vectors_constant(operator):
    """dσ/dW = u vᵀ: by finite differences in evaluation, where the stored vectors are constants."""
    layer = spectral_norm(nn.Linear(4, 3).double()).eval()
    if operator:  # the largest singular value itself is differentiable where it is simple
        layer = spectral_norm(nn.Conv1d(3, 2, 3).double(), operator=True).eval()
    weight = raw(layer).detach().clone().requires_grad_()
    norm = norm_of(layer)
    assert torch.autograd.gradcheck(norm, weight, atol=1e-6)
    if not operator:
        assert torch.autograd.gradgradcheck(norm, weight)
        u, v = vectors(layer)
        sigma = u @ weight @ v
        cotangent = torch.randn_like(weight)
        by_hand = cotangent / sigma - (cotangent * weight).sum() / sigma**2 * torch.outer(u, v)
        assert_close(torch.autograd.grad(norm(weight), weight, cotangent)[0], by_hand.detach())


def test_zero_weight_stays_zero_and_recovers():
    layer = spectral_norm(nn.Linear(4, 3, bias=False))
    with torch.no_grad():
        raw(layer).zero_()
    weight = layer.weight
    cotangent = torch.randn(3, 4)
    assert_close(weight, torch.zeros(3, 4), rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(weight, raw(layer), cotangent)
    assert_close(gradient, cotangent, rtol=0, atol=0)  # the identity's: no factor 1 / eps
    with torch.no_grad():
        raw(layer).copy_(torch.diag(torch.tensor([1.0, 2.0, 3.0]))[:, [0, 1, 2, 0]])
    for _ in range(60):
        step(layer, 0.0)
        with torch.no_grad():
            raw(layer).mul_(1.0 + 1e-3)
        layer.weight  # noqa: B018
    assert np.linalg.svd(layer.weight.detach().numpy(), compute_uv=False)[0] == pytest.approx(1.0, abs=1e-4)


def test_zero_weight_at_construction_is_finite():
    layer = nn.Conv2d(2, 3, 3)
    nn.init.zeros_(layer.weight)
    layer = spectral_norm(layer)
    for mode in (True, False):
        assert_close(layer.train(mode).weight, torch.zeros(3, 2, 3, 3), rtol=0, atol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_was_not_finite_leaves_no_trace_in_the_vectors(value):
    layer = spectral_norm(nn.Linear(5, 5))
    good = raw(layer).detach().clone()
    with torch.no_grad():
        raw(layer)[1, 2] = value
    assert not layer.weight.isfinite().all()
    assert all(vector.isfinite().all() for vector in vectors(layer))
    with torch.no_grad():
        raw(layer).copy_(good)
    for _ in range(200):
        with torch.no_grad():
            raw(layer).mul_(1.001)
        layer.weight  # noqa: B018
    assert np.linalg.svd(layer.weight.detach().numpy(), compute_uv=False)[0] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_computes_in_fp32_at_least(dtype):
    layer = nn.Conv2d(8, 6, 3).to(dtype)
    weight = layer.weight.detach().double().flatten(1).numpy()
    layer = spectral_norm(layer, n_power_iterations=300)
    with torch.no_grad():
        raw(layer).mul_(2)
    expected = weight / np.linalg.svd(weight, compute_uv=False)[0]
    assert layer.weight.dtype == dtype
    assert norm_of(layer)._u.dtype == torch.promote_types(dtype, torch.float32)
    # Half a unit in the last place of the dtype, or fp32's rounding over sums of 72.
    tolerance = {torch.bfloat16: 2**-8, torch.float16: 2**-11, torch.float32: 2e-6, torch.float64: 1e-12}[dtype]
    np.testing.assert_allclose(layer.weight.detach().double().flatten(1).numpy(), expected, rtol=tolerance, atol=1e-7)


@pytest.mark.parametrize("convert", [nn.Module.half, nn.Module.bfloat16], ids=["half", "bfloat16"])
def test_vectors_stay_fp32_when_the_model_is_narrowed(convert):
    layer = spectral_norm(nn.Linear(8, 8))
    before = vectors(layer)
    convert(layer)
    assert_close(vectors(layer), before, rtol=0, atol=0)
    assert layer.double().weight.dtype == norm_of(layer)._u.dtype == torch.float64


@pytest.mark.parametrize("operator", [False, True])
def test_autocast_does_not_narrow_the_norm(operator):
    layer = spectral_norm(nn.Conv2d(4, 4, 3), operator=operator)
    step(layer)
    twin = copy.deepcopy(layer)
    with torch.autocast("cpu", torch.bfloat16):
        weight = layer.weight
        assert layer(torch.randn(1, 4, 5, 5)).dtype == torch.bfloat16
    assert_close(weight, twin.weight, rtol=0, atol=0)


def test_options():
    layer = spectral_norm(nn.Linear(3, 4), dim=-1)
    assert norm_of(layer)._u.shape == (3,)
    assert "n_power_iterations=1, eps=1e-12, dim=1" in repr(layer)
    bias = spectral_norm(nn.Bilinear(2, 3, 4), "weight")
    assert bias.weight.shape == (4, 2, 3)


def test_assigning_sets_the_weight_before_normalization():
    layer = spectral_norm(nn.Linear(3, 3))
    layer.weight = 5 * torch.eye(3)
    assert_close(raw(layer).detach(), 5 * torch.eye(3))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.zeros(3), {}), TypeError, "expects a module such as nn.Conv2d, received Tensor"),
        ((nn.ReLU(), {}), ValueError, "ReLU has no parameter or buffer named 'weight'; it has: none"),
        ((nn.Linear(2, 2), {"name": "wieght"}), ValueError, "named 'wieght'; it has: bias, weight"),
        (
            (nn.Linear(2, 2), {"name": "bias", "operator": True}),
            ValueError,
            r"1-D \[2\], which is no linear map: leave op",
        ),
        ((nn.Linear(2, 2), {"n_power_iterations": 0}), ValueError, "must be 1, 2, ..., received 0"),
        ((nn.Linear(2, 2), {"dim": 2}), ValueError, r"dim must be in \[-2, 1\].*received 2"),
        ((nn.Linear(2, 2), {"eps": float("nan")}), ValueError, "eps must be 0 or more, received nan"),
        ((nn.Linear(2, 2), {"input_size": 3}), ValueError, "add operator=True"),
        ((nn.Linear(2, 2), {"operator": True, "dim": 0}), ValueError, "leave n_power_iterations and dim out"),
        ((nn.Embedding(2, 2), {"operator": True}), TypeError, "received Embedding; apply it to the layers inside"),
        ((nn.LazyLinear(2), {}), ValueError, "run one forward first"),
        ((nn.Linear(2, 2, dtype=torch.complex64), {"operator": True}), TypeError, "floating.*received torch.complex64"),
        ((nn.Conv2d(2, 2, 3, padding_mode="reflect"), {"operator": True}), ValueError, "not 'reflect'"),
        (
            (nn.Conv2d(2, 2, 3, padding=2, padding_mode="circular"), {"operator": True}),
            ValueError,
            "circular padding of 4 in dimension 0 exceeds .* = 2",
        ),
        ((nn.Conv2d(2, 2, 3), {"operator": True, "input_size": (4,)}), ValueError, r"2 positive integer.*\(4,\)"),
    ],
)
def test_errors(arguments, error, message):
    module, options = arguments
    with pytest.raises(error, match=message):
        spectral_norm(module, **options)


def test_a_bias_is_divided_by_its_length():
    ours, theirs = (norm(nn.Linear(3, 4).double(), "bias") for norm in (spectral_norm, torchs.spectral_norm))
    ours.load_state_dict(theirs.state_dict())
    assert_close(ours.bias, theirs.bias)
    cotangent = torch.randn(4, dtype=torch.float64)
    for layer in (ours, theirs):
        layer.bias.backward(cotangent)
    originals = [layer.parametrizations.bias.original for layer in (ours, theirs)]
    assert_close(originals[0].grad, originals[1].grad)
    with torch.no_grad():
        originals[0].zero_()
    assert not ours.bias.any()
    assert torch.autograd.grad(ours.bias.sum(), originals[0])[0].tolist() == [1.0] * 4


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_weights(dtype):
    layer = spectral_norm(nn.Linear(5, 4, dtype=dtype), n_power_iterations=200)
    step(layer)
    weight, top = raw(layer).detach(), np.linalg.svd(raw(layer).detach().numpy(), compute_uv=False)[0]
    for mode in (True, False):
        assert_close(layer.train(mode).weight, weight / top, rtol=1e-5, atol=1e-6)
    assert_close(spectral_norm(nn.Linear(5, 4, dtype=dtype)).eval().weight.abs().max() > 0, torch.tensor(True))


def test_the_gradient_of_a_complex_weight_is_that_with_constant_vectors():
    layer = spectral_norm(nn.Linear(5, 4, dtype=torch.complex128), n_power_iterations=200)
    weight, u, v = raw(layer).detach().clone(), *vectors(layer)

    def normalized(w):
        return torch.view_as_real(w / torch.dot(u.conj(), torch.mv(w, v)).real)

    cotangent = torch.randn(4, 5, 2, dtype=torch.float64)
    torch.view_as_real(layer.eval().weight).backward(cotangent)
    expected = torch.zeros(4, 5, dtype=torch.complex128)
    for i in range(4):
        for j in range(5):
            for unit in (1, 1j):
                delta = torch.zeros(4, 5, dtype=torch.complex128)
                delta[i, j] = 1e-6 * unit
                slope = (normalized(weight + delta) - normalized(weight - delta)) / 2e-6
                expected[i, j] += unit * (slope * cotangent).sum()
    assert_close(raw(layer).grad, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("make", [lambda: nn.Linear(5, 4), lambda: nn.ConvTranspose2d(3, 4, 3)])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_checkpoints_of_torchs_older_function_load(make):
    old = nn.utils.spectral_norm(make(), n_power_iterations=200)
    x = torch.randn(2, 5) if isinstance(old, nn.Linear) else torch.randn(2, 3, 4, 4)
    old(x)
    state = {f"net.0.{name}": value for name, value in old.state_dict().items()}
    model = nn.Sequential(spectral_norm(make()))
    model = nn.ModuleDict({"net": copy.deepcopy(model)})
    assert str(model.load_state_dict(state)) == "<All keys matched successfully>"
    layer = model["net"][0]
    assert_close(vectors(layer), (old.weight_u, old.weight_v))
    assert torch.equal(raw(layer), old.weight_orig)
    assert_close(layer.eval()(x), old.eval()(x), rtol=0.01, atol=0.01)  # evaluation finds the norm itself within 1 %
    of_operator = spectral_norm(make(), operator=True)
    of_operator.load_state_dict(old.state_dict())
    assert torch.equal(raw(of_operator), old.weight_orig)
    with pytest.raises(RuntimeError, match="size mismatch"):
        layer.load_state_dict({**old.state_dict(), "weight_orig": torch.zeros(1, 1)})


def test_a_checkpoint_from_before_the_right_vector_was_kept():
    layer, other = spectral_norm(nn.Linear(5, 4)), spectral_norm(nn.Linear(5, 4))
    (u, v), weight = vectors(other), raw(other).detach()
    state = {"weight_orig": weight, "weight_u": u, "weight": weight, "bias": other.bias.detach()}
    layer.load_state_dict(state)
    assert_close(vectors(layer), (u, v), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("operator", [False, True])
def test_a_baked_layer_has_no_hook_left(operator):
    layer = spectral_norm(spectral_norm(nn.Linear(5, 4), operator=operator), "bias")
    assert len(layer._load_state_dict_pre_hooks) == 2
    bake(layer)
    assert len(layer._load_state_dict_pre_hooks) == 0


def test_without_its_parametrization_a_layer_reads_no_old_names():
    layer = spectral_norm(nn.Linear(5, 4))
    nn.utils.parametrize.remove_parametrizations(layer, "weight")
    with pytest.raises(RuntimeError, match=r"Unexpected key.*weight_orig"):
        layer.load_state_dict({**layer.state_dict(), "weight_orig": torch.zeros(4, 5)})


def test_vectors_are_reset_to_where_the_iteration_can_start():
    layer = spectral_norm(nn.Linear(5, 4), n_power_iterations=50)
    for buffer in norm_of(layer).buffers():
        buffer.fill_(float("nan"))
    norm_of(layer).reset_parameters()
    top = np.linalg.svd(raw(layer).detach().numpy(), compute_uv=False)[0]
    assert_close(layer.weight, raw(layer) / top, rtol=1e-3, atol=1e-3)
