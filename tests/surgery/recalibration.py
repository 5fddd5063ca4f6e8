"""What the tests of `recalibrate` share: nets, and everything of a model that must not change."""

import random
import warnings
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def unwarned():
    """For small data, which `recalibrate` rightly warns of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="recalibrate: (Few samples|Large drift)", category=UserWarning)
        yield


def moments(*parts):
    """Mean and unbiased variance of each channel over all parts, in fp64 NumPy."""
    columns = [part.detach().double().transpose(0, 1).flatten(1) for part in parts]
    values = torch.cat(columns, 1).numpy()
    return torch.tensor(values.mean(1)), torch.tensor(values.var(1, ddof=1))


def photographs(samples, channels=3, size=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randn(samples, channels, 1, 1, generator=generator)
    return torch.randn(samples, channels, size, size, generator=generator) * 2 + shift + 3


class Counted(nn.Module):
    """A buffer that a forward pass changes, and that is no statistic."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls.add_(1)
        return x


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), Counted(), nn.Dropout(), nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5)
    )


def fingerprint(model):
    """Objects by identity, what containers hold, modes and numbers: all but what `recalibrate` is to change."""
    found = {}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            held = [*value.items()] if isinstance(value, dict) else value if isinstance(value, bool) else None
            found[name, key] = (id(value), repr(held) if isinstance(held, bool) else [id(v) for _, v in held or ()])
        for key, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and not key.startswith(("running_", "num_batches")):
                found[name, key, "values"] = (tensor.clone().tolist(), tensor.requires_grad, tensor._version)
    return found


def surroundings():
    """What belongs to the process."""
    state = np.random.get_state()[1].tolist()
    return torch.get_rng_state().tolist(), state, random.getstate(), torch.is_grad_enabled()
