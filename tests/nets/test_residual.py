"""The end of a residual branch: SkipInit's gain and stochastic depth."""

import pytest
import torch

from normwise.nets import SkipGain, StochasticDepth


def test_skip_gain_starts_at_zero_and_learns():
    gain, x = SkipGain(), torch.randn(3, 4, 5)
    assert [(name, tuple(p.shape)) for name, p in gain.named_parameters()] == [("gain", (1,))]
    assert not gain(x).any()
    cotangent = torch.randn_like(x)
    gain(x).backward(cotangent)
    torch.testing.assert_close(gain.gain.grad, (x * cotangent).sum().view(1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_skip_gain_keeps_the_dtype_of_its_input(dtype):
    assert SkipGain()(torch.ones(2, 3, dtype=dtype)).dtype == dtype


def test_a_gain_without_dimensions_loads_and_serves():
    """As checkpoints and models from before had it."""
    gain = SkipGain()
    gain.load_state_dict({"gain": torch.tensor(0.5)})
    assert gain.gain.tolist() == [0.5]
    gain.gain = torch.nn.Parameter(torch.tensor(2.0))
    torch.testing.assert_close(gain(torch.ones(2, dtype=torch.bfloat16)), torch.full((2,), 2.0, dtype=torch.bfloat16))


def test_a_constant_that_does_not_fit():
    gain = SkipGain(1.0, alpha=0.2)
    for wrong, error in (
        (torch.ones(2), ValueError),
        (torch.ones(1) + 1j, TypeError),
        (torch.ones(1).long(), TypeError),
    ):
        gain.alpha = wrong
        with pytest.raises(error, match="SkipGain: alpha must"):
            gain(torch.ones(2, 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_wide_gain_does_not_widen_its_input(dtype):
    assert SkipGain(1.0).double()(torch.ones(2, 3, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_stochastic_depth_drops_whole_samples_at_its_rate(p, rescale):
    x = torch.randn(4000, 3, 2)
    y = StochasticDepth(p, rescale)(x)
    kept = y.flatten(1).any(1)
    torch.testing.assert_close(y[kept], x[kept] / (1 - p if rescale else 1))
    assert not y[~kept].any()
    assert kept.float().mean().item() == pytest.approx(1 - p, abs=5 * (p * (1 - p) / 4000) ** 0.5)


def test_stochastic_depth_does_nothing_in_evaluation_or_at_zero():
    x = torch.randn(8, 3)
    assert StochasticDepth(0.9).eval()(x) is x
    assert StochasticDepth(0.0)(x) is x


def test_stochastic_depth_of_one_drops_everything():
    assert not StochasticDepth(1.0)(torch.ones(16, 2)).any()


@pytest.mark.parametrize("x", [torch.ones(5, dtype=torch.bfloat16), torch.ones(2, 3, 4, 4, dtype=torch.float64)])
def test_stochastic_depth_keeps_shape_and_dtype(x):
    y = StochasticDepth(0.3, rescale=True)(x)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)


@pytest.mark.parametrize(("p", "rescale"), [(-0.1, False), (1.1, False), (1.0, True), (float("nan"), False)])
def test_stochastic_depth_refuses_what_is_no_share(p, rescale):
    with pytest.raises(ValueError, match="the share of dropped branches is 0 <= p"):
        StochasticDepth(p, rescale)
