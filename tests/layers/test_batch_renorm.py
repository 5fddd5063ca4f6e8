"""Batch Renormalization against the paper's Algorithm 1 in NumPy, its identities and its schedule."""

import copy
import math

import numpy as np
import one_step
import pytest
import torch
from torch import nn
from torch.testing import assert_close

import normwise as nw

LAYERS = {rank: getattr(nw, f"BatchRenorm{rank}d") for rank in (1, 2, 3)}
OPEN = {"r_max": math.inf, "d_max": math.inf}
#: Moves and clips within the few steps of a test.
SHORT = {"r_max": ((0, 1.0), (4, 1.3)), "d_max": ((0, 0.0), (2, 0.4))}


class Algorithm1:
    """Ioffe 2017 in float64 NumPy, channel by channel, with the gradient derived by hand."""

    def __init__(self, channels, momentum, eps, r_max, d_max):
        self.mean, self.var = np.zeros(channels), np.ones(channels)
        self.momentum, self.eps, self.r_max, self.d_max = momentum, eps, r_max, d_max

    def step(self, x, weight, bias, grad_y, t):
        y, grad_x = np.empty_like(x), np.empty_like(x)
        grads = np.zeros((2, x.shape[1]))
        for c in range(x.shape[1]):
            values, g = x[:, c], grad_y[:, c]
            mean, sigma = values.mean(), np.sqrt(((values - values.mean()) ** 2).mean() + self.eps)
            running = np.sqrt(self.var[c] + self.eps)
            r = np.clip(sigma / running, 1 / self.r_max(t), self.r_max(t))
            d = np.clip((mean - self.mean[c]) / running, -self.d_max(t), self.d_max(t))
            x_hat = (values - mean) / sigma
            y[:, c] = weight[c] * (x_hat * r + d) + bias[c]
            grad_x[:, c] = weight[c] * r / sigma * (g - g.mean() - x_hat * (g * x_hat).mean())
            grads[:, c] = (g * (x_hat * r + d)).sum(), g.sum()
            unbiased = (sigma**2 - self.eps) * values.size / (values.size - 1)
            self.mean[c] += self.momentum * (mean - self.mean[c])
            self.var[c] += self.momentum * (unbiased - self.var[c])
        return y, grad_x, *grads


def polygon(points):
    steps, values = zip(*points, strict=True)
    return lambda t: float(np.interp(t, steps, values))


@pytest.mark.parametrize("rank", LAYERS)
def test_agrees_with_the_paper_over_a_schedule(rank, backend):
    """Six steps across both schedules, on data that drift far enough to clip; then evaluation."""
    limits = {name: polygon(points) for name, points in SHORT.items()}
    layer = one_step.trained(LAYERS[rank](6, momentum=0.3, dtype=torch.float64, **SHORT))
    paper = Algorithm1(6, 0.3, layer.eps, **limits)
    weight, bias = (p.detach().numpy().copy() for p in (layer.weight, layer.bias))
    for t in range(6):
        x = one_step.data(one_step.SHAPES[rank], t, mean=0.3 * t, std=1 + 0.5 * t)
        cotangent = one_step.data(x.shape, 100 + t)
        expected = paper.step(x.numpy(), weight, bias, cotangent.numpy(), t)
        with backend():
            got = one_step.step(layer, x, cotangent)
        for mine, theirs in zip(got, expected, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(layer.running_mean, paper.mean, rtol=1e-12)
    np.testing.assert_allclose(layer.running_var, paper.var, rtol=1e-12)
    assert layer.num_batches_tracked == 6
    over_channels = (1, -1, *[1] * rank)
    mean, var, weight, bias = (t.reshape(over_channels) for t in (paper.mean, paper.var, weight, bias))
    with backend():
        y = layer.eval()(x).detach()
    expected = (x.numpy() - mean) / np.sqrt(var + layer.eps) * weight + bias
    np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rank", LAYERS)
def test_unclipped_it_is_evaluation_forward_and_batch_norm_backward(rank, backend):
    """The sharp test of the stopped gradient: with a gradient through r and d the sums would be of order 10."""
    layer = one_step.trained(LAYERS[rank](6, dtype=torch.float64, **OPEN))
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.3, 3.0)
    evaluated = copy.deepcopy(layer).eval()
    x, cotangent = one_step.data(one_step.SHAPES[rank]), one_step.data(one_step.SHAPES[rank], 1)
    with backend():
        y, grad_x, *_ = one_step.step(layer, x, cotangent)
        assert_close(y, evaluated(x))
    others = [0, *range(2, x.dim())]
    assert_close(grad_x.sum(others), torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-12)
    centered = x - x.mean(others, keepdim=True)
    # Orthogonal to x̂ up to eps: the exact inner product is that share of the gradient which eps takes.
    assert (grad_x * centered).sum(others).abs().max() < 1e-3
    assert grad_x.abs().max() > 0.1


@pytest.mark.parametrize("limits", [{"r_max": 1.0, "d_max": 0.0}, {}], ids=["constants", "first steps of the default"])
@pytest.mark.parametrize("rank", LAYERS)
def test_without_room_it_is_batch_norm(rank, limits, backend):
    ours, theirs = LAYERS[rank](6, momentum=0.1, **limits), getattr(nn, f"BatchNorm{rank}d")(6)
    for seed in range(3):
        x, cotangent = (one_step.data(one_step.SHAPES[rank], s, torch.float32) for s in (seed, seed + 50))
        with backend():
            assert_close(one_step.step(ours, x, cotangent), one_step.step(theirs, x, cotangent), rtol=1e-5, atol=1e-5)
    assert_close(ours.state_dict(), theirs.state_dict())
    assert_close(ours.eval()(x), theirs.eval()(x))


def test_checkpoints_of_batch_norm_load_strictly_both_ways():
    theirs = nn.BatchNorm2d(6)
    theirs(torch.randn(4, 6, 5, 5))
    ours = nw.BatchRenorm2d(6)
    assert ours.load_state_dict(theirs.state_dict(), strict=True)
    assert theirs.load_state_dict(ours.state_dict(), strict=True)
    assert isinstance(ours, nn.BatchNorm2d)


def test_the_paper_s_schedule_at_its_corners():
    layer = nw.BatchRenorm1d(3)
    for step, r_max, d_max in [(0, 1, 0), (5000, 1, 0), (15_000, 1 + 2 * 2 / 7, 2.5), (40_000, 3, 5), (10**6, 3, 5)]:
        layer.num_batches_tracked.fill_(step)
        target = layer.target()
        assert_close(float(target.r_max), float(r_max))
        assert_close(float(target.d_max), float(d_max))
    resumed = nw.BatchRenorm1d(3)
    resumed.load_state_dict(layer.state_dict())
    assert resumed.target().r_max == 3


def test_a_constant_can_be_set_while_training():
    layer = nw.BatchRenorm1d(3, r_max=1, d_max=0)
    layer.r_max, layer.d_max = math.inf, math.inf
    x = torch.randn(8, 3)
    assert_close(layer(x), x / math.sqrt(1 + layer.eps))


@pytest.mark.parametrize("order", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_derivatives_by_finite_differences_where_r_and_d_are_constant(order):
    """Everything clipped: r and d do not move, and the stopped gradient is the gradient."""
    layer = one_step.trained(nw.BatchRenorm1d(3, r_max=1.5, d_max=0.5, dtype=torch.float64))
    layer.running_mean.fill_(9.0)
    layer.running_var.fill_(1e-2)
    one_step.derivatives_agree_with_finite_differences(layer, (3, 3, 2), order)


def test_compiled_across_the_schedule():
    """The limits are tensors: no graph break, and no new graph when they move."""
    make = lambda channels, **options: nw.BatchRenorm2d(channels, **SHORT, **options)  # noqa: E731
    layer = make(6)
    graph = torch.compile(layer, fullgraph=True, backend="aot_eager")
    twin = copy.deepcopy(layer)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for seed in range(5):
            x = one_step.data(one_step.SHAPES[2], seed, torch.float32)
            assert_close(graph(x), twin(x), rtol=1e-4, atol=1e-4)


def test_recomputed_passes_find_their_own_target():
    """Three passes over one layer, then one backward: each recomputation sees the statistics of its own pass."""
    from torch.utils.checkpoint import checkpoint

    xs = [one_step.data((8, 3), seed, mean=2.0 * seed) for seed in range(3)]
    results = []
    for saving in (False, True):
        layer = nw.BatchRenorm1d(3, momentum=0.5, dtype=torch.float64, **OPEN)
        leaves = [x.clone().requires_grad_() for x in xs]
        with nw.no_update(layer):
            layer(leaves[0] * 3)  # a pass without a backward in between
        outputs = [checkpoint(layer, x, use_reentrant=False) if saving else layer(x) for x in leaves]
        layer(xs[0] - 5)
        sum((y**3).sum() for y in outputs).backward()
        results.append([x.grad for x in leaves])
    assert_close(results[1], results[0])


@pytest.mark.parametrize("samples", [1, 8])
def test_planes_of_one_value(samples):
    x = one_step.data((samples, 6, 1, 1))
    layer = nw.BatchRenorm2d(6, dtype=torch.float64, **OPEN)
    if samples == 1:
        with pytest.raises(ValueError, match="BatchRenorm2d: Expected more than 1 value per channel when training"):
            layer(x)
        layer.policy.single_value = "running"
    assert_close(layer(x), x / math.sqrt(1 + layer.eps))


def test_a_batch_of_one_and_a_dead_channel():
    x = one_step.data((1, 6, 4, 4), dtype=torch.float32)
    x[:, 2] = 3.0
    layer = nw.BatchRenorm2d(6, momentum=1.0, r_max=3, d_max=5)
    for _ in range(3):  # the running variance of the dead channel is 0: eps stays in both deviations
        results = one_step.step(layer, x, torch.ones_like(x))
        assert all(t.isfinite().all() for t in results)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r_max": 0.5}, r"BatchRenorm2d: r_max must be at least 1, received 0\.5"),
        ({"d_max": -1}, r"BatchRenorm2d: d_max must be at least 0, received -1"),
        ({"r_max": math.nan}, "r_max must be at least 1, received nan"),
        ({"r_max": ((0, 1), (10, 3), (10, 4))}, r"must not go backwards, but \(10, 3\) is followed by \(10, 4\)"),
        ({"d_max": ((0, 3), (10, 2))}, r"d_max: a schedule must not go backwards, but \(0, 3\) is followed by \(10, 2"),
        ({"r_max": ((0, 0.5), (10, 3))}, "every point must be finite and every value at least 1"),
        ({"d_max": ((0, 0), (10, math.inf))}, "every point must be finite"),
        ({"r_max": ()}, r"must be a number or points \(step, value\)"),
        ({"r_max": (1, 3)}, r"must be a number or points \(step, value\) such as \(\(0, 1\.0\), \(1000, 3\.0\)\)"),
        ({"r_max": "paper"}, "must be a number or points"),
        ({"track_running_stats": False}, "corrects towards its running statistics.*write BatchNorm2d"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        nw.BatchRenorm2d(6, **options)


def test_repr_shows_what_differs_from_the_paper():
    assert "r_max" not in repr(nw.BatchRenorm2d(6))
    assert "r_max=1.5, d_max=((0.0, 0.0), (9.0, 2.0))" in repr(nw.BatchRenorm2d(6, r_max=1.5, d_max=[(0, 0), (9, 2)]))
