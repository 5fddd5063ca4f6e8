"""Adaptive gradient clipping unit by unit in float64 NumPy, as the official code has it."""

import numpy as np
import torch


def clipped(grad, norm_of_weight, norm_of_grad, clip, eps):
    """The official rule for one unit."""
    largest = clip * max(norm_of_weight, eps)
    return grad * (largest / max(norm_of_grad, 1e-6)) if norm_of_grad > largest else grad


def whole(weight, grad, clip, eps):
    """Scalars and vectors: one norm."""
    w, g = weight.detach().double().numpy(), grad.double().numpy()
    return clipped(g, np.sqrt((w**2).sum()), np.sqrt((g**2).sum()), clip, eps)


def by_units(weight, grad, units, clip, eps):
    """`units[o]` is a boolean mask of the weights that belong to output unit o."""
    w, g = weight.detach().double().numpy(), grad.double().numpy()
    result = g.copy()
    for unit in units:
        mask = unit.numpy()
        result[mask] = clipped(g[mask], np.sqrt((w[mask] ** 2).sum()), np.sqrt((g[mask] ** 2).sum()), clip, eps)
    return result


def units_of(layer, weight, x):
    """Which weights feed each output channel, asked of the layer itself: where the output's derivative is not 0."""
    masks = []
    channel = 1 if x.dim() > 2 else -1
    for o in range(layer(x).shape[channel]):
        (derivative,) = torch.autograd.grad(layer(x).select(channel, o).sum(), weight)
        masks.append(derivative != 0)
    return masks


def official_layout(weight, grad, clip, eps):
    """For OIHW and OI tensors: moved to HWIO and IO, where the official code reduces all axes but the last."""
    order = (*range(2, weight.dim()), 1, 0)
    w, g = (t.detach().double().numpy().transpose(order) for t in (weight, grad))
    axes = tuple(range(w.ndim - 1))
    norm_w, norm_g = (np.sqrt((t**2).sum(axes, keepdims=True)) for t in (w, g))
    largest = clip * np.maximum(norm_w, eps)
    result = np.where(norm_g > largest, g * (largest / np.maximum(norm_g, 1e-6)), g)
    return result.transpose(np.argsort(order))


def timms_reading(weight, grad, clip, eps):
    """A second reading of the paper: all dimensions but 0, a vector as a whole, `<` leaves the gradient."""
    dims = tuple(range(1, weight.dim())) or None
    norm_w, norm_g = (torch.linalg.vector_norm(t.detach(), dim=dims, keepdim=True) for t in (weight, grad))
    largest = norm_w.clamp(min=eps) * clip
    return torch.where(norm_g < largest, grad, grad * (largest / norm_g.clamp(min=1e-6)))
