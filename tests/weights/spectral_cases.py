"""What the tests of spectral normalization share."""

import numpy as np
import torch
from torch import nn


def norm_of(layer):
    return layer.parametrizations.weight[0]


def raw(layer):
    return layer.parametrizations.weight.original


def vectors(layer):
    return norm_of(layer)._u.clone(), norm_of(layer)._v.clone()


def numpy_matrix(weight, layer):
    """``[out, ...]`` for convolutions, dimension 1 in front for transposed ones, as torch reshapes."""
    array = weight.detach().double().numpy()
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        array = np.moveaxis(array, 1, 0)
    return array.reshape(array.shape[0], -1)


def step(layer, size=0.1):
    with torch.no_grad():
        raw(layer).add_(torch.randn_like(raw(layer)), alpha=size)
