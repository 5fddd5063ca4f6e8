"""The fused kernels as operators of `torch.library`, for what `torch.compile` traces on CPU.

The compiler can neither look into the kernels nor run them while it traces. It sees operators with the shapes and
strides of their results, whose backward pass is another operator.

Only plain standardization has such an operator. `benchmarks/compiled_cpu.py` found these kernels faster than the
compiler's own code, including torch's decomposed operators. Rows (LayerNorm and RMSNorm of tokens) stand among
elementwise operations, which the compiler fuses with them: alone the kernels are faster, between a residual and an
activation they are not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normwise.backends import cpu
from normwise.backends.tunings import COMPILED_FROM
from normwise.core.activations import activation_named
from normwise.core.moments import Moments
from normwise.core.observed import is_exporting
from normwise.core.operators import LIBRARY, OPERATORS

from ..context import Context
from ..request import NO_POOL, Request
from . import plain

# The first half of the moments, [2, ...], is the mean and the second the variance: results may not share memory.
LIBRARY.define(
    "standardize(Tensor x, Tensor? residual, Tensor? weight, Tensor? bias, Tensor? known, SymInt groups, float eps, "
    "str? activation) -> (Tensor y, Tensor moments)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
LIBRARY.define(
    "standardize_backward(Tensor grad_y, Tensor x, Tensor? residual, Tensor? weight, Tensor? bias, Tensor moments, "
    "SymInt groups, float eps, str? activation, bool known, bool values) -> (Tensor, Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
FORWARD, BACKWARD = f"{LIBRARY.ns}::standardize", f"{LIBRARY.ns}::standardize_backward"


def _kernels_are_there() -> bool:
    """Called once, while the compiler traces; compiles the kernels if necessary."""
    return cpu.unavailable() is None


# The mark that torch.compiler.assume_constant_result sets, without importing the compiler, which takes a second.
_kernels_are_there._dynamo_marked_constant = True  # type: ignore[attr-defined]


class Compiled:
    """Plain standardization as an operator in the compiled graph."""

    name = "an operator of the compiler's"
    remembers = False

    def __init__(self, request: Request, groups: int) -> None:
        self.groups = groups
        self.eps: Any = request.formula.keywords["eps"]  # type: ignore[attr-defined]

    def run(self, request: Request) -> tuple[Tensor, Tensor]:
        known = request.known
        table = None if known is None else torch.stack([known.mean.reshape(-1), known.var.reshape(-1)]).double()
        rest = (request.residual, *request.parameters, table, self.groups, self.eps, request.activation)
        return OPERATORS.standardize(request.x, *rest)

    def statistics(self, request: Request, kept: Tensor) -> Moments:
        if request.known is not None:
            return plain.as_table(request.known, request.x)
        return plain.moments_of_pools(request, self.groups, kept.detach())


def bind(request: Request, context: Context) -> Compiled | str:
    """The way for a kind of call, or the reason why it does not serve."""
    if not (context.plain and torch.compiler.is_compiling()) or is_exporting():
        return "nothing is being compiled"
    x = request.x
    if request.mask is not None or request.view.over != "planes":
        return "it is not plain standardization without a mask"
    groups = context.pool
    if groups is None:
        return NO_POOL
    others = (request.residual, *request.parameters)
    if (
        x.device.type != "cpu"
        or x.dtype not in cpu.ELEMENTS
        or any(t is not None and t.device != x.device for t in others)
    ):
        return "x or another tensor is not on the CPU, or of a class or dtype that the kernels do not serve"
    if x.numel() < COMPILED_FROM or not _kernels_are_there():
        return "the compiler's own code is faster for so few values, or there are no kernels"
    return Compiled(request, groups)


def _forward(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    known: Tensor | None,
    groups: int,
    eps: float,
    activation: str | None,
) -> tuple[Tensor, Tensor]:
    given = None if known is None else tuple(known.unbind())
    act = activation_named(activation)
    y, table = cpu.standardize(x, groups, weight, bias, eps, residual, act, given, known is None)  # type: ignore[arg-type]
    return y, x.new_empty(0, dtype=torch.float64) if table is None else table


def _fake_forward(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    known: Tensor | None,
    groups: int,
    eps: float,
    activation: str | None,
) -> tuple[Tensor, Tensor]:
    y = torch.empty_like(cpu.dense(x)[0])
    if known is not None:
        return y, x.new_empty(0, dtype=torch.float64)
    return y, x.new_empty((2, x.shape[0], groups) if groups else (2, 1, x.shape[1]), dtype=torch.float64)


def _backward(
    grad_y: Tensor,
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    moments: Tensor,
    groups: int,
    eps: float,
    activation: str | None,
    known: bool,
    values: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rest = (activation_named(activation), moments.contiguous())
    grads = cpu.standardize_backward(grad_y, x, groups, weight, bias, eps, residual, *rest, known=known, values=values)
    # An operator always returns tensors; an empty one means None.
    return tuple(x.new_empty(0) if g is None else g for g in grads)  # type: ignore[return-value]


def _fake_backward(
    grad_y: Tensor,
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    moments: Tensor,
    groups: int,
    eps: float,
    activation: str | None,
    known: bool,
    values: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    like = cpu.dense(x)[0]
    of_x = torch.empty_like(like) if values else x.new_empty(0)
    of_residual = x.new_empty(0)
    if values and residual is not None:
        of_residual = torch.empty_like(like, dtype=residual.dtype)
    small = [x.new_empty(0) if p is None else torch.empty_like(p) for p in (weight, bias)]
    return of_x, of_residual, small[0], small[1]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, residual, weight, bias, known, *ctx.constants = inputs
    ctx.known = known is not None
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, residual, weight, bias, known if ctx.known else output[1])


def _gradients(ctx: Any, grad_y: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    wanted = ctx.needs_input_grad[:4]
    values = wanted[0] or wanted[1]
    tensors = (grad_y, *ctx.saved_tensors)
    grads = OPERATORS.standardize_backward(*tensors, *ctx.constants, ctx.known, values)
    return *(grad if want else None for grad, want in zip(grads, wanted, strict=True)), *(None,) * 4


LIBRARY.impl("standardize", _forward, "CPU")
LIBRARY.impl("standardize_backward", _backward, "CPU")
torch.library.register_fake(FORWARD, _fake_forward, lib=LIBRARY)
torch.library.register_fake(BACKWARD, _fake_backward, lib=LIBRARY)
torch.library.register_autograd(FORWARD, _gradients, setup_context=_setup_context, lib=LIBRARY)
