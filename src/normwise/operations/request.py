"""The request: one tensor to normalize, and everything that belongs to the call."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from normwise.core import formulas
from normwise.core.activations import activation_named
from normwise.core.arguments import check_boolean, check_input, check_residual
from normwise.core.formulas import Formula
from normwise.core.known import check_moments
from normwise.core.moments import Moments
from normwise.core.running import RunningStatistics
from normwise.core.sizes import same
from normwise.core.tables import check_parameters


class View(NamedTuple):
    """The values of ``x`` over which moments are taken, one entry of the table for each set of values.

    ``"planes"``: each (sample, channel) of ``[N, C, *space]``. ``"rows"``: the last ``dims`` dimensions of any tensor.
    ``"sums"``: the rows of ``x + residual``; the result is a pair, ``y`` and that sum. ``"pixels"``: the channels at
    each position of ``[N, C, *space]``. For rows and pixels the parameters are weight and bias along the row.
    """

    over: str
    dims: int = 0


PLANES, PIXELS = View("planes"), View("pixels")
#: Stands in for a number of groups: each channel over the batch.
BATCH = 0
#: The activations that can be inverted, each with its slope below 0.
INVERTIBLE = {None: 1.0, "leaky_relu": 0.01}
#: Formulas that divide rows by their root mean square.
_WITHOUT_MEAN = (formulas.rms_norm, formulas.modulated_rms_norm, formulas.gated_rms_norm)
#: The reason why a way of plain standardization does not serve a request.
NO_POOL = (
    "the formula is not plain standardization over one pool, with one weight and bias of each channel, "
    "and no gradient through the statistics"
)


class Request(NamedTuple):
    r"""``y = f((x - center) · scale + shift + residual)``, center, scale and shift by a formula on a view's moments."""

    x: Tensor
    formula: Formula
    parameters: tuple[Tensor | None, ...] = ()
    activation: str | None = None
    residual: Tensor | None = None
    #: Boolean, ``[N, 1, *space]`` (for rows: it broadcasts against ``x``); true for the values that count.
    mask: Tensor | None = None
    #: Known statistics, one row ``[C]`` or a table; then nothing is measured.
    known: Moments | None = None
    #: The running statistics to update.
    memory: RunningStatistics | None = None
    #: Whether the caller needs the statistics.
    measured: bool = False
    #: Whether the statistics have a gradient.
    differentiable: bool = False
    view: View = PLANES
    #: The caller and its settings: everything that a check of the tensors depends on besides them.
    asker: Hashable = None
    #: Tensors that are only checked, by the caller's own check.
    beside: tuple[Tensor | None, ...] = ()
    #: Whether only the output is kept for the backward pass, which computes the input from it.
    lean: bool = False


def plain_pool(request: Request) -> int | None:
    """The groups of channels that a plain standardization pools in each sample, 0 over the batch; None for others."""
    formula, known, channels = request.formula, request.known, request.x.shape[1]
    if (
        request.differentiable
        or not isinstance(formula, partial)
        or formula.args
        or not set(formula.keywords) <= {"eps", "groups"}
    ):
        return None
    if any(isinstance(constant, Tensor) for constant in formula.keywords.values()):
        return None
    parameters = request.parameters
    if len(parameters) != 2 or any(p is not None and not same(p.shape, (channels,)) for p in parameters):
        return None
    if known is not None:
        rows = all(t.numel() == channels and t.shape[-1] == channels for t in known[:2])
        return BATCH if formula.func is formulas.standardized and rows else None
    if formula.func is formulas.group_norm:
        return formula.keywords["groups"]
    return {formulas.batch_norm: BATCH, formulas.instance_norm: channels, formulas.layer_norm: 1}.get(formula.func)


def centers(request: Request) -> bool:
    """Whether the mean of a row is subtracted."""
    return request.formula.func not in _WITHOUT_MEAN  # type: ignore[attr-defined]


def operation_of(request: Request, pool: int | None) -> str:
    """The operation's name in the records of measured speed."""
    over = request.view.over
    if over != "planes":
        return over if centers(request) else f"{over}, root mean square"
    if pool is None:
        return "formula"
    if request.known is not None:
        return "known statistics"
    return {BATCH: "batch", request.x.shape[1]: "instance"}.get(pool, "groups")


def layout_of(x: Tensor) -> str:
    """The memory layout's name in the records of measured speed."""
    if x.is_contiguous():
        return "contiguous"
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim())
    return "channels_last" if last is not None and x.is_contiguous(memory_format=last) else "strided"


def check(request: Request) -> None:
    """Check what every request must satisfy."""
    x, view = request.x, request.view
    if view.over not in ("rows", "sums"):
        check_input(x, "normalize")
    check_parameters(x, request.parameters)
    if request.lean:
        check_lean(request)
    if request.known is not None and request.known.mean.dim() != 1:
        check_moments("normalize", x, request.known)
    activation_named(request.activation)  # raises for an unknown name
    if request.residual is not None:
        check_residual(request.residual, x)
    if request.mask is not None:
        check_boolean(request.mask, x)


def check_lean(request: Request) -> None:
    """ValueError where the input cannot be computed from the output, whatever the values are."""
    wrong = ""
    if request.residual is not None:
        wrong = "a residual is in the output, too; add it in an operation of its own"
    elif request.mask is not None:
        wrong = "with a mask the statistics are not those of all values; leave it out"
    elif request.activation not in INVERTIBLE:
        wrong = f"activation={request.activation!r} cannot be undone; write 'leaky_relu' or None"
    elif "processes" in request.formula.keywords:  # type: ignore[attr-defined]
        wrong = "the statistics are those of several processes; leave process_group out"
    if wrong:
        raise ValueError(f"lean=True computes the input back from the output: {wrong}, or write lean=False.")
