"""`activation=` and `residual=`: torch.nn's layer, then a plain addition, then torch's activation."""

import pytest
import torch
import torch.nn.functional as F
from layer_cases import CASES, LAYOUTS, MAP_CASES, ONE_EACH, gradients, ids, in_double, memory_format, twins
from torch import nn
from torch.testing import assert_close

from normwise import ACTIVATIONS

TORCH = {
    "relu": nn.ReLU(),
    "relu6": nn.ReLU6(),
    "leaky_relu": nn.LeakyReLU(),
    "elu": nn.ELU(),
    "celu": nn.CELU(),
    "selu": nn.SELU(),
    "silu": nn.SiLU(),
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU(approximate="tanh"),
    "mish": nn.Mish(),
    "hardswish": nn.Hardswish(),
    "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(),
    "softplus": nn.Softplus(),
    "softsign": nn.Softsign(),
}


def test_every_activation_is_compared():
    assert TORCH.keys() == ACTIVATIONS.keys()


def check(case, activation, with_residual, training, backend, x):
    """Forward and all gradients in float64, with a fixed random cotangent."""
    ours, theirs = (layer.double().train(training) for layer in twins(case, activation=activation))
    residual = torch.randn(case.shape, dtype=torch.float64, requires_grad=True) if with_residual else None
    with backend():
        y = ours(x, residual)
    z = theirs(x) if residual is None else theirs(x) + residual
    y_true = z if activation is None else TORCH[activation](z)
    assert_close(y, y_true, rtol=1e-10, atol=1e-10)
    cotangent = torch.randn(case.shape)
    extra = [x] if residual is None else [x, residual]
    found = gradients(y, [*extra, *ours.parameters()], cotangent)
    expected = gradients(y_true, [*extra, *theirs.parameters()], cotangent)
    assert_close(found, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("with_residual", [False, True], ids=["", "residual"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("case", ONE_EACH, ids=ids)
def test_every_activation_on_every_layer(case, activation, with_residual, backend):
    # Wide enough to pass every kink: 0, 3 and 6.
    x = (3 * torch.randn(case.shape, dtype=torch.float64)).requires_grad_()
    check(case, activation, with_residual, True, backend, x)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_residual_with_every_option(case, activation, training, backend):
    x = torch.randn(case.shape, dtype=torch.float64, requires_grad=True)
    check(case, activation, True, training, backend, x)


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "strided"])
@pytest.mark.parametrize("case", [case for case in MAP_CASES if case.rank == 2], ids=ids)
def test_residual_of_another_layout(case, layout, backend):
    """The output lies as the input does, whatever the residual does."""
    layer = case.build(activation="silu")
    values, residual = torch.randn(case.shape), LAYOUTS[layout](torch.randn(case.shape))
    with backend():
        expected = layer(values, residual.contiguous())
        for name in ("contiguous", "channels_last"):
            y = layer(LAYOUTS[name](values), residual)
            assert y.is_contiguous(memory_format=memory_format(name))
            assert_close(y, expected)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_narrow_epilogue(case, dtype, activation, backend):
    """Rounded at most three times: after the normalization, the addition and the activation."""
    ours, theirs = twins(case, activation=activation)
    x, residual = torch.randn(case.shape).to(dtype), torch.randn(case.shape).to(dtype)
    with backend():
        y = ours(x, residual)
    truth = TORCH[activation](in_double(theirs)(x.double()) + residual.double())
    assert y.dtype == dtype
    # Each rounding is half a unit of values up to 8; the activations' slopes stay below 1.2.
    assert_close(y.double(), truth, rtol=3 * torch.finfo(dtype).eps, atol=3 * 4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_narrow_epilogue_has_the_layers_gradients(case, backend):
    ours, theirs = twins(case, activation="silu")
    ours.bfloat16()
    oracle = in_double(theirs.bfloat16())
    x, residual = (torch.randn(case.shape).bfloat16().requires_grad_() for _ in range(2))
    wide = [t.detach().double().requires_grad_() for t in (x, residual)]
    with backend():
        y = ours(x, residual)
    y_true = F.silu(oracle(wide[0]) + wide[1])
    cotangent = torch.randn(case.shape).bfloat16()
    found = gradients(y, [x, residual, *ours.parameters()], cotangent)
    expected = gradients(y_true, [*wide, *oracle.parameters()], cotangent)
    for tensor, grad, truth in zip((x, residual, *ours.parameters()), found, expected, strict=True):
        assert grad.dtype == tensor.dtype
        # A few roundings of bf16 (2^-9 each) on terms of the size of the largest, which partly cancel.
        assert_close(grad.double(), truth, rtol=2**-6, atol=2**-7 * truth.abs().max().item())


def test_the_activation_is_not_applied_in_place(backend):
    for case in ONE_EACH:
        x = torch.randn(case.shape)
        residual = torch.randn(case.shape)
        copies = x.clone(), residual.clone()
        with backend():
            case.build(activation="relu")(x, residual)
        assert torch.equal(x, copies[0])
        assert torch.equal(residual, copies[1])
