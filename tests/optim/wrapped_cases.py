"""A small network, its twin, and optimizers for the tests of the wrapper."""

import copy

import pytest
import torch
from torch import nn

from normwise.optim import AdaptiveGradientClipping

CLIP = 0.05
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "sgd-fused": lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "adamw-foreach": lambda p: torch.optim.AdamW(p, lr=0.1, foreach=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1),
}
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def model_and_twin():
    torch.manual_seed(4)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.ReLU(), nn.ConvTranspose2d(6, 4, 2, groups=2), nn.Flatten(), nn.Linear(4 * 25, 3)
    )
    return model, copy.deepcopy(model)


def wrapped(model, make=OPTIMIZERS["sgd"], **options):
    return AdaptiveGradientClipping(make(model.parameters()), model, CLIP, **options)


def batches(count):
    generator = torch.Generator().manual_seed(5)
    return [(torch.randn(4, 2, 6, 6, generator=generator), torch.tensor([0, 1, 2, 0])) for _ in range(count)]


def backward(model, x, y, scale=1.0):
    model.zero_grad()
    loss = scale * nn.functional.cross_entropy(model(x), y)
    loss.backward()
    return loss


def assert_same(model, other):
    for (name, ours), theirs in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
