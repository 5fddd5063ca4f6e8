"""The small generative adversarial networks."""

import pytest
import torch
from torch import nn

from normwise import nets


def test_pictures_have_the_asked_shape_and_range():
    pictures = nets.Generator(5, channels=3, side=12, width=4)(100 * torch.randn(6, 5))
    assert pictures.shape == (6, 3, 12, 12)
    assert pictures.abs().max() <= 1
    realness, classes = nets.Discriminator(3, 12, width=4, classes=7)(pictures)
    assert (realness.shape, classes.shape) == ((6,), (6, 7))
    translated = nets.Translator(4, channels=3, width=8, blocks=1)(pictures, torch.arange(6) % 4)
    assert translated.shape == pictures.shape


def test_spectral_norm_bounds_the_slope():
    """Each convolution's kernel matrix has norm 1, so its operator's is at most 3, the root of its nine taps."""
    torch.manual_seed(0)
    free, bounded = nets.Discriminator(width=8), nets.Discriminator(width=8, spectral=True)
    with torch.no_grad():
        for net in (free, bounded):
            for parameter in net.parameters():
                parameter.mul_(10)
    bounded.train()
    slopes = []
    for net in (free, bounded):
        x = torch.randn(16, 1, 8, 8, requires_grad=True)
        net(x)  # one power iteration after the weights have changed
        (slope,) = torch.autograd.grad(net(x).sum(), x)
        slopes.append(slope.flatten(1).norm(dim=1).max())
    assert slopes[1] <= 27.01
    assert slopes[0] > 10 * slopes[1]
    assert sum("parametrizations" in name for name, _ in bounded.named_parameters()) == 4


def test_a_label_changes_the_picture():
    torch.manual_seed(0)
    net, x = nets.Translator(3), torch.randn(1, 1, 8, 8).expand(3, -1, -1, -1)
    made = net(x, torch.arange(3))
    assert min((made[i] - made[j]).abs().max() for i, j in ((0, 1), (1, 2), (0, 2))) > 1e-3
    torch.testing.assert_close(net(x[:1], torch.tensor([2]))[0], made[2])  # InstanceNorm: each sample by itself


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: nets.Generator(side=10), r"Generator\(side=10\): the side must be a multiple of 4, such as 8"),
        (lambda: nets.Discriminator(side=2), "side must be at least 4"),
        (lambda: nets.Discriminator(classes=-1), "classes must be at least 0"),
        (lambda: nets.Generator(latent=0), "latent must be at least 1"),
        (lambda: nets.Translator(0), "classes must be at least 1"),
    ],
)
def test_wrong_sizes(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_the_articles_block():
    x = torch.randn(4, 8)
    branch = nn.Linear(8, 8)
    block = nets.ScaledResidual(branch, alpha=0.3, beta=2.5)
    torch.testing.assert_close(block(x), x + 0.3 * branch(x / 2.5))
    assert repr(block).startswith("ScaledResidual(\n  alpha=0.3, beta=2.5")
    with pytest.raises(ValueError, match="beta must be positive"):
        nets.ScaledResidual(branch, beta=0.0)
    with pytest.raises(ValueError, match="alpha must be at least"):
        nets.ScaledResidual(branch, alpha=-1.0)
