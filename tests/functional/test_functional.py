"""normwise.functional against the layers and the equations."""

import copy
import inspect

import numpy as np
import pytest
import torch
from functional_cases import (
    ALPHA,
    BIAS,
    EVERY,
    MIX,
    PLAIN,
    POOLED,
    RUNNING,
    SHAPE,
    STYLE,
    WEIGHT,
    WITH_LAYER,
    C,
    N,
    V,
    data,
    outputs,
    with_values,
)
from torch import nn
from torch.testing import assert_close

import normwise as nw
import normwise.functional as nf
from normwise import Moments


@pytest.mark.parametrize("name", WITH_LAYER)
def test_computes_what_the_layer_computes(name, backend):
    function, layer = {**POOLED, **PLAIN}[name]
    layer, x, residual = with_values(layer), data(), data(1)
    with backend():
        found, expected = function(x), layer(x)
        assert_close(found[0] if name in POOLED else found, expected)
        found = outputs(name)(x, activation="silu", residual=residual)
        assert_close(found, nn.functional.silu(copy.deepcopy(layer)(x) + residual), rtol=1e-6, atol=1e-6)


def test_filter_response_norm_is_the_layer_before_its_threshold(backend):
    layer = nw.FilterResponseNorm2d(C).double()
    with torch.no_grad():
        layer.weight.copy_(WEIGHT), layer.bias.copy_(BIAS)
        for name, parameter in layer.named_parameters():
            if name not in ("weight", "bias"):
                parameter.fill_(-1e9)  # a threshold below everything
    with backend():
        assert_close(outputs("filter-response")(data()), layer(data()))


def test_adaptive_instance_norm_is_the_layer(backend):
    with backend():
        expected = nw.AdaptiveInstanceNorm()(data(), STYLE)
        assert_close(nf.adaptive_instance_norm(data(), STYLE), expected)
        assert_close(nf.adaptive_instance_norm(data(), nf.style_statistics(STYLE)), expected)
        mean, std = nf.style_statistics(STYLE)
        assert_close(nf.instance_norm(data(), None, std, mean)[0], expected)


@pytest.mark.parametrize("name", [name for name in POOLED if name not in ("group", "instance")])
def test_given_statistics_are_the_layers_evaluation(name, backend):
    layer = with_values(POOLED[name][1]).eval()
    layer.running_mean.copy_(RUNNING.mean), layer.running_var.copy_(RUNNING.var)
    with backend():
        y, statistics = POOLED[name][0](data(), RUNNING)
        assert_close(y, layer(data()))
    assert_close(statistics.mean, RUNNING.mean.unsqueeze(0))
    assert_close(statistics.var, RUNNING.var.unsqueeze(0))


@pytest.mark.parametrize("momentum", [0.1, 1.0, None])
@pytest.mark.parametrize("name", ["batch", "ghost", "switchable", "batch-instance", "instance"])
def test_running_statistics_are_the_layers_buffers(name, momentum, backend):
    function, layer = POOLED[name]
    layer = with_values(layer)
    layer.momentum = momentum
    running = nf.initial_statistics(C, dtype=torch.float64)
    for seed in range(3):
        before = [t.clone() for t in running]
        with backend():
            layer(data(seed))
            new = nf.update_statistics(running, function(data(seed))[1], momentum)
        assert_close(list(running), before, rtol=0, atol=0)  # a new value, not a change
        running = new
    assert_close(list(running), [layer.running_mean, layer.running_var, layer.num_batches_tracked])


def test_fresh_running_statistics_are_a_fresh_layers():
    layer = nw.BatchNorm2d(C)
    running = nf.initial_statistics(C)
    assert_close(list(running), [layer.running_mean, layer.running_var, layer.num_batches_tracked])
    assert nf.initial_statistics(C, dtype=torch.float64).var.dtype == torch.float64
    new = nf.update_statistics(running, nf.batch_norm(data())[1])
    assert (new.mean.dtype, new.batches.dtype) == (torch.float32, torch.int64)


def test_an_empty_batch_changes_nothing():
    for x, options in ((data()[:0], {}), (data(), {"mask": torch.zeros(N, 5, 3).bool()})):
        new = nf.update_statistics(RUNNING, nf.batch_norm(x, **options)[1])
        assert_close(list(new), list(RUNNING), rtol=0, atol=0)


def test_masked_statistics_are_those_of_the_remaining_values(backend):
    mask = torch.rand(N, 5, 3, generator=torch.Generator().manual_seed(1)) < 0.6
    kept = data().movedim(1, -1)[mask]
    with backend():
        y, batch = nf.batch_norm(data(), mask=mask)
    assert_close(batch.mean[0], kept.mean(0))
    assert_close(batch.var[0], kept.var(0, correction=0))
    assert batch.count.flatten()[0] == len(kept)
    assert_close(y.movedim(1, -1)[mask], (kept - kept.mean(0)) / (kept.var(0, correction=0) + 1e-5).sqrt())


@pytest.mark.parametrize("name", ["batch", "instance", "group"])
def test_statistics_given_back_in_reproduce_the_output(name, backend):
    """Collect, then apply: tiles of a map by the statistics of the whole leave no seam."""
    function, x = POOLED[name][0], data()
    with backend():
        y, statistics = function(x)
        tiles = [function(tile, statistics)[0] for tile in x.split(2, dim=2)]
    assert_close(torch.cat(tiles, dim=2), y)


def test_statistics_of_tiles_merge_to_those_of_the_whole():
    tables = [nf.measure(tile) for tile in data().split(2, dim=2)]
    whole = tables[0].merge(tables[1]).merge(tables[2])
    assert_close(list(whole[:2]), list(nf.measure(data())[:2]))


def test_weights_of_each_sample_are_conditional_normalization(backend):
    layer, labels = nw.ConditionalInstanceNorm2d(C, 3).double(), torch.tensor([0, 2, 1, 2])
    with torch.no_grad():
        layer.weight.normal_(), layer.bias.normal_()
    with backend():
        y, _ = nf.instance_norm(data(), None, layer.weight[labels], layer.bias[labels])
        assert_close(y, layer(data(), labels))


def test_batch_renorm_is_the_layer(backend):
    layer = nw.BatchRenorm2d(C, r_max=1.2, d_max=0.3).double()
    running = nf.Running(layer.running_mean.clone(), layer.running_var.clone(), layer.num_batches_tracked.clone())
    with backend():
        y, batch = nf.batch_renorm(data(), running, r_max=1.2, d_max=0.3)
        assert_close(y, layer(data()))
    assert_close(list(nf.update_statistics(running, batch, 0.01)), list(layer.buffers()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("name", EVERY)
def test_dtype_and_layout_are_the_inputs(name, dtype):
    x = data().to(dtype).to(memory_format=torch.channels_last)
    y = outputs(name)(x)
    assert y.dtype == dtype
    assert_close(y.double(), outputs(name)(x.double()), rtol=torch.finfo(dtype).eps, atol=3e-5)
    if name not in ("layer", "rms"):
        assert y.stride() == x.stride()


def test_statistics_are_wide_and_without_a_gradient():
    x = data().bfloat16().requires_grad_()
    y, statistics = nf.batch_norm(x)
    assert y.requires_grad
    assert not statistics.mean.requires_grad
    assert statistics.var.dtype == torch.float64
    assert isinstance(statistics, Moments)


def test_every_formula_has_a_function():
    """A formula without a function would be out of reach of vmap and export without a module."""
    from normwise.core import formulas

    own = [f for f in vars(formulas).values() if inspect.isfunction(f) and f.__module__.startswith(formulas.__name__)]
    public = {f.__name__ for f in own if not f.__name__.startswith("_")} - {"standardized", "mixture", "one_plus"}
    assert len(public) >= 10
    assert public <= {name for name, f in vars(nf).items() if inspect.isfunction(f)}
    # Over (C, space), the formula `layer_norm` is `group_norm` with one group; the function is that of rows.
    assert_close(nf.group_norm(data(), 1)[0], nf.layer_norm(data(), SHAPE[1:]))


X = torch.randn(SHAPE)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nf.batch_norm(X.long()), TypeError, r"expects a floating tensor, received torch\.int64"),
        (lambda: nf.instance_norm(X[0, 0, 0]), ValueError, r"expects \[N, C, \*space\], received 1-D"),
        (
            lambda: nf.batch_norm(X, None, torch.ones(5)),
            ValueError,
            r"weight must be \[C\] = \[6\] or \[N, C\] = \[4, 6\]",
        ),
        (lambda: nf.group_norm(X, 3, None, None, torch.ones(1)), ValueError, r"bias must be .*received \[1\]"),
        (lambda: nf.batch_norm(X, nf.initial_statistics(5)), ValueError, r"mean must be \[C\] = \[6\].*received \[5\]"),
        (
            lambda: nf.batch_norm(X, torch.zeros(C)),
            TypeError,
            r"statistics must have a mean and a var, .*received Tensor",
        ),
        (lambda: nf.evo_norm_b0(X, V.float(), (X, X)), TypeError, r"must have a mean and a var, .*received tuple"),
        (
            lambda: nf.group_norm(X, 4),
            ValueError,
            r"group_norm\(num_groups=4\): 6 channels are not divisible by 4 groups; .*1, 2, 3, 6",
        ),
        (
            lambda: nf.evo_norm_s0(X, torch.ones(C), 4),
            ValueError,
            r"evo_norm_s0\(num_groups=4\): 6 channels are not divisible",
        ),
        (lambda: nf.evo_norm_b0(X, torch.ones(5)), ValueError, r"v must be \[C\] = \[6\]"),
        (lambda: nf.batch_instance_norm(X, torch.ones(3)), ValueError, r"gate must be \[C\] = \[6\].*received \[3\]"),
        (lambda: nf.switchable_norm(X, MIX, MIX[:2]), ValueError, r"var_weight must be \[3\] for .*received \[2\]"),
        (lambda: nf.layer_norm2d(X, torch.ones(5)), ValueError, r"weight must be \[6\] for .*received \[5\]"),
        (lambda: nf.layer_norm(X.int(), [3]), TypeError, "layer_norm expects a floating tensor"),
        (lambda: nf.dynamic_tanh([1.0], ALPHA), TypeError, "dynamic_tanh expects a tensor, received list"),
        (lambda: nf.batch_norm(X, maks=X), TypeError, "unexpected keyword argument 'maks'"),
        (lambda: nf.batch_norm(X, mask=X), TypeError, r"mask must be a boolean tensor"),
        (lambda: nf.batch_norm(X, activation="swish"), ValueError, "Unknown activation 'swish'"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("momentum", [0.1, 0.3, None])
@pytest.mark.parametrize("function", [nf.batch_norm, nf.instance_norm], ids=["batch", "instance"])
def test_fp64_statistics_lose_no_digit(function, momentum):
    """The factor that makes the variance unbiased is a quotient of counts, which are integers."""
    x, running = data(), nf.initial_statistics(C, dtype=torch.float64)
    axes = (0, *range(2, x.dim())) if function is nf.batch_norm else tuple(range(2, x.dim()))
    values, a = x.double().numpy(), 1.0 if momentum is None else momentum
    mean, var = values.mean(axes).reshape(-1, C).mean(0), values.var(axes, ddof=1).reshape(-1, C).mean(0)
    new = nf.update_statistics(running, function(x.double())[1], momentum)
    np.testing.assert_allclose(new.mean, a * mean, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(new.var, (1 - a) + a * var, rtol=1e-13)


@pytest.mark.parametrize("function", [nw.functional.layer_norm2d, nw.functional.rms_norm2d])
def test_a_mask_of_positions_keeps_nan_out_of_the_gradients_of_pixels(function):
    """``[N, *space]`` beside as many samples as channels: the mask is of samples and positions, not of channels."""
    x, mask = torch.randn(2, 2, 3), torch.tensor([[True, True, False], [True, True, True]])
    clean = x.masked_fill(~mask.unsqueeze(1), 0)
    x = x.masked_fill(~mask.unsqueeze(1), float("nan")).requires_grad_()
    y = function(x, mask=mask)
    torch.testing.assert_close(y, function(clean))
    assert torch.autograd.grad(y.sum(), x)[0].isfinite().all()
