"""The entry point of all normalization: a request, the way that answers it, the result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor

from normwise.core.arguments import as_mask, check_input, finite_padding
from normwise.core.evident import with_evident_mark
from normwise.core.formulas import Formula
from normwise.core.known import check_moments
from normwise.core.layout import check_memory
from normwise.core.moments import Moments
from normwise.core.symbols import as_node_of_formula, is_symbol

from .context import without_autocast
from .request import Request
from .request import check as check_request
from .ways.choosing import Way, way_for

Check = Callable[[Request], None]
# Every call asks it, of a large module: looked up once.
_autocast_enabled = torch._C._is_any_autocast_enabled  # pyright: ignore[reportAttributeAccessIssue]


class Result(NamedTuple):
    """``y``, and on demand the statistics."""

    y: Tensor
    request: Request
    way: Way
    kept: Any

    def statistics(self) -> Moments:
        """The statistics in the formula's result, otherwise the table; without a gradient."""
        return self.way.statistics(self.request, self.kept)

    def remembered(self) -> bool:
        """Whether the request's memory was updated here, in one call; if not, nothing has changed."""
        return self.way.remembers and self.way.remember(self.request, self.kept)  # type: ignore[attr-defined]


def run(request: Request, check: Check = check_request) -> Result:
    """The request's result. ``check`` is called with the first request of each kind, before anything else."""
    if request.mask is not None:
        check(request)
        request, check = _padded(request), _nothing
    way = way_for(request, check)
    if _autocast_enabled():
        with without_autocast(request.x):
            y, kept = way.run(request)
    else:
        y, kept = way.run(request)
    return Result(y, request, way, kept)


def run_for_y(request: Request, check: Check = check_request) -> Tensor:
    """`run` without the statistics, in the least host time."""
    if request.mask is not None or _autocast_enabled():
        return run(request, check).y
    return way_for(request, check).run(request)[0]


def _padded(request: Request) -> Request:
    """The request with 0 in place of NaN and inf outside the mask, and without a mask that changes no statistics."""
    x, residual = finite_padding(request.mask, request.x, request.residual)
    matters = request.known is None and request.view.over != "pixels"
    return request._replace(x=x, residual=residual, mask=request.mask if matters else None)


def _nothing(request: Request) -> None:
    pass


@overload
def normalize(
    x: Tensor,
    formula: Formula,
    *parameters: Tensor | None,
    activation: str | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
    moments: Moments | None = None,
    return_moments: Literal[False] = False,
) -> Tensor: ...


@overload
def normalize(
    x: Tensor,
    formula: Formula,
    *parameters: Tensor | None,
    activation: str | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
    moments: Moments | None = None,
    return_moments: Literal[True],
) -> tuple[Tensor, Moments]: ...


def normalize(
    x: Tensor,
    formula: Formula,
    *parameters: Tensor | None,
    activation: str | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
    moments: Moments | None = None,
    return_moments: bool = False,
) -> Tensor | tuple[Tensor, Moments]:
    r"""Normalize ``x`` by a formula on the table of its per-(sample, channel) moments.

    .. math:: y = f\big((x - \text{center}) \cdot \text{scale} + \text{shift} + \text{residual}\big),
              \qquad (\text{center}, \text{scale}, \text{shift}) = \text{formula}(\text{moments}, *\text{parameters})

    The two passes over ``x`` run on fused kernels, forward and backward; the formula is a few lines of
    differentiable PyTorch on ``[N, C]`` tables and may be your own. It must be pure, since it runs again
    for a higher derivative, and every tensor with a gradient must be passed in ``parameters``.

    Args:
        x: ``[N, C, *space]``, floating; the space may be empty (``[N, C]``).
        formula: maps ``Moments`` and the parameters to ``Affine(center, scale, shift)``, or to one of
            ``Thresholded``, ``Gated`` and ``LargerScale`` where ``y`` is not affine in ``x``; each coefficient
            broadcasts against ``[N, C]``. Arithmetic is in fp32 (fp64 for fp64 input).
        parameters: tensors that need gradients, or None.
        activation: a name from ``ACTIVATIONS``, applied last, or None.
        residual: a tensor of ``x``'s shape, added before the activation.
        mask: boolean, ``[N, *space]`` or ``[N, 1, *space]``; the statistics are those of the values where
            it is true. All values are normalized; NaN and inf outside the mask count as 0.
        moments: known statistics, for example running ones, that broadcast against ``[N, C]``; nothing is
            measured and no gradient flows into them.
        return_moments: return ``(y, moments)``: the statistics that the formula returns as ``Affine.statistics``,
            otherwise the table ``[N, C]``, with a gradient. The gradient of a loss on them joins the backward pass of
            ``y``, without another pass over ``x``: style losses, moment matching, DeepInversion.

    Returns ``y`` in ``x``'s shape, dtype and memory layout; or ``(y, moments)``.

    Raises TypeError for integer or complex input, complex parameters, and ``moments`` that are not `Moments`;
    ValueError for shapes that do not fit and tensors on another device.

    >>> from normwise import Affine
    >>> def root_mean_square(moments, weight):      # a new normalizer in three lines
    ...     power = moments.over_channels()
    ...     return Affine(0.0, weight * (power.var + power.mean**2 + 1e-6).rsqrt(), 0.0)
    >>> y = normalize(torch.randn(2, 3, 5, 5), root_mean_square, torch.ones(3))
    >>> torch.allclose(y.square().mean((1, 2, 3)), torch.ones(2), atol=1e-3)
    True
    >>> x = torch.randn(2, 3, 5, 5, requires_grad=True)
    >>> y, table = normalize(x, root_mean_square, torch.ones(3), return_moments=True)
    >>> table.mean.sum().backward()                   # a loss on the statistics
    >>> torch.allclose(x.grad, torch.full_like(x, 1 / 25))
    True
    """
    if type(x) is not Tensor and is_symbol(x, residual, *parameters):
        options = {"activation": activation, "residual": residual, "mask": mask, "moments": moments}
        return as_node_of_formula(normalize, formula, x, *parameters, **options, return_moments=return_moments)
    request = _request_of(x, formula, parameters, activation, residual, mask, moments)
    if not return_moments:
        return run_for_y(request)
    result = run(request._replace(measured=True, differentiable=True))
    return result.y, result.statistics()


def normalize_and_measure(
    x: Tensor,
    formula: Formula,
    *parameters: Tensor | None,
    activation: str | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
    moments: Moments | None = None,
) -> tuple[Tensor, Moments]:
    """`normalize`, and the statistics that the formula used, without a gradient.

    They are ``Affine.statistics`` where the formula returns them, otherwise the measured (or given) table.

    >>> from normwise import Affine
    >>> x = torch.randn(4, 3, 5)
    >>> def batch(moments):
    ...     pooled = moments.over_batch()
    ...     return Affine(pooled.mean, pooled.var.rsqrt(), 0.0)
    >>> y, table = normalize_and_measure(x, batch)
    >>> torch.allclose(table.over_batch().mean.flatten(), x.double().mean((0, 2)))
    True
    """
    if type(x) is not Tensor and is_symbol(x, residual, *parameters):
        options = {"activation": activation, "residual": residual, "mask": mask, "moments": moments}
        return as_node_of_formula(normalize_and_measure, formula, x, *parameters, **options)
    request = _request_of(x, formula, parameters, activation, residual, mask, moments)
    result = run(request._replace(measured=True))
    return result.y, result.statistics()


def _request_of(
    x: Tensor,
    formula: Formula,
    parameters: tuple[Tensor | None, ...],
    activation: str | None,
    residual: Tensor | None,
    mask: Tensor | None,
    moments: Moments | None,
) -> Request:
    """The request of a call of `normalize`, after the checks that do not depend on the kind of call."""
    check_input(x, "normalize")
    if not callable(formula):
        raise TypeError(
            f"normalize: formula must be a function that maps moments to an Affine, received {type(formula).__name__}."
        )
    if moments is not None:
        check_moments("normalize", x, moments)
        check_memory(moments.mean, moments.var)
    mask = None if mask is None else as_mask(mask, x)
    return Request(x, with_evident_mark(formula), parameters, activation, residual, mask, moments)
