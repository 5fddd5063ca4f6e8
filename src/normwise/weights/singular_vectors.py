"""The singular vectors of a matrix's largest singular value, by single steps and to convergence."""

from __future__ import annotations

import torch
from torch import Tensor

# How often the Gram matrix is squared for the converged vectors: like 2^8 iterations from all starts at once.
SQUARINGS = 8
# The relative error of the norm by the stored vectors up to which evaluation accepts them.
SLACK = 0.01


def belonging(matrix: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """``u`` and ``v`` if they give the norm of ``matrix``, otherwise the matrix's own singular vectors."""
    own = _top_vectors(matrix)
    norm, given = (singular_value(matrix, left, right) for left, right in (own, (u, v)))
    serve = (given - norm).abs() <= SLACK * norm
    return torch.where(serve, u, own[0]), torch.where(serve, v, own[1])


def singular_value(matrix: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Re(u* W v), a real number also for complex matrices."""
    value = torch.dot(u.conj(), torch.mv(matrix, v))
    return value.real if value.is_complex() else value


def _top_vectors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """u and v of the largest singular value.

    A high power of the smaller Gram matrix is close to ``v v*``: its column with the largest diagonal entry is v.
    Unlike an iteration from one start, it cannot miss a direction that is orthogonal to the start.
    """
    scale = matrix.abs().max()
    usable = (scale > 0) & (scale < torch.inf)
    scaled = torch.where(usable, matrix / scale, torch.zeros_like(matrix))  # no square overflows or vanishes
    tall = matrix.shape[0] >= matrix.shape[1]
    power = scaled.mH @ scaled if tall else scaled @ scaled.mH
    for _ in range(SQUARINGS):
        length = torch.linalg.matrix_norm(power)
        power = power / torch.where(length > 0, length, torch.ones_like(length))
        power = power @ power
    column = power.index_select(1, power.diagonal().abs().argmax().reshape(1)).squeeze(1)
    image = torch.mv(scaled, column) if tall else column
    u, v, _, _ = iterate(scaled, image, 2)
    return u, v


def iterate(matrix: Tensor, image: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """u = unit(Wv) and v = unit(W*u), from ``image`` = W v_old; and Wv and W*u for the new ones."""
    for _ in range(iterations):
        u = _unit(image)
        coimage = torch.mv(matrix.mH, u)
        v = _unit(coimage)
        image = torch.mv(matrix, v)
    return u, v, image, coimage  # pyright: ignore[reportPossiblyUnboundVariable]


def _unit(x: Tensor) -> Tensor:
    """x / |x|, or the generic unit vector where x has no direction, so that the iteration can always start again."""
    length = torch.linalg.vector_norm(x)
    usable = (length > 0) & (length < torch.inf)
    return torch.where(usable, x / torch.where(usable, length, torch.ones_like(length)), generic(x))


def generic(like: Tensor) -> Tensor:
    """A fixed unit vector without structure, so that hardly any weight's top singular vector is orthogonal to it."""
    n = torch.arange(like.shape[-1], dtype=like.abs().dtype, device=like.device)
    values = torch.cos(n * n)
    return (values / torch.linalg.vector_norm(values)).to(like.dtype)
