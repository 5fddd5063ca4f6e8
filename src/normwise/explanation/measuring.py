"""The measured cube: which values affect which, and which react in the same way."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .draws import IN_A_BLOCK, Draw, Draws
from .grouping import Directions, dependence, with_own

ALONE, MASKED = -1, -2
#: Draws beyond the blocks, for pairs that the blocks did not test.
MORE_DRAWS = 20

#: A function of x and of the direction (1.0 up, -1.0 down) in which parameters are changed a little.
Function = Callable[[Tensor, float], Tensor]


class Measured(NamedTuple):
    """``cube[*shape]`` of integers; ``reads[i, j]`` is whether value j enters the statistics of value i, flattened."""

    cube: Tensor
    reads: Tensor


def measure(function: Function, draws: Draws, valid: Tensor | None = None) -> Measured:
    """Measure ``function``, which maps fp64 to fp64 of the same shape, at ``draws``.

    ``valid`` is the mask of the values that count, of x's shape, or None.
    """
    blocks = draws.blocks()
    slopes = [by_gradient(function, draw).float() for draw in blocks]  # kept until all reads are known
    depends = _any(slopes)
    steps = [by_difference(function, draw) for draw in blocks[::IN_A_BLOCK]]
    moved = _any(steps)
    influence, influences = by_gradient, slopes
    # Statistics without a gradient show only in differences; batch renormalization that is not clipped
    # shows only in the gradient.
    if bool((moved & ~depends).any()):
        influence, influences = by_difference, [by_difference(function, draw) for draw in blocks]
    reads = with_own(depends | moved)
    directions = Directions(reads)
    for draw, found in zip(blocks, influences, strict=True):
        directions.look(found.double(), draw.equal, draw.sign)
    for sign in (1.0, -1.0):
        for _ in range(MORE_DRAWS):
            if not directions.lacks(sign):
                break
            draw = draws.another(sign)
            directions.look(influence(function, draw), draw.equal, sign)
    return _numbered(directions.groups(), reads, draws.shape, valid)


def _any(influences: Sequence[Tensor]) -> Tensor:
    return torch.stack([dependence(found) for found in influences]).any(0)


def _numbered(groups: Tensor, reads: Tensor, shape: tuple[int, ...], valid: Tensor | None) -> Measured:
    """The cube from the groups: numbers in the order of appearance, -1 and -2 for values without a statistic."""
    others = reads.clone().fill_diagonal_(False)
    alone = ~others.any(1)
    cube = torch.where(alone, ALONE, groups)
    reads = reads & ~alone.unsqueeze(1)
    if valid is not None and bool(others.any()):
        cube = torch.where(~valid.flatten() & ~others.any(0), MASKED, cube)
    order = {group: number for number, group in enumerate(dict.fromkeys(g for g in cube.tolist() if g >= 0))}
    cube = torch.tensor([order.get(group, group) for group in cube.tolist()])
    return Measured(cube.reshape(shape), reads)


def by_gradient(function: Function, draw: Draw) -> Tensor:
    """The Jacobian ``[i, j]`` of the flattened output i by the flattened input j; 0 where there is no gradient."""
    x = draw.x.clone().requires_grad_()
    y = function(x, draw.sign)
    size = x.numel()
    if not y.requires_grad:
        return torch.zeros(size, size, dtype=torch.float64)
    ones = torch.eye(size, dtype=y.dtype, device=y.device).reshape(size, *y.shape)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about operators that are run one by one
            found = torch.autograd.grad(y, x, ones, retain_graph=True, allow_unused=True, is_grads_batched=True)
    except (RuntimeError, NotImplementedError):  # an autograd function that does not support vmap
        return torch.stack([_one(y, one, x) for one in ones]).cpu()
    slopes = found[0]
    return torch.zeros(size, size, dtype=torch.float64) if slopes is None else slopes.reshape(size, size).cpu()


def _one(y: Tensor, cotangent: Tensor, x: Tensor) -> Tensor:
    (slope,) = torch.autograd.grad(y, x, cotangent, retain_graph=True, allow_unused=True)
    return torch.zeros(x.numel(), dtype=x.dtype) if slope is None else slope.flatten()


def by_difference(function: Function, draw: Draw) -> Tensor:
    """The effect of a step of each value, one after the other, on all outputs, ``[i, j]``."""
    with torch.no_grad():
        before = function(draw.x.clone(), draw.sign)
        columns = []
        for number in range(draw.x.numel()):
            x = draw.x.clone()
            x.view(-1)[number] += draw.step
            columns.append((function(x, draw.sign) - before).flatten().double().cpu())
    return torch.stack(columns, 1)
