"""The papers' equations of weight standardization in float64 NumPy, unit by unit."""

import numpy as np
from torch import nn


def per_unit(weight, layer, rule):
    """Apply ``rule(values of one unit, index of the output channel)`` unit by unit, from the definition."""
    array = weight.detach().double().numpy()
    result = np.empty_like(array)
    if not isinstance(layer, nn.modules.conv._ConvTransposeNd):
        for o in range(array.shape[0]):
            result[o] = rule(array[o], o)
        return result
    groups, inputs, outputs = layer.groups, array.shape[0] // layer.groups, array.shape[1]
    for g in range(groups):
        rows = slice(g * inputs, (g + 1) * inputs)
        for o in range(outputs):
            result[rows, o] = rule(array[rows, o], g * outputs + o)
    return result


def ws_by_the_paper(values, _):
    return (values - values.mean()) / (values.std(ddof=1) + 1e-5)


def scaled_by_the_paper(gain=None, gamma=1.0):
    def rule(values, o):
        scale = 1 / np.sqrt(max(values.var() * values.size, 1e-4)) * (1.0 if gain is None else gain[o])
        return gamma * (values * scale - values.mean() * scale)

    return rule
