"""EvoNorm-B0 and -S0 against the equations of the authors' TPU code in NumPy."""

import numpy as np
import one_step
import pytest
import torch
from torch.testing import assert_close

import normwise as nw


def s0(channels, **options):
    return nw.EvoNormS0(channels, 3, **options)


LAYERS = {"B0": nw.EvoNormB0, "S0": s0}


def over_channels(parameter, x):
    return parameter.detach().numpy().reshape(-1, *[1] * (x.ndim - 2))


def affine(layer, y):
    return y * over_channels(layer.weight, y) + over_channels(layer.bias, y)


def equation_b0(layer, x, var=None):
    space = tuple(range(2, x.ndim))
    batch = x.var((0, *space), keepdims=True) if var is None else var.reshape(1, -1, *[1] * len(space))
    instance = x.var(space, keepdims=True)
    v = over_channels(layer.v, x)
    return affine(layer, x / np.maximum(np.sqrt(batch + layer.eps), v * x + np.sqrt(instance + layer.eps)))


def equation_s0(layer, x):
    grouped = x.reshape(x.shape[0], layer.num_groups, -1)
    std = np.sqrt(grouped.var(2, keepdims=True) + layer.eps)
    std = np.broadcast_to(std, grouped.shape).reshape(x.shape)
    return affine(layer, x / (1 + np.exp(-over_channels(layer.v, x) * x)) / std)


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_b0_agrees_with_the_paper_over_steps(rank):
    layer = one_step.trained(nw.EvoNormB0(6, momentum=0.3, dtype=torch.float64))
    mean, var = np.zeros(6), np.ones(6)
    for seed in range(3):
        x = one_step.data(one_step.SHAPES.get(rank, (8, 6)), seed, mean=seed, std=seed + 1)
        np.testing.assert_allclose(layer(x).detach(), equation_b0(layer, x.numpy()), rtol=1e-10, atol=1e-12)
        axes = (0, *range(2, x.dim()))
        mean += 0.3 * (x.numpy().mean(axes) - mean)
        var += 0.3 * (x.numpy().var(axes, ddof=1) - var)
    np.testing.assert_allclose(layer.running_mean, mean, rtol=1e-12)
    np.testing.assert_allclose(layer.running_var, var, rtol=1e-12)
    expected = equation_b0(layer, x.numpy(), var)
    np.testing.assert_allclose(layer.eval()(x).detach(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_s0_agrees_with_the_paper(rank, groups):
    layer = one_step.trained(nw.EvoNormS0(6, groups, dtype=torch.float64))
    x = one_step.data(one_step.SHAPES[rank])
    for training in (True, False):
        y = layer.train(training)(x).detach()
        np.testing.assert_allclose(y, equation_s0(layer, x.numpy()), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("order", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
@pytest.mark.parametrize("name", LAYERS)
def test_derivatives_by_finite_differences(name, order, training):
    layer = one_step.trained(LAYERS[name](3, dtype=torch.float64)).train(training)
    one_step.derivatives_agree_with_finite_differences(layer, (3, 3, 3, 2), order)


def test_s0_with_one_value_is_swish_over_the_deviation():
    x = one_step.data((2, 6, 4, 4))
    std = (x.view(2, -1).var(1, correction=0) + 1e-5).sqrt().view(2, 1, 1, 1)
    assert_close(nw.EvoNormS0(6, 1, dtype=torch.float64)(x), torch.nn.functional.silu(x) / std)


def test_b0_divides_by_the_batch_s_deviation_where_that_is_the_larger():
    """v very negative: for positive x the maximum is the first scale, which evaluation takes from the memory."""
    layer = nw.EvoNormB0(6, dtype=torch.float64)
    torch.nn.init.constant_(layer.v, -100.0)
    x = one_step.data((4, 6, 5, 5)).abs() + 0.2
    layer.running_var.fill_(4.0)
    assert_close(layer.eval()(x), x / (4.0 + layer.eps) ** 0.5)
    assert_close(layer.train()(x), x / (x.var((0, 2, 3), correction=0).view(1, -1, 1, 1) + layer.eps).sqrt())


def test_groups():
    assert [nw.EvoNormS0(c).num_groups for c in (1, 7, 31, 32, 48, 64, 37 * 2)] == [1, 7, 31, 32, 24, 32, 2]
    with pytest.raises(ValueError, match=r"\(num_groups=4\): 6 channels are not divisible.*divisors of 6: 1, 2, 3, 6"):
        nw.EvoNormS0(6, 4)


def test_one_value_per_pool():
    x = torch.randn(1, 6, 1, 1)
    with pytest.raises(ValueError, match="EvoNormB0: Expected more than 1 value per channel when training"):
        nw.EvoNormB0(6)(x)
    with pytest.raises(ValueError, match="EvoNormS0: expected more than 1 value in each group"):
        nw.EvoNormS0(6, 6)(x)
    assert nw.EvoNormS0(6, 2)(x).isfinite().all()
    assert nw.EvoNormB0(6).eval()(x).isfinite().all()


def test_wrong_input_is_refused():
    for make in LAYERS.values():
        with pytest.raises(ValueError, match="expected 6 channels in dimension 1"):
            make(6)(torch.randn(2, 5, 4, 4))
        with pytest.raises(ValueError, match=r"expects \[N, C, \*space\], received 1-D"):
            make(6)(torch.randn(6))
        with pytest.raises(ValueError, match="residual must have the input's shape"):
            make(6)(torch.randn(2, 6, 4, 4), torch.randn(2, 6, 1, 1))
        with pytest.raises(TypeError, match="mask must be a boolean tensor"):
            make(6)(torch.randn(2, 6, 4, 4), mask=torch.ones(2, 4, 4))
        with pytest.raises(ValueError, match="either mask or lengths, not both"):
            make(6)(torch.randn(2, 6, 4), mask=torch.ones(2, 4).bool(), lengths=torch.tensor([4, 4]))


def test_fresh_parameters_and_repr():
    fresh = {name: t.unique().tolist() for name, t in nw.EvoNormS0(6).state_dict().items()}
    assert fresh == {"weight": [1], "bias": [0], "v": [1]}
    state = nw.EvoNormB0(6).state_dict()
    assert list(state) == ["weight", "bias", "v", "running_mean", "running_var", "num_batches_tracked"]
    assert repr(nw.EvoNormS0(6, 2)) == "EvoNormS0(6, num_groups=2, eps=1e-05, affine=True)"
    assert list(nw.EvoNormS0(6, affine=False).state_dict()) == ["v"]
    layer = one_step.trained(nw.EvoNormB0(6))
    layer.reset_parameters()
    assert_close(layer.state_dict(), state)
