"""The losses against NumPy in fp64, and their gradients against differences."""

import numpy as np
import pytest
import torch

from normwise.style.losses import content_loss, gram, mean_and_deviation, style_loss, style_targets, total_variation


def maps_of(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def grams(x):
    flat = x.numpy().reshape(*x.shape[:2], -1)
    return np.einsum("ncp,ndp->ncd", flat, flat) / flat.shape[2]


def test_gram_is_the_mean_of_products():
    x = maps_of(2, 3, 4, 5)
    np.testing.assert_allclose(gram(x)[0].numpy(), grams(x), rtol=1e-12)


def test_moments_are_biased():
    x = maps_of(2, 3, 4, 5)
    mean, deviation = mean_and_deviation(x)
    np.testing.assert_allclose(mean.numpy(), x.numpy().mean((2, 3)), rtol=1e-10)
    np.testing.assert_allclose(deviation.numpy(), x.numpy().std((2, 3)), rtol=1e-6)


def test_the_style_loss_is_relative_and_takes_the_row_of_each_picture():
    x, styles = maps_of(3, 4, 5, 5), maps_of(2, 4, 6, 3, seed=1)
    targets = style_targets({"a": styles}, ("a",), "gram")
    rows = torch.tensor([1, 0, 1])
    wanted = grams(styles)[rows.numpy()]
    squares = ((grams(x) - wanted) ** 2).sum((1, 2)) / (wanted**2).sum((1, 2))
    assert float(style_loss({"a": x}, targets, "gram", rows)) == pytest.approx(squares.mean(), rel=1e-10)


@pytest.mark.parametrize("loss", ["gram", "moments"])
def test_the_loss_of_the_style_itself_is_0_and_scaling_both_changes_nothing(loss):
    x, style = maps_of(1, 4, 5, 5), maps_of(1, 4, 6, 3, seed=1)
    targets = style_targets({"a": style}, ("a",), loss)
    assert float(style_loss({"a": style}, targets, loss)) == 0
    scaled = style_targets({"a": 7 * style}, ("a",), loss)
    expected = float(style_loss({"a": x}, targets, loss))
    assert float(style_loss({"a": 7 * x}, scaled, loss)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", ["gram", "moments"])
def test_gradients_of_the_style_loss(loss):
    targets = style_targets({"a": maps_of(1, 3, 4, 4, seed=1)}, ("a",), loss)
    x = maps_of(2, 3, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: style_loss({"a": x}, targets, loss), x)


def test_the_content_loss_is_in_units_of_the_style():
    x, target, units = maps_of(2, 3, 4, 5), maps_of(2, 3, 4, 5, seed=1), torch.tensor([2.0, 0.5], dtype=torch.float64)
    squares = ((x - target).numpy() ** 2).mean((1, 2, 3)) / units.numpy()
    assert float(content_loss(x, target, units)) == pytest.approx(squares.mean(), rel=1e-12)


def test_total_variation_of_a_ramp():
    ramp = torch.arange(5.0).expand(1, 3, 4, 5)
    assert float(total_variation(ramp)) == 1
