"""The norm of a convolution as a linear map, from the symbol of its kernel on a grid of frequencies."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from normwise.core.lasting import changing_state
from normwise.core.layout import check_memory
from normwise.operations.context import plain_operations_wanted, without_autocast
from normwise.operations.saved import guarded

from .layers import CONVOLUTIONS, TRANSPOSED, check_layer, computing_dtype

# Without an input size, 8 (k - 1) frequencies per dimension keep the bound within 2 % per dimension (1 / cos(π/16)).
DENSITY = 8
# The number of complex values of the symbol held at a time: 64 MiB in fp32, half of it for the Gram matrices.
CHUNK = 1 << 22


class Grid(NamedTuple):
    """The frequencies that bound a layer: ``frequencies[i]`` of them in spatial dimension i."""

    groups: int
    kernel: tuple[int, ...]
    dilation: tuple[int, ...]
    frequencies: tuple[int, ...]
    excess: float  # the largest value on the grid, times this, bounds the values at all other frequencies
    exact: bool  # whether the bound is the layer's norm

    @classmethod
    def of(cls, module: nn.Module, input_size: int | tuple[int, ...] | None, caller: str) -> Grid:
        check_layer(module, caller)
        if not isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)):
            return cls(1, (), (), (), 1.0, exact=True)
        rank = len(module.kernel_size)
        _check_padding(module, caller)
        kernel = tuple(module.kernel_size)
        pointwise = all(k == 1 for k in kernel)
        if input_size is None:
            count = tuple(max(DENSITY * (k - 1), 1) for k in kernel)
            excess = math.prod(1 / math.cos(math.pi * (k - 1) / (2 * n)) for k, n in zip(kernel, count, strict=True))
            # The supremum over all frequencies does not depend on the dilation.
            return cls(module.groups, kernel, (1,) * rank, count, excess, exact=pointwise)
        size = _spatial(input_size, rank, caller)
        whole = all(s == 1 for s in module.stride)
        if module.padding_mode == "circular":
            exact = pointwise or (whole and all(_padding(module, d) == _reach(module, d) for d in range(rank)))
            return cls(module.groups, kernel, tuple(module.dilation), size, 1.0, exact)
        if isinstance(module, TRANSPOSED):
            size = tuple((n - 1) * s + 1 for n, s in zip(size, module.stride, strict=True))
        torus = tuple(n + _reach(module, d) for d, n in enumerate(size))
        return cls(module.groups, kernel, tuple(module.dilation), torus, 1.0, exact=pointwise)


def _spatial(size: int | tuple[int, ...], rank: int, caller: str) -> tuple[int, ...]:
    sizes = (size,) * rank if isinstance(size, int) else tuple(size)
    if len(sizes) != rank or not all(isinstance(n, int) and n > 0 for n in sizes):
        raise ValueError(
            f"{caller}: input_size must be {rank} positive integer(s), the spatial size of the layer's input, "
            f"received {size}."
        )
    return sizes


def _reach(module: nn.Module, d: int) -> int:
    return module.dilation[d] * (module.kernel_size[d] - 1)  # type: ignore[index]


def _padding(module: nn.Module, d: int) -> int:
    """The number of zeros or wrapped values added in dimension d, both sides together."""
    if isinstance(module.padding, str):
        return _reach(module, d) if module.padding == "same" else 0
    return 2 * module.padding[d]  # type: ignore[index]


def _check_padding(module: nn.Module, caller: str) -> None:
    """ValueError for padding whose operator norm is not known."""
    if module.padding_mode not in ("zeros", "circular"):
        raise ValueError(
            f"{caller}: the operator's norm is known for padding_mode 'zeros' and 'circular', not "
            f"{module.padding_mode!r}, which repeats values; use one of these or the reshaped matrix."
        )
    if module.padding_mode == "circular":
        for d in range(len(module.kernel_size)):  # type: ignore[arg-type]
            if _padding(module, d) > _reach(module, d):
                raise ValueError(
                    f"{caller}: circular padding of {_padding(module, d)} in dimension {d} exceeds dilation * "
                    f"(kernel - 1) = {_reach(module, d)}, so outputs would be repeated; use padding='same'."
                )


class OperatorNorm(nn.Module):
    r"""The parametrization behind `spectral_norm(operator=True)`: W / ‖layer‖, or W / (a certified bound of it).

    With ``Ŵ(ω) = Σ_t W_t exp(-i ω·t)``, the ``[out, in]`` *symbol* of the kernel at frequency ω:

    - **Circular padding, stride 1, input_size given: exact.** The layer is block-circulant; a Fourier transform
      turns it into one block ``Ŵ(2π j / n)`` per frequency, so its norm is the largest singular value of these
      (Sedghi, Gupta and Long 2019, arXiv:1805.10408).
    - **Zero padding: an upper bound.** Zero padding embeds the input in the unbounded grid, convolves there, and
      keeps a window of the result. Embedding and keeping have norm 1, so the layer's norm is at most
      ``sup_ω σ_max(Ŵ(ω))`` (the Toeplitz bound; Araujo et al. 2021, arXiv:2006.08391). It is approached as the
      input grows. With ``input_size`` n, a torus of ``n + dilation (k - 1)`` replaces the unbounded grid, since
      nothing wraps around there: its finitely many frequencies suffice, and the bound is a little smaller.
    - **Without input_size: from a grid to all frequencies.** ``Re(c u* Ŵ v)`` with unit u, v and |c| = 1 is, up to
      a phase, of exponential type ``m = (k - 1) / 2`` in each ω_i, so around its maximum M it is at least
      ``M cos(m δ)`` at a distance δ (the Bernstein-Szegő inequality; Ehlich and Zeller 1964). The nearest of N
      equidistant frequencies is within ``π / N``: the supremum is at most the maximum on the grid times
      ``Π 1 / cos(π m / N)``. N = 8 (k - 1) makes that 1.02 per dimension. It holds for every input size and for
      circular padding, too.
    - **Stride > 1**: the outputs are a part of those of stride 1, so the bound holds, but is not exact.
      **Transposed**: the adjoint of a convolution, with the same norm. **Dilation** is a change of ω. **Groups**
      are blocks of a block-diagonal map: the largest one counts. Linear and 1 x 1 layers: exact.

    The norm is computed whenever the weight has other values than last time, in training and in evaluation, by
    eigenvalues of Gram matrices in fp32 (fp64 for fp64). So it is right up to rounding, and after casting to fp16 or
    bf16 up to their rounding. That is one Hermitian eigenproblem of the smaller number of channels for each of about
    ``Π 8 (k - 1) / 2`` frequencies: fast for tens of channels, slow for many hundreds.

    The gradient is computed with the singular vectors and the frequency held constant, which gives
    the norm's own gradient. There are no buffers; compiled and exported graphs compute the norm at each call: `bake`
    before deployment, and for ONNX, which has no eigenvalues.
    """

    def __init__(self, grid: Grid, eps: float) -> None:
        super().__init__()
        self.grid, self.eps = grid, eps
        self._last: tuple[Tensor, Tensor] | None = None  # a copy of the weight, and its direction

    def forward(self, weight: Tensor) -> Tensor:
        check_memory(weight)
        with without_autocast(weight):
            wide = weight.to(computing_dtype(weight))
            with changing_state():
                direction = self._direction(wide.detach())
            sigma = (wide * direction).sum()
            unit = (wide / torch.where(sigma > self.eps, sigma, torch.ones_like(sigma))).to(weight.dtype)
        return guarded(unit, weight)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Make ``module.weight = ...`` set the weight before normalization."""
        return weight

    @torch.no_grad()
    def _direction(self, weight: Tensor) -> Tensor:
        """`steepest_direction` of a weight, computed again only if the weight has changed."""
        if plain_operations_wanted() or weight.is_meta:
            return steepest_direction(weight, self.grid)
        if self._last is not None:
            seen, direction = self._last
            if seen.dtype == weight.dtype and seen.device == weight.device and torch.equal(seen, weight):
                return direction
        direction = steepest_direction(weight, self.grid)
        self._last = weight.clone(), direction
        return direction

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors) -> None:  # type: ignore[no-untyped-def]
        """Ignore the singular vectors of a checkpoint of the reshaped matrix, which have no use here."""
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)
        for key in (prefix + "_u", prefix + "_v"):
            if key in unexpected:
                unexpected.remove(key)

    def extra_repr(self) -> str:
        return f"eps={self.eps}, frequencies={self.grid.frequencies}, exact={self.grid.exact}"


def steepest_direction(weight: Tensor, grid: Grid) -> Tensor:
    r"""The tensor D of the weight's shape with bound(W) = ⟨W, D⟩ and ∂bound/∂W = D; zeros for a zero weight.

    D is ``excess * Re(conj(u) vᵀ exp(-i ω·t))`` at the frequency (and group) where the symbol's largest singular
    value is largest.
    """
    scale = weight.abs().amax()
    usable = (scale > 0) & (scale < torch.inf)
    # Scaled to 1, the squares in the Gram matrices neither overflow nor vanish. A weight that is not finite has no
    # direction, and LAPACK would raise an error.
    safe = torch.where(usable, weight / scale, torch.zeros_like(weight))
    kernel = safe.reshape(grid.groups, weight.shape[0] // grid.groups, weight.shape[1], -1)
    cosines, sines = _waves(grid, weight)
    tops = torch.cat([_largest_squares(_symbol(kernel, c, s)) for c, s in _chunks(cosines, sines, kernel)])
    flat = tops.flatten().argmax()
    frequency, group = flat // grid.groups, flat % grid.groups
    cosine, sine = (wave.index_select(0, frequency.reshape(1)) for wave in (cosines, sines))
    block = kernel.index_select(0, group.reshape(1))
    u, v = _top_vectors(_symbol(block, cosine, sine)[0, 0])
    pairs = torch.outer(u.conj(), v).unsqueeze(-1)
    direction = pairs.real * cosine[0] + pairs.imag * sine[0]
    chosen = torch.arange(grid.groups, device=weight.device) == group
    return (chosen.to(weight.dtype).reshape(-1, 1, 1, 1) * direction * grid.excess).reshape(weight.shape)


def _waves(grid: Grid, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of ω·t for the frequencies of a half space, ``[F, taps]``; a real kernel is symmetric in ω."""
    if not grid.kernel:
        return like.new_ones(1, 1), like.new_zeros(1, 1)
    halved = (*grid.frequencies[:-1], grid.frequencies[-1] // 2 + 1)
    steps = [
        torch.arange(h, dtype=torch.float64, device="cpu") * (2 * math.pi * d / n)
        for h, n, d in zip(halved, grid.frequencies, grid.dilation, strict=True)
    ]
    taps = [torch.arange(k, dtype=torch.float64, device="cpu") for k in grid.kernel]
    angles = _product(steps) @ _product(taps).T
    return tuple(wave.to(like.device, like.dtype) for wave in (angles.cos(), angles.sin()))  # type: ignore[return-value]


def _product(axes: list[Tensor]) -> Tensor:
    """All combinations, the last axis fastest: [product of lengths, number of axes]."""
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))


def _chunks(cosines: Tensor, sines: Tensor, kernel: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    rows = max(1, CHUNK // max(kernel.shape[:3].numel(), 1))
    return zip(cosines.split(rows), sines.split(rows), strict=True)


def _symbol(kernel: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Σ_t W_t exp(-i ω·t): ``[groups, a, b, taps]`` and ``[F, taps]`` to ``[F, groups, a, b]``, complex."""
    return torch.complex(kernel @ cosines.T, -(kernel @ sines.T)).movedim(-1, 0)


def _gram(matrix: Tensor) -> Tensor:
    """The smaller of M*M and MM*; both have the squares of M's largest singular values."""
    return matrix.mH @ matrix if matrix.shape[-1] <= matrix.shape[-2] else matrix @ matrix.mH


def _largest_squares(matrix: Tensor) -> Tensor:
    gram = _gram(matrix)
    if gram.shape[-1] == 1:  # depthwise: most of the time would be spent on a library call for each number
        return gram.real[..., 0, 0]
    return torch.linalg.eigvalsh(gram)[..., -1]


def _top_vectors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The left and right singular vectors of one complex matrix's largest singular value; zeros for zero."""
    small = torch.linalg.eigh(_gram(matrix)).eigenvectors[:, -1]
    tall = matrix.shape[-1] <= matrix.shape[-2]
    large = (matrix if tall else matrix.mH) @ small
    length = torch.linalg.vector_norm(large)
    large = large / torch.where(length > 0, length, torch.ones_like(length))
    return (large, small) if tall else (small, large)
