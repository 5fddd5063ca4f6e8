"""Tiny models and data of other tasks than classification, also reachable as `task_problems:name`."""

import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset

from normwise.layers import make_norm


def numbers(samples=40, seed=0):
    """Two features and their sum."""
    x = torch.randn(samples, 2, generator=torch.Generator().manual_seed(seed))
    return x, x.sum(1) * 3 + 50


def splits():
    return numbers(40, 0), numbers(20, 1)


def net(norm, in_channels, outputs):
    return nn.Sequential(nn.Linear(in_channels, 8), make_norm(norm, 8, rank=1), nn.ReLU(), nn.Linear(8, outputs))


class Items(Dataset):
    def __init__(self, pairs):
        self.pairs = list(pairs)

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, i):
        return self.pairs[i]


class Stream(IterableDataset):
    """A stream that says how long it is, rightly or not."""

    def __init__(self, x, y, says=None):
        self.x, self.y, self.says = x, y, says

    def __iter__(self):
        return iter(zip(self.x, self.y, strict=True))

    def __len__(self):
        return len(self.x) if self.says is None else self.says


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield torch.zeros(2), torch.zeros(())


def double(x, y):
    """An augmentation."""
    return x + 0.1 * torch.randn_like(x), y


def tokens(text):
    return [ord(letter) % 8 for letter in text]
