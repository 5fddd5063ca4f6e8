"""One precision on every way: narrow input is computed in fp32, and the result is rounded once."""

import contextlib

import numpy as np
import pytest
import torch

import normwise as nw
from normwise import use_backend
from normwise.backends import cpu

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
#: Half a unit in the last place, relative to the value.
HALF_A_STEP = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
FP32 = 2.0**-23
#: Calls whose time is the host's alone, and calls that are large enough for every kernel and operator.
SHAPES = {"small": (8, 6, 4), "large": (32, 64, 40)}
CHANNELS_AT = {"rms rows": -1, "layer rows": -1}
WAYS = ("automatic", "cpu", "reference", "no kernels", "torch.func", "compiled")

#: How each layer is made for C channels, and the axes of its statistics in [N, C, L].
LAYERS = {
    "batch": (lambda c, **o: nw.BatchNorm1d(c, affine=False, **o), (0, 2)),
    "ghost": (lambda c, **o: nw.GhostBatchNorm1d(c, affine=False, ghost_size=64, **o), (0, 2)),
    "instance": (lambda c, **o: nw.InstanceNorm1d(c, track_running_stats=True, **o), (2,)),
    "group": (lambda c, **o: nw.GroupNorm(1, c, affine=False, **o), (1, 2)),
    "planes": (lambda c, **o: nw.GroupNorm(c, c, affine=False, **o), (2,)),
    "layer rows": (lambda c, **o: nw.LayerNorm(c, elementwise_affine=False, **o), (1,)),
    "rms rows": (lambda c, **o: nw.RMSNorm(c, eps=1e-5, elementwise_affine=False, **o), (1,)),
    "pixels": (lambda c, **o: nw.LayerNorm2d(c, eps=1e-5, **o), (1,)),
}


def data(shape, dtype, mean):
    """Values of deviation 1 around ``mean``, as the narrow type holds them."""
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) + mean).to(dtype)


def by_the_book(name, x, eps):
    """Output and statistics in float64."""
    axes = LAYERS[name][1]
    mean = np.zeros((1, 1, 1)) if name == "rms rows" else x.mean(axes, keepdims=True)
    var = ((x - mean) ** 2).mean(axes, keepdims=True)
    return (x - mean) / np.sqrt(var + eps), mean, var


def called(way, layer, x, graph, **options):
    """The layer's output on one of the ways."""
    x = x.clone().requires_grad_(graph)
    with torch.set_grad_enabled(graph):
        if way in ("cpu", "reference"):
            with use_backend(way):
                return layer(x, **options)
        if way == "torch.func":
            buffers = dict(layer.named_buffers())
            return torch.func.vmap(
                lambda x, options, buffers: torch.func.functional_call(layer, buffers, (x,), options), (0, 0, None)
            )(x[None], {k: v[None] if isinstance(v, torch.Tensor) else v for k, v in options.items()}, buffers)[0]
        if way == "compiled":
            torch.compiler.reset()  # past some recompilations it falls back to eager calls
            return torch.compile(layer, backend="aot_eager")(x, **options)
        return layer(x, **options)


def prepared(name, shape, dtype, mean):
    """The layer, and its input in the layout of rows where it takes rows; a function that brings [N, C, L] back."""
    x = data(shape, dtype, mean)
    layer = LAYERS[name][0](shape[1])
    if name in CHANNELS_AT:
        return layer, x.movedim(1, -1).contiguous(), lambda y: y.movedim(-1, 1)
    return layer, x, lambda y: y


#: A transform does not map over running statistics; compiling takes seconds, and one layer of each kind shows it.
GRID = [
    pytest.param(way, name, id=f"{way}-{name}")
    for way in WAYS
    for name in LAYERS
    if not (way == "torch.func" and name in ("batch", "ghost", "instance"))
    if not (way == "compiled" and name not in ("batch", "layer rows"))
]


@pytest.fixture
def take(monkeypatch):
    """Sees to it that a way is gone, or skips."""

    def take(way):
        if way == "cpu" and cpu.unavailable() is not None:
            pytest.skip(cpu.unavailable())
        if way == "no kernels":
            monkeypatch.setattr(cpu, "serves", lambda x: False)

    return take


@pytest.mark.parametrize("mean", [4.0, 100.0])
@pytest.mark.parametrize("graph", [False, True], ids=["no graph", "graph"])
@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("way", "name"), GRID)
def test_the_output_is_rounded_once(way, name, dtype, size, graph, mean, take):
    take(way)
    kind = DTYPES[dtype]
    layer, x, back = prepared(name, SHAPES[size], kind, mean)
    y = called(way, layer, x, graph)
    assert y.dtype == kind
    exact, means, variances = by_the_book(name, back(x).double().numpy(), layer.eps)
    # In fp32 a value far from zero loses digits to the mean's rounding, a few steps of it.
    lost = 8 * FP32 * (1 + np.abs(means) / np.sqrt(variances + layer.eps)).max()
    off = np.abs(back(y).detach().double().numpy() - exact)
    assert (off <= HALF_A_STEP[kind] * np.abs(exact) * (1 + 2.0**-6) + lost + 1e-7).all(), off.max()
    if hasattr(layer, "running_mean"):
        check_memory(layer, means, variances, LAYERS[name][1], SHAPES[size])


def check_memory(layer, means, variances, axes, shape):
    count = np.prod([shape[axis] for axis in axes])
    mean = 0.1 * means.mean(0).ravel()
    var = 0.9 + 0.1 * variances.mean(0).ravel() * count / (count - 1)
    np.testing.assert_allclose(layer.running_mean.double(), mean, rtol=4 * FP32, atol=4 * FP32)
    np.testing.assert_allclose(layer.running_var.double(), var, rtol=16 * FP32)


@pytest.mark.parametrize("graph", [False, True], ids=["no graph", "graph"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("way", "name"), GRID)
def test_what_follows_the_layer_is_computed_before_the_rounding(way, name, dtype, graph, take):
    """A residual that takes most of the output away: rounded before, the rest would be mostly rounding."""
    take(way)
    kind = DTYPES[dtype]
    layer, x, back = prepared(name, SHAPES["small"], kind, 0.0)
    exact = by_the_book(name, back(x).double().numpy(), layer.eps)[0]
    like_x = torch.from_numpy(exact).movedim(1, -1) if name in CHANNELS_AT else torch.from_numpy(exact)
    residual = -like_x.to(kind).contiguous()
    rest = exact + back(residual).double().numpy()
    y = called(way, layer, x, graph, residual=residual)
    assert y.dtype == kind
    off = np.abs(back(y).detach().double().numpy() - rest)
    assert (off <= HALF_A_STEP[kind] * np.abs(rest) * (1 + 2.0**-6) + 32 * FP32).all(), off.max()


@pytest.mark.parametrize("dtype", DTYPES)
def test_three_hundred_small_batches_find_their_mean(dtype):
    layer, x = nw.BatchNorm1d(10, affine=False), data((64, 10), DTYPES[dtype], 100.7)
    with torch.no_grad():
        for _ in range(300):
            layer(x)
    np.testing.assert_allclose(layer.running_mean.double(), x.double().mean(0), rtol=300 * FP32)


@pytest.mark.parametrize("backend", ["automatic", "reference"])
@pytest.mark.parametrize("make", [nw.EvoNormB0, nw.EvoNormS0])
def test_an_activation_behind_a_response_is_rounded_once(make, backend):
    """The gradients are those of the activation at the response itself, not at its rounding to bf16."""
    torch.manual_seed(0)
    layer = make(4, activation="softplus")
    x, grad_y = torch.randn(3, 4, 5).bfloat16(), torch.randn(3, 4, 5).bfloat16()
    with use_backend(backend) if backend != "automatic" else contextlib.nullcontext():
        found = torch.autograd.grad(layer(x), list(layer.parameters()), grad_y)
        exact = torch.autograd.grad(layer.double()(x.double()), list(layer.parameters()), grad_y.double())
    for got, want in zip(found, exact, strict=True):
        # Terms of size 1 in fp32, 15 of each channel; a rounding of y to bf16 would show as 1e-3.
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)
