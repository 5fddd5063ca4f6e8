"""Linear layers as explicit matrices, and their norms by numpy's SVD."""

import itertools
import math

import numpy as np
import torch


def dense(layer, size):
    """The matrix of a layer without its bias: one column for each basis vector of the input."""
    channels = layer.in_channels
    basis = torch.eye(channels * math.prod(size), dtype=torch.float64).reshape(-1, channels, *size)
    bias, layer.bias = layer.bias, None
    with torch.no_grad():
        columns = layer.double().eval()(basis).flatten(1)
    layer.bias = bias
    return columns.T.numpy()


def true_norm(layer, size):
    return np.linalg.svd(dense(layer, size), compute_uv=False)[0]


def dense_by_loops(weight, n, padding, circular):
    """A 1-D convolution's matrix from its definition: y[o, i] = Σ W[o, c, t] x[c, i + t - padding]."""
    out, channels, taps = weight.shape
    length = n + 2 * padding - taps + 1
    matrix = np.zeros((out, length, channels, n))
    for o, i, c, t in itertools.product(range(out), range(length), range(channels), range(taps)):
        j = i + t - padding
        if circular or 0 <= j < n:
            matrix[o, i, c, j % n] += weight[o, c, t]
    return matrix.reshape(out * length, channels * n)
