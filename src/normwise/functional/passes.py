"""One pass of a function that returns statistics: its checks, and the statistics by which it normalizes."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from normwise.core import formulas
from normwise.core.bound import bound
from normwise.core.formulas import Formula
from normwise.core.moments import Moments
from normwise.core.single_value import WITHOUT_EFFECT, check_values_per_channel
from normwise.operations.normalize import normalize_and_measure

from .running import Options, Statistics, as_known, check_maps, check_options, in_tensors


def check_batch(
    caller: str, x: Tensor, statistics: Statistics | None, weight: Tensor | None, bias: Tensor | None, eps: float
) -> None:
    """Check the arguments of a function that measures a batch; more than one value per channel unless given."""
    check_maps(caller, x, eps, weight=weight, bias=bias)
    if statistics is None:
        check_values_per_channel(caller, x, f"{WITHOUT_EFFECT} Use a larger batch, or give statistics.")


def standardized(
    caller: str,
    x: Tensor,
    formula: Formula,
    statistics: Statistics | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    options: Options,
) -> tuple[Tensor, Moments]:
    """Standardize over a formula's pool, or by given statistics, whatever the pool was."""
    if statistics is None:
        return measured(caller, x, formula, options, weight, bias)
    check_options(caller, options)
    known = as_known(caller, statistics, x)
    y, table = normalize_and_measure(x, bound(formulas.standardized, eps=eps), weight, bias, moments=known, **options)
    return y, in_tensors(table)


def mixed(
    caller: str,
    x: Tensor,
    formula: Formula,
    statistics: Statistics | None,
    options: Options,
    *parameters: Tensor | None,
) -> tuple[Tensor, Moments]:
    """Apply a formula in which given statistics replace only those of the batch."""
    if statistics is not None:
        formula = partial(formula, known=as_known(caller, statistics, x))
    return measured(caller, x, formula, options, *parameters)


def measured(
    caller: str, x: Tensor, formula: Formula, options: Options, *parameters: Tensor | None
) -> tuple[Tensor, Moments]:
    """Apply a formula; also the statistics that it used."""
    check_options(caller, options)
    y, table = normalize_and_measure(x, formula, *parameters, **options)
    return y, in_tensors(table)
