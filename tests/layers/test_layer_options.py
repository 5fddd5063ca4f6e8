"""Arguments and states: momentum, affine, tracking, unbatched and empty input, many steps in a row."""

import numpy as np
import pytest
import torch
from layer_cases import CASES, MAP_CASES, Case, gradients, ids, in_double, twins
from torch import nn
from torch.testing import assert_close

import normwise as nw

TRACKING = [case for case in MAP_CASES if case.remembers]
BATCHES = 4


def batches(case, count=BATCHES):
    return [torch.randn(case.shape) * (k + 1) + k for k in range(count)]


def with_options(case, **options):
    return case._replace(options={**case.options, **options})


@pytest.mark.parametrize("momentum", [0.0, 0.1, 0.75, 1.0])
@pytest.mark.parametrize("case", TRACKING, ids=ids)
def test_buffers_after_several_steps_and_then_evaluation(case, momentum, backend):
    ours, theirs = twins(with_options(case, momentum=momentum))
    oracle = in_double(theirs)
    for x in batches(case):
        with backend():
            ours(x)
        oracle(x.double())
    # Recurrences of 4 steps on values up to 20: a few roundings of fp32.
    assert_close(ours.running_mean.double(), oracle.running_mean, rtol=1e-5, atol=1e-6)
    assert_close(ours.running_var.double(), oracle.running_var, rtol=1e-5, atol=1e-6)
    assert ours.num_batches_tracked == BATCHES
    x = torch.randn(case.shape)
    with backend():
        assert_close(ours.eval()(x).double(), oracle.eval()(x.double()), rtol=1e-4, atol=1e-5)


def cumulative(case: Case, data):
    """The average of the batches' means and unbiased variances, in float64 NumPy."""
    tables = [x.double().numpy().reshape(*x.shape[:2], -1) for x in data]
    if case.family == "BatchNorm":
        means = [t.mean((0, 2)) for t in tables]
        variances = [t.transpose(1, 0, 2).reshape(t.shape[1], -1).var(1, ddof=1) for t in tables]
    else:
        means = [t.mean(2).mean(0) for t in tables]
        variances = [t.var(2, ddof=1).mean(0) for t in tables]
    return np.mean(means, 0), np.mean(variances, 0)


@pytest.mark.parametrize("case", TRACKING, ids=ids)
def test_no_momentum_is_a_cumulative_average(case, backend):
    """For InstanceNorm, too, where torch.nn never updates."""
    layer = with_options(case, momentum=None).build()
    data = batches(case)
    for x in data:
        with backend():
            layer(x)
    mean, var = cumulative(case, data)
    np.testing.assert_allclose(layer.running_mean, mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer.running_var, var, rtol=1e-5)
    assert layer.num_batches_tracked == BATCHES
    layer.reset_running_stats()
    assert layer.num_batches_tracked == 0
    with backend():
        layer(data[0])
    np.testing.assert_allclose(layer.running_mean, cumulative(case, data[:1])[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", TRACKING, ids=ids)
def test_evaluation_changes_nothing(case, backend):
    layer = case.build().eval()
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    with backend():
        layer(torch.randn(case.shape) + 3)
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("case", [c for c in TRACKING if c.family == "BatchNorm"], ids=ids)
def test_tracking_switched_off_later(case, training, backend):
    """torch: then training leaves the buffers alone, and evaluation still uses them."""
    ours, theirs = twins(case)
    for layer in (ours, theirs):
        layer.track_running_stats = False
        layer.train(training)
    x = torch.randn(case.shape)
    with backend():
        assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    assert_close(dict(ours.named_buffers()), dict(theirs.named_buffers()))


@pytest.mark.parametrize("eps", [1e-12, 1e-3, 10.0])
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_eps(case, eps, backend):
    ours, theirs = twins(case)
    ours.eps = theirs.eps = eps
    x = torch.randn(case.shape)
    with backend():
        assert_close(ours(x).double(), in_double(theirs)(x.double()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", [c for c in CASES if c.family == "RMSNorm"], ids=ids)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rms_without_eps_is_the_machine_epsilon_of_the_statistics(case, dtype, backend):
    """At 1e-4 the two candidates for eps (fp32's and the input's) give quite different results."""
    layer = case.ours(case.args[0]).to(dtype)
    x = torch.full(case.shape, 1e-4, dtype=dtype)
    eps = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    expected = x.double() / (x.double().square() + eps).sqrt()
    with backend():
        assert_close(layer(x).double(), expected, rtol=torch.finfo(dtype).eps, atol=0.0)


@pytest.mark.parametrize("case", MAP_CASES, ids=ids)
def test_affine_without_bias(case, backend):
    affine = with_options(case, affine=True, bias=False)
    if case.ours is nw.GroupNorm:
        affine = with_options(case, bias=False, affine=True)
    ours, theirs = twins(affine)
    assert ours.bias is None
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = torch.randn(case.shape, dtype=torch.float64, requires_grad=True)
    ours.double(), theirs.double()
    cotangent = torch.randn(case.shape)
    with backend():
        y = ours(x)
    y_true = theirs(x)
    assert_close(y, y_true)
    inputs = [x, ours.weight], [x, theirs.weight]
    assert_close(gradients(y, inputs[0], cotangent), gradients(y_true, inputs[1], cotangent))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("case", [c for c in CASES if c.family == "InstanceNorm"], ids=ids)
def test_unbatched_input(case, training, backend):
    ours, theirs = twins(case)
    oracle = in_double(theirs).train(training)
    x = torch.randn(case.shape[1:])
    residual = torch.randn(case.shape[1:])
    with backend():
        y = ours.train(training)(x)
        with_residual = case.build(activation="relu").train(training)(x, residual)
        batched = case.build(activation="relu").train(training)(x[None], residual[None])
    assert y.shape == x.shape
    assert_close(y.double(), oracle(x.double()), rtol=1e-5, atol=1e-5)
    assert torch.equal(with_residual, batched[0])
    if case.remembers:
        assert_close(ours.running_var.double(), oracle.running_var, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_empty_batch(case, training, backend):
    """No output, zero gradients for the parameters, and nothing is remembered or counted."""
    layer = case.build().train(training)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    x = torch.zeros(0, *case.shape[1:], requires_grad=True)
    with backend():
        y = layer(x)
    assert y.shape == x.shape
    inputs = [x, *layer.parameters()]
    for tensor, grad in zip(inputs, gradients(y, inputs, torch.zeros(x.shape)), strict=True):
        assert_close(grad, torch.zeros_like(tensor))
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_empty_space(backend):
    for layer in (nw.BatchNorm2d(3), nw.GroupNorm(1, 3), nw.InstanceNorm2d(3, track_running_stats=True)):
        with backend():
            assert layer(torch.zeros(2, 3, 0, 4)).shape == (2, 3, 0, 4)
        if not isinstance(layer, nn.GroupNorm):
            assert layer.num_batches_tracked == 0


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_constant_input_gives_the_bias(case, backend):
    """Variance 0: eps decides, and nothing is infinite, forward or backward."""
    if case.family == "RMSNorm":
        return
    ours, _ = twins(case)
    x = torch.full(case.shape, 3.7, requires_grad=True)
    with backend():
        y = ours(x)
    bias = getattr(ours, "bias", None)
    bias = torch.zeros(1) if bias is None else bias
    bias = bias if case.family == "LayerNorm" else bias.reshape((-1,) + (1,) * case.rank)
    # The rounding of the mean (2e-7) is divided by sqrt(eps) (3e-3).
    assert_close(y, bias.expand_as(y), rtol=0.0, atol=5e-4)
    assert torch.isfinite(gradients(y, [x], torch.randn(case.shape))[0]).all()


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_fp16_does_not_overflow_inside(case, backend):
    """Squares of 1e4 are beyond fp16; the results are not."""
    ours, theirs = twins(case)
    x = (torch.randn(case.shape) * 1e4).half().requires_grad_()
    with backend():
        y = ours(x)
    # One rounding of fp16 (2^-11) of values up to 8.
    assert_close(y.double(), in_double(theirs)(x.double()), rtol=1e-3, atol=1e-3)
    assert torch.isfinite(gradients(y, [x], torch.randn(case.shape))[0]).all()


MIXTURES = [(torch.float64, torch.float32), (torch.float32, torch.bfloat16), (torch.float32, torch.float64)]


@pytest.mark.parametrize(("dtype", "parameter_dtype"), MIXTURES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_parameters_of_another_dtype(case, dtype, parameter_dtype, backend):
    """torch refuses some of these mixtures; here the input decides, and every gradient has its tensor's dtype."""
    ours, theirs = (layer.to(parameter_dtype) for layer in twins(case))
    x = torch.randn(case.shape).to(dtype).requires_grad_()
    with backend():
        y = ours(x)
    assert y.dtype == dtype
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    assert_close(y.double(), in_double(theirs)(x.double()), rtol=tolerance, atol=4 * tolerance)
    inputs = [x, *ours.parameters()]
    for tensor, grad in zip(inputs, gradients(y, inputs, torch.randn(case.shape)), strict=True):
        assert grad.dtype == tensor.dtype
