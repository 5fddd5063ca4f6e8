"""Convert the tensors of a split into the samples and targets of a task."""

from __future__ import annotations

import torch
from torch import Tensor

from ..settings import InputError
from ..tasks import IGNORED, TASKS
from .in_memory import channels_of
from .text import CONTEXT, in_rows

Pair = tuple[Tensor, Tensor]


def samples_of(name: str, task: str, x: Tensor, y: Tensor | None) -> Pair:
    """Samples and targets, checked; for language the targets are the next tokens. InputError if they do not fit."""
    task_class = TASKS[task]
    if x.is_floating_point():
        x = x.float()
    elif not task_class.takes_ids:
        raise InputError(f"{name}: samples are of type {x.dtype}; return floating point, such as x.float() / 255.")
    elif x.numel() and x.min() < 0:
        raise InputError(f"{name}: token numbers go down to {int(x.min())}; number them from 0.")
    else:
        x = x.long()
    if y is None and task != "language":
        raise InputError(f"{name}: there are samples without targets; give pairs (x, y).")
    if y is None:
        x, y = _followed(name, x)
    if len(x) != len(y):
        raise InputError(f"{name}: there are {len(x)} samples and {len(y)} targets; give one target per sample.")
    if x.dim() < 2:
        raise InputError(f"{name}: samples have shape {list(x.shape)}; return [N, C, H, W], [N, C, L] or [N, C].")
    return x, task_class.targets(name, x, y)


def _followed(name: str, x: Tensor) -> Pair:
    """Tokens and the next token of each, from one long row or from rows [N, L + 1]."""
    if x.dim() == 1:
        if len(x) <= CONTEXT:
            raise InputError(f"{name}: a row of {len(x)} tokens is too short; give more than {CONTEXT}.")
        return in_rows(x, CONTEXT)
    if x.dim() != 2 or x.shape[1] < 2:
        raise InputError(f"{name}: tokens have shape {list(x.shape)}; give one long row, or [N, L + 1].")
    return x[:, :-1].contiguous(), x[:, 1:].contiguous()


def classes_of(task: str, *splits: Pair) -> tuple[str, ...]:
    """Names for the classes of the first split, the training split; for language names for all tokens."""
    targets = splits[0][1]
    if task == "regression":
        return tuple(str(number) for number in range(targets.shape[1]))
    highest = int(targets[targets != IGNORED].max()) if targets.numel() else 0
    if task == "language":
        highest = max(channels_of(task, x, y) - 1 for x, y in splits)
    return tuple(map(str, range(max(highest, 0) + 1)))


def padded(rows: list[Tensor], fill: int) -> Tensor:
    """Sequences `[L]` or `[L, C]` of different lengths as one tensor."""
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=fill)
