"""Spectral normalization of the reshaped weight, by a power iteration that runs once per change of the weight."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from normwise.core.arguments import check_floating
from normwise.core.lasting import changing_state
from normwise.core.layout import check_memory
from normwise.core.observed import has_values
from normwise.core.tables import check_required
from normwise.core.transforms import outside, under_function_transform, value_outside
from normwise.core.wide_buffers import WideBuffers
from normwise.operations.context import plain_operations_wanted, without_autocast
from normwise.operations.saved import guarded

from .layers import TRANSPOSED, AnyModule, check_numbers, computing_dtype, parametrized, weight_of
from .old_names import know_old_names
from .operator_norm import Grid, OperatorNorm
from .singular_vectors import belonging, generic, iterate, singular_value
from .vector_norm import VectorNorm

# From a generic start, 50 iterations leave σ at most 0.6 % low for Gaussian matrices up to 1000 x 2048
# (torch's 15: 2.8 %).
WARM_UP = 50


def spectral_norm(
    module: AnyModule,
    name: str = "weight",
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    dim: int | None = None,
    operator: bool = False,
    *,
    input_size: int | tuple[int, ...] | None = None,
) -> AnyModule:
    r"""Divide a weight by its largest singular value: a parametrization for linear, convolution and transposed layers.

    .. math:: \bar W = W / \sigma(W), \qquad
              \sigma = u^\top W v, \qquad \frac{\partial\sigma}{\partial W} = u\,v^\top
              \qquad (u, v \text{ constant})

    W is reshaped to ``[out, in / groups * kernel]`` (``dim`` in front); u and v are kept by power iteration:
    ``u = Wv / |Wv|``, then ``v = Wᵀu / |Wᵀu|``, ``n_power_iterations`` times (adjoints where W is complex; a vector
    such as a bias is divided by its length, without an iteration). ``module.weight`` is then W̄,
    ``module.parametrizations.weight.original`` the trained W. Computed in fp32 (fp64 for fp64) under autocast and
    for narrower weights; W̄ has W's dtype.
    **When it iterates.** In training mode, at the first access after W has changed. "Changed"
    means that Wv or Wᵀu differs from its last value; a change that leaves both also leaves uᵀWv. The test is on
    values, so it works with every optimizer, with writes through ``.data``, ``load_state_dict``, copies,
    ``functional_call`` and ``vmap``, and inside a compiled graph, where a version counter does not. Any number of
    forward passes (two before one backward, gradient accumulation, the second pass of activation checkpointing) use the
    same u and v: one iteration per optimizer step. Graphs hold copies of the vectors, so no later step, and no
    broadcast of buffers, disturbs a backward pass. 50 iterations at construction start close to the truth. Their start
    is fixed: ranks agree, and the global random state does not change. (`torch.func.grad` forbids writing buffers: use
    it in evaluation.)

    **Evaluation** writes no buffer, and uses the stored vectors only if they give σ to 1 %: after weights were
    averaged, or loaded alone, they may not belong to W; then u and v are computed from W, to convergence. This is
    checked whenever W or the vectors have other values than at the last evaluation, in compiled and exported graphs at
    each call: `bake` before deployment.

    **Zero weight.** Where σ ≤ ``eps``, W is returned as it is: W = 0 stays 0 with the gradient of the identity, and
    the first iteration starts from generic vectors. The result is finite wherever W is.

    **operator=True** divides by the norm of the layer as a linear map of its input instead. The reshaped matrix
    understates it by up to ``sqrt(kernel size)``: see `OperatorNorm` for what is exact and what is a bound.
    It is recomputed whenever W changes, in evaluation too. ``input_size``, the spatial size of the layer's input,
    makes it exact for circular padding and tighter for zero padding. ``n_power_iterations`` and ``dim`` are not used.

    The state_dict has torch's names (``parametrizations.weight.original``, ``parametrizations.weight.0._u`` and
    ``_v``): those of `torch.nn.utils.parametrizations.spectral_norm` load, and conversely; those of the older
    `torch.nn.utils.spectral_norm` (``weight_orig``, ``weight_u``, ``weight_v``) load, too.

    Raises ValueError for a missing weight or one without dimensions, ``n_power_iterations < 1``, ``dim`` out of range,
    and with ``operator=True`` for vectors and padding modes other than zeros and circular; TypeError for an object that
    is not a module, a weight that is not floating or complex, and with ``operator=True`` one that is not floating.

    Source: Miyato et al. 2018, arXiv:1802.05957. Differs from torch: it iterates once per change instead of at each
    access, evaluation does not use vectors that do not belong to W, a zero weight gives no NaN, and the vectors of fp16
    and bf16 weights are fp32.

    >>> layer = spectral_norm(torch.nn.Linear(20, 40)).eval()
    >>> bool((torch.linalg.matrix_norm(layer.weight, 2) - 1).abs() < 0.02)
    True
    >>> with torch.no_grad():
    ...     _ = layer.parametrizations.weight.original.zero_()
    >>> layer.weight.abs().max().item()
    0.0
    """
    weight = weight_of(module, name, "spectral_norm")
    if not eps >= 0:
        raise ValueError(f"spectral_norm: eps must be 0 or more, received {eps}.")
    if weight.dim() < (2 if operator else 1):
        raise ValueError(
            f"spectral_norm: {name!r} is {weight.dim()}-D {list(weight.shape)}, "
            + ("which is no linear map: leave operator=True out." if weight.dim() else "a single number.")
        )
    norm = _parametrization(module, name, weight, n_power_iterations, eps, dim, operator, input_size)
    know_old_names(module, name, type(norm))
    return parametrized(module, name, norm)


def _parametrization(
    module: nn.Module,
    name: str,
    weight: Tensor,
    n_power_iterations: int,
    eps: float,
    dim: int | None,
    operator: bool,
    input_size: int | tuple[int, ...] | None,
) -> nn.Module:
    """The parametrization for a weight, after a check of the options."""
    if operator:
        check_floating(weight, f"spectral_norm({name!r}, operator=True)")
        if n_power_iterations != 1 or dim is not None:
            raise ValueError(
                "spectral_norm(operator=True) computes the norm directly and reshapes nothing: "
                "leave n_power_iterations and dim out."
            )
        return OperatorNorm(Grid.of(module, input_size, "spectral_norm"), eps)
    if input_size is not None:
        raise ValueError("spectral_norm: input_size only matters for the operator's norm; add operator=True.")
    if not isinstance(n_power_iterations, int) or n_power_iterations < 1:
        raise ValueError(f"spectral_norm: n_power_iterations must be 1, 2, ..., received {n_power_iterations!r}.")
    if dim is None:
        dim = 1 if isinstance(module, TRANSPOSED) else 0
    if not -weight.dim() <= dim < weight.dim():
        raise ValueError(
            f"spectral_norm: dim must be in [{-weight.dim()}, {weight.dim() - 1}] for {name!r} of shape "
            f"{list(weight.shape)}, received {dim}."
        )
    if weight.dim() == 1:
        return VectorNorm(eps)
    return SpectralNorm(weight, n_power_iterations, dim % weight.dim(), eps)


class SpectralNorm(WideBuffers):
    """The parametrization that `spectral_norm` registers; ``_u`` and ``_v`` are the singular vectors.

    They stay in at least fp32: the 8 bits of bf16 are too few for a norm.
    """

    wide = ("_u", "_v", "_image", "_coimage")
    #: From the last evaluation: copies of the matrix and the stored vectors, and the vectors that were used.
    _last: tuple[list[Tensor], tuple[Tensor, Tensor]] | None = None
    _u: Tensor
    _v: Tensor
    _image: Tensor
    _coimage: Tensor

    def __init__(self, weight: Tensor, n_power_iterations: int, dim: int, eps: float) -> None:
        super().__init__()
        self.n_power_iterations, self.dim, self.eps = n_power_iterations, dim, eps
        matrix = as_matrix(weight.detach(), dim).to(computing_dtype(weight))
        with torch.no_grad(), without_autocast(matrix):
            u, v, image, coimage = iterate(matrix, torch.mv(matrix, generic(matrix[0])), WARM_UP)
            self.register_buffer("_u", u)
            self.register_buffer("_v", v)
            # Wv and Wᵀu at the last access in training. Not in the state_dict: after loading, the next step iterates,
            # as the saved run did after its optimizer step.
            self.register_buffer("_image", image, persistent=False)
            self.register_buffer("_coimage", coimage, persistent=False)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set generic vectors, from which the next step iterates."""
        for vector in (self._u, self._v):
            vector.copy_(generic(vector))
        for image in (self._image, self._coimage):
            image.zero_()

    def forward(self, weight: Tensor) -> Tensor:
        check_numbers(weight, "spectral_norm")
        with without_autocast(weight):
            wide = weight.to(computing_dtype(weight))
            matrix = as_matrix(wide, self.dim)
            with changing_state(*(self.buffers() if self.training else ())):
                u, v = (self._iterated if self.training else self._trustworthy)(matrix.detach())
            sigma = singular_value(matrix, u, v)
            unit = (wide / torch.where(sigma > self.eps, sigma, torch.ones_like(sigma))).to(weight.dtype)
        return guarded(unit, weight)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Make ``module.weight = ...`` set the weight before normalization."""
        return weight

    @torch.no_grad()
    def _trustworthy(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """The singular vectors in evaluation: the stored ones if they belong to the matrix."""
        if plain_operations_wanted() or matrix.is_meta:
            return belonging(matrix, *self._stored(matrix))
        now = (matrix, self._u, self._v)
        if self._last is None or not all(map(_is_same, self._last[0], now)):
            self._last = [t.clone() for t in now], belonging(matrix, *self._stored(matrix))
        return self._last[1]

    def _stored(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """The stored vectors as new tensors, since the backward pass will read them."""
        rows, columns = matrix.shape
        _check_vector(matrix, (rows,), _u=self._u)
        _check_vector(matrix, (columns,), _v=self._v)
        check_memory(self._u, self._v)
        return self._u.to(matrix.dtype, copy=True), self._v.to(matrix.dtype, copy=True)

    @torch.no_grad()
    def _iterated(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """The singular vectors in training."""
        if under_function_transform() and not torch.compiler.is_compiling():
            # As torch's does, it updates the vectors inside a transform, too, unless that is a `vmap`.
            matrix_outside = value_outside(matrix)
            if matrix_outside is not None and all(value_outside(t) is t for t in self.buffers()):
                with outside():
                    return self._iterate(matrix_outside.detach())
        return self._iterate(matrix)

    def _iterate(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """The power iteration if the matrix has changed since the last access, otherwise the stored vectors."""
        u, v = self._stored(matrix)
        _check_vector(matrix, u.shape, _image=self._image)
        _check_vector(matrix, v.shape, _coimage=self._coimage)
        image, coimage = torch.mv(matrix, v), torch.mv(matrix.mH, u)
        # One of the two alone is not enough: the gradient is orthogonal to W, so for a single row Wv hardly changes.
        changed = (image != self._image).any() | (coimage != self._coimage).any()
        # On the CPU the result can be read at once; on an accelerator that would wait, and a graph cannot read it.
        if has_values(changed) and not changed:
            return u, v
        news = iterate(matrix, image, self.n_power_iterations)
        olds = (u, v, image, coimage)
        state = [torch.where(changed, new, old) for new, old in zip(news, olds, strict=True)]
        for buffer, value in zip((self._u, self._v, self._image, self._coimage), state, strict=True):
            buffer.copy_(value)
        return state[0], state[1]

    def extra_repr(self) -> str:
        return f"n_power_iterations={self.n_power_iterations}, eps={self.eps}, dim={self.dim}"


def _check_vector(matrix: Tensor, shape: tuple[int, ...], **vector: Tensor) -> None:
    real = {name: v.real if isinstance(v, Tensor) and matrix.is_complex() else v for name, v in vector.items()}
    check_required("spectral_norm", matrix, shape, **real)


def as_matrix(weight: Tensor, dim: int) -> Tensor:
    """``weight`` as a matrix ``[n_dim, everything else]``."""
    return weight.movedim(dim, 0).flatten(1)


def _is_same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)
