"""Plain standardization asked of the door, for the tests of its kernels."""

from torch import Tensor

from normwise.core import formulas
from normwise.core.bound import bound
from normwise.core.moments import Moments
from normwise.operations.normalize import run
from normwise.operations.request import Request


def over_batch(x: Tensor, weight, bias, eps: float, **options) -> tuple[Tensor, Moments]:
    result = run(Request(x, bound(formulas.batch_norm, eps=eps), (weight, bias), measured=True, **options))
    return result.y, result.statistics()


def over_groups(x: Tensor, groups: int, weight, bias, eps: float, **options) -> Tensor:
    return run(Request(x, bound(formulas.group_norm, groups=groups, eps=eps), (weight, bias), **options)).y


def by_running(x: Tensor, running, weight, bias, eps: float, **options) -> Tensor:
    known = Moments(running.mean, running.var, 1)
    return run(Request(x, bound(formulas.standardized, eps=eps), (weight, bias), known=known, **options)).y
