"""Switchable and Batch-Instance Normalization: the layers, and their equations in float64 NumPy."""

import numpy as np
from torch import nn

import normwise as nw

SWITCHABLE = {rank: getattr(nw, f"SwitchableNorm{rank}d") for rank in (1, 2, 3)}
GATED = {rank: getattr(nw, f"BatchInstanceNorm{rank}d") for rank in (1, 2, 3)}
MIXTURES = {
    "switchable": nw.SwitchableNorm2d,
    "switchable without batch": lambda c, **o: nw.SwitchableNorm2d(c, using_bn=False, **o),
    "switchable without instance": lambda c, **o: nw.SwitchableNorm2d(c, using_in=False, **o),
    "batch-instance": nw.BatchInstanceNorm2d,
}


def softmax(logits):
    e = np.exp(logits - logits.max())
    return e / e.sum()


class Memory:
    """The batch branch's running statistics, as torch keeps them."""

    def __init__(self, channels, momentum):
        self.mean, self.var, self.momentum = np.zeros(channels), np.ones(channels), momentum

    def update(self, x):
        axes = (0, *range(2, x.ndim))
        self.mean += self.momentum * (x.mean(axes) - self.mean)
        self.var += self.momentum * (x.var(axes, ddof=1) - self.var)

    def statistics(self, x):
        shape = (1, -1, *[1] * (x.ndim - 2))
        return self.mean.reshape(shape), self.var.reshape(shape)


def moments(x, axes):
    return x.mean(axes, keepdims=True), x.var(axes, keepdims=True)


def switchable(layer, x, batch=None):
    """Luo et al. 2018, equation 3, with biased variances."""
    space = tuple(range(2, x.ndim))
    tables = {"instance": moments(x, space), "layer": moments(x, (1, *space))}
    tables["batch"] = batch or moments(x, (0, *space))
    w, w_var = (softmax(p.detach().numpy()) for p in (layer.mean_weight, layer.var_weight))
    mean = sum(share * tables[name][0] for share, name in zip(w, layer.branches, strict=True))
    var = sum(share * tables[name][1] for share, name in zip(w_var, layer.branches, strict=True))
    return affine(layer, (x - mean) / np.sqrt(var + layer.eps))


def gated(layer, x, batch=None):
    """Nam and Kim 2018, equation 3."""
    space = tuple(range(2, x.ndim))
    by_batch, by_instance = (
        (x - mean) / np.sqrt(var + layer.eps) for mean, var in (batch or moments(x, (0, *space)), moments(x, space))
    )
    gate = np.clip(layer.gate.detach().numpy(), 0, 1).reshape(-1, *[1] * (x.ndim - 2))
    return affine(layer, gate * by_batch + (1 - gate) * by_instance)


def affine(layer, y):
    weight, bias = (p.detach().numpy().reshape(-1, *[1] * (y.ndim - 2)) for p in (layer.weight, layer.bias))
    return y * weight + bias


BATCH = {rank: getattr(nn, f"BatchNorm{rank}d") for rank in (1, 2, 3)}
INSTANCE = {rank: lambda c, rank=rank: getattr(nn, f"InstanceNorm{rank}d")(c, affine=True) for rank in (1, 2, 3)}
LAYER = dict.fromkeys((1, 2, 3), lambda c: nn.GroupNorm(1, c))
