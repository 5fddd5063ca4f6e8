"""The weight that a layer applies, and its norms."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from normwise.core.arguments import check_floating
from normwise.core.precision import in_fp64

from .layers import TRANSPOSED, StandardizedConv, chain_of, check_layer
from .operator_norm import Grid, steepest_direction
from .spectral_norm import as_matrix


class Sigma(NamedTuple):
    """Norms of a layer's effective weight; see `sigma`."""

    matrix: float
    operator: float
    slack: float
    excess: float
    exact: bool


def sigma(module: nn.Module, name: str = "weight", input_size: int | tuple[int, ...] | None = None) -> Sigma:
    r"""How much a layer can amplify: the norm of its reshaped weight, and the norm of the layer itself.

    - ``matrix``: the largest singular value of the weight reshaped to ``[out, in / groups * kernel]``, which ordinary
      spectral normalization makes 1.
    - ``operator``: the layer's norm ``max ‖layer(x) - layer(0)‖ / ‖x‖``, or an upper bound of it; see
      `OperatorNorm` for which. ``spectral_norm(operator=True)`` makes it 1.
    - ``slack``: operator / matrix, how much the first understates the layer. Without groups and ``input_size`` it is
      between 1 and ``sqrt(kernel size) * excess``.
    - ``excess``: the bound exceeds the norm on unboundedly large inputs by at most this factor (1 with ``input_size``).
    - ``exact``: whether ``operator`` is the norm (circular padding with stride 1 and ``input_size``; linear and 1 x 1
      layers) or a bound.

    The weight is that of evaluation, with its parametrizations; nothing is changed and no power iteration runs. It is
    computed in fp64 by SVD and eigenvalues. For linear, convolution and transposed layers (TypeError otherwise);
    ValueError for padding modes that repeat values.

    >>> from normwise.weights import spectral_norm
    >>> layer = spectral_norm(nn.Conv2d(8, 8, 3, padding=1)).eval()
    >>> report = sigma(layer)
    >>> 0.98 < report.matrix < 1.02, report.operator > 1.3
    (True, True)
    """
    check_layer(module, "sigma")
    grid = Grid.of(module, input_size, "sigma")
    weight = effective_weight(module, name)
    check_floating(weight, f"sigma({name!r})")
    weight = in_fp64(weight)
    matrix = torch.linalg.matrix_norm(as_matrix(weight, 1 if isinstance(module, TRANSPOSED) else 0), 2).item()
    operator = (weight * steepest_direction(weight, grid)).sum().item()
    return Sigma(matrix, operator, operator / matrix if matrix > 0 else 1.0, grid.excess, grid.exact)


@torch.no_grad()
def effective_weight(module: nn.Module, name: str) -> Tensor:
    """The weight that the layer applies in evaluation; buffers and training flags do not change."""
    weight = parametrized_value(module, name) if parametrize.is_parametrized(module, name) else getattr(module, name)
    return module.standardized(weight) if isinstance(module, StandardizedConv) and name == "weight" else weight


@torch.no_grad()
def parametrized_value(module: nn.Module, name: str) -> Tensor:
    """The value of the parametrized tensor in evaluation, without a power iteration."""
    chain = chain_of(module, name)
    training = {child: child.training for child in chain.modules()}
    try:
        return chain.eval()()
    finally:
        for child, flag in training.items():
            child.training = flag
