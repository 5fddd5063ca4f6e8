"""What the tests of the conditional layers share."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import normwise as nw

C, K = 5, 3
SHAPES = {1: (4, C, 7), 2: (4, C, 3, 5), 3: (4, C, 2, 3, 2)}
INSTANCE = {1: nw.ConditionalInstanceNorm1d, 2: nw.ConditionalInstanceNorm2d, 3: nw.ConditionalInstanceNorm3d}
BATCH = {1: nw.ConditionalBatchNorm1d, 2: nw.ConditionalBatchNorm2d, 3: nw.ConditionalBatchNorm3d}
PLAIN = {
    **{INSTANCE[rank]: partial(getattr(nn, f"InstanceNorm{rank}d"), affine=True) for rank in SHAPES},
    **{BATCH[rank]: getattr(nn, f"BatchNorm{rank}d") for rank in SHAPES},
}
EVERY = [pytest.param(cls, SHAPES[rank], id=cls.__name__) for table in (INSTANCE, BATCH) for rank, cls in table.items()]
both = pytest.mark.parametrize("cls", [nw.ConditionalInstanceNorm2d, nw.ConditionalBatchNorm2d])
LABELS = torch.tensor([2, 0, 0, 1])
WEIGHTS = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0], [0.2, 0.3, 0.5], [2.0, -1.0, 0.0]])


def trained(cls, **options):
    layer = cls(C, K, **options)
    with torch.no_grad():
        layer.weight.uniform_(0.5, 1.5)
        layer.bias.normal_()
        if getattr(layer, "running_var", None) is not None:
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 1.5)
    return layer


def by_the_paper(layer, x, condition):
    """Loops over the planes in float64; a label is the weight 1 on its row."""
    values, weight, bias = (t.detach().double().numpy() for t in (x, layer.weight, layer.bias))
    shares = np.eye(K)[condition.numpy()] if condition.dim() == 1 else condition.double().numpy()
    y = np.empty_like(values)
    for n, c in np.ndindex(values.shape[:2]):
        pool = values[:, c] if isinstance(layer, nn.modules.batchnorm._BatchNorm) else values[n, c]
        mean, var = pool.sum() / pool.size, ((pool - pool.sum() / pool.size) ** 2).sum() / pool.size
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and not layer.training:
            mean, var = (float(t[c]) for t in (layer.running_mean, layer.running_var))
        gamma, beta = (sum(shares[n, k] * table[k, c] for k in range(K)) for table in (weight, bias))
        y[n, c] = gamma * (values[n, c] - mean) / np.sqrt(var + layer.eps) + beta
    return torch.from_numpy(y)
