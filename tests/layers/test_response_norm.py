"""Filter and Global Response Normalization against their equations in NumPy."""

import numpy as np
import one_step
import pytest
import torch
from torch.testing import assert_close

import normwise as nw

FILTER = {rank: getattr(nw, f"FilterResponseNorm{rank}d") for rank in (1, 2, 3)}


def filter_without_tlu(channels, activation=None, **options):
    return nw.FilterResponseNorm2d(channels, activation=activation, **options)


def filter_with_eps(channels, activation=None, **options):
    return nw.FilterResponseNorm2d(channels, activation=activation, learnable_eps=True, **options)


LAYERS = {"FRN": filter_without_tlu, "FRN, learned eps": filter_with_eps, "GRN": nw.GlobalResponseNorm}


def over_channels(parameter, x):
    return parameter.detach().numpy().reshape(-1, *[1] * (x.ndim - 2))


def filter_response(layer, x):
    """Singh and Krishnan 2019, equations 1 to 3."""
    eps = layer.eps + (0 if layer.learned_eps is None else abs(layer.learned_eps.item()))
    y = x / np.sqrt((x**2).mean(tuple(range(2, x.ndim)), keepdims=True) + eps)
    y = y * over_channels(layer.weight, x) + over_channels(layer.bias, x)
    return y if layer.tau is None else np.maximum(y, over_channels(layer.tau, x))


def global_response(layer, x):
    """Woo et al. 2023, equations 1 to 3 and the residual of Algorithm 1."""
    norm = np.sqrt((x**2).sum(tuple(range(2, x.ndim)), keepdims=True))
    response = norm / (norm.mean(1, keepdims=True) + layer.eps)
    return over_channels(layer.weight, x) * x * response + over_channels(layer.bias, x) + x


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"learnable_eps": True}, {"activation": None}], ids=["TLU", "eps", "plain"])
def test_filter_response_agrees_with_the_paper(options, rank, backend):
    layer = one_step.trained(FILTER[rank](6, dtype=torch.float64, **options))
    x = one_step.data(one_step.SHAPES[rank])
    with backend():
        for training in (True, False):
            np.testing.assert_allclose(
                layer.train(training)(x).detach(), filter_response(layer, x.numpy()), rtol=1e-12, atol=1e-12
            )


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_global_response_agrees_with_the_paper(rank, backend):
    layer = one_step.trained(nw.GlobalResponseNorm(6, dtype=torch.float64))
    x = one_step.data(one_step.SHAPES[rank])
    with backend():
        np.testing.assert_allclose(layer(x).detach(), global_response(layer, x.numpy()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
@pytest.mark.parametrize("name", [*LAYERS, "FRN, TLU"])
def test_derivatives_by_finite_differences(name, order):
    make = LAYERS.get(name, nw.FilterResponseNorm2d)
    layer = one_step.trained(make(3, dtype=torch.float64))
    one_step.derivatives_agree_with_finite_differences(layer, (3, 3, 2, 2), order)


class TestFilterResponse:
    def test_fresh_parameters(self):
        layer = nw.FilterResponseNorm2d(4, learnable_eps=True)
        state = {name: t.tolist() for name, t in layer.state_dict().items()}
        assert state == {"weight": [1] * 4, "bias": [0] * 4, "tau": [0] * 4, "learned_eps": [pytest.approx(1e-4)]}
        assert layer.eps == 1e-6
        assert list(nw.FilterResponseNorm2d(4, activation="relu", bias=False).state_dict()) == ["weight"]
        assert list(nw.FilterResponseNorm2d(4, affine=False).state_dict()) == ["tau"]

    def test_planes_of_one_value_keep_their_sign_alone(self):
        """x / √(x² + 1e-6): the loss of magnitude that the paper's learned ε is for."""
        x = torch.tensor([0.3, -2.0, 0.01]).view(1, 3, 1, 1)
        y = nw.FilterResponseNorm2d(3, activation=None)(x).flatten()
        assert_close(y.detach(), torch.tensor([1.0, -1.0, 0.99504]), rtol=0, atol=1e-5)
        assert nw.FilterResponseNorm1d(3, activation=None)(x.view(1, 3)).shape == (1, 3)
        learned = nw.FilterResponseNorm2d(3, activation=None, learnable_eps=True)
        torch.nn.init.constant_(learned.learned_eps, -100.0)  # |ε|: the size comes through
        assert_close(learned(x).flatten(), x.flatten() / 10, rtol=0.03, atol=0)

    def test_the_threshold_is_exact_however_far(self):
        """max(y, τ), not relu(y - τ) + τ: a distant τ must not cost y its digits."""
        x = one_step.data((2, 4, 5, 5), dtype=torch.bfloat16)
        layer, plain = nw.FilterResponseNorm2d(4), nw.FilterResponseNorm2d(4, activation=None)
        torch.nn.init.constant_(layer.tau, -1e4)
        assert torch.equal(layer(x), plain(x))
        torch.nn.init.constant_(layer.tau, 0.5)
        assert torch.equal(layer(x), plain(x).clamp_min(0.5))
        layer(x).float().sum().backward()
        below = (plain(x) < 0.5).sum((0, 2, 3))
        assert_close(layer.tau.grad, below.to(layer.tau.dtype))

    def test_the_residual_comes_before_the_threshold(self):
        x, residual = one_step.data((2, 4, 5, 5)), one_step.data((2, 4, 5, 5), 1)
        layer = nw.FilterResponseNorm2d(4, dtype=torch.float64)
        plain = nw.FilterResponseNorm2d(4, activation=None, dtype=torch.float64)
        assert_close(layer(x, residual), (plain(x) + residual).relu())

    def test_zeros_and_a_learned_eps_of_zero_are_finite(self):
        layer = nw.FilterResponseNorm2d(4, learnable_eps=True)
        torch.nn.init.zeros_(layer.learned_eps)
        results = one_step.step(layer, torch.zeros(2, 4, 3, 3), torch.ones(2, 4, 3, 3))
        assert all(t.isfinite().all() for t in results)

    def test_errors_and_repr(self):
        with pytest.raises(ValueError, match=r"FilterResponseNorm2d\(4\) expected 4 channels in dimension 1"):
            nw.FilterResponseNorm2d(4)(torch.randn(2, 3, 5, 5))
        with pytest.raises(ValueError, match=r"FilterResponseNorm2d expected 4D input.*write FilterResponseNorm1d"):
            nw.FilterResponseNorm2d(4)(torch.randn(2, 4, 5))
        with pytest.raises(TypeError, match="expects a floating tensor"):
            nw.FilterResponseNorm2d(4)(torch.ones(2, 4, 5, 5, dtype=torch.long))
        with pytest.raises(ValueError, match=r"eps must be positive, received 0\.0"):
            nw.FilterResponseNorm2d(4, eps=0.0)
        with pytest.raises(ValueError, match="Unknown activation 'tulu'"):
            nw.FilterResponseNorm2d(4, activation="tulu")
        shown = repr(nw.FilterResponseNorm2d(4, learnable_eps=True))
        assert shown == "FilterResponseNorm2d(4, eps=1e-06, affine=True, activation='tlu', learnable_eps=True)"
        assert repr(nw.FilterResponseNorm2d(4, activation=None)) == "FilterResponseNorm2d(4, eps=1e-06, affine=True)"


class TestGlobalResponse:
    def test_fresh_it_is_the_identity(self):
        x = one_step.data((2, 4, 5, 5))
        assert_close(nw.GlobalResponseNorm(4, dtype=torch.float64)(x), x)

    def test_features_without_space(self):
        layer, x = one_step.trained(nw.GlobalResponseNorm(4, dtype=torch.float64)), one_step.data((5, 4))
        np.testing.assert_allclose(layer(x).detach(), global_response(layer, x.numpy()), rtol=1e-12)

    def test_zeros_have_a_finite_gradient(self):
        layer = one_step.trained(nw.GlobalResponseNorm(4, dtype=torch.float64))
        x = one_step.data((3, 4, 5, 5))
        x[0] = 0  # a whole sample, and a channel of another one
        x[1, 2] = 0
        results = one_step.step(layer, x, one_step.data(x.shape, 1))
        assert all(t.isfinite().all() for t in results)
        leaf = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(layer(leaf).sum(), leaf, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), leaf)
        assert second.isfinite().all()

    def test_half_precision_does_not_overflow(self):
        """The sum of squares of 4096 values of 100 is 4e7; fp16 ends at 65504."""
        layer = one_step.trained(nw.GlobalResponseNorm(4, dtype=torch.float64))
        x = torch.full((1, 4, 64, 64), 100.0, dtype=torch.float16)
        want = layer(x.double())
        assert_close(layer.half()(x).double(), want, rtol=2e-3, atol=0)

    def test_errors_and_repr(self):
        with pytest.raises(ValueError, match=r"GlobalResponseNorm\(4\) expected 4 channels in dimension 1"):
            nw.GlobalResponseNorm(4)(torch.randn(2, 3, 5, 5))
        with pytest.raises(ValueError, match=r"expects \[N, C, \*space\], received 1-D"):
            nw.GlobalResponseNorm(4)(torch.randn(4))
        shown = repr(nw.GlobalResponseNorm(4, activation="relu"))
        assert shown == "GlobalResponseNorm(4, eps=1e-06, activation='relu')"
        assert list(nw.GlobalResponseNorm(4, bias=False).state_dict()) == ["weight"]
