"""The one autograd function: a pass over a tensor by kernels, and its backward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from normwise.core.kinds import kinds_of
from normwise.core.layout import check_memory
from normwise.core.moments import Moments

from .context import is_backward_plain
from .request import Request

Parameters = Sequence[Tensor | None]
#: Dtype and shape of each tensor; None where there is no tensor.
Forms = list[tuple[torch.dtype, torch.Size] | None]
#: Gradients of x and the residual, then of the parameters; None where one is not needed.
Gradients = Sequence[Tensor | None]


class PassCall:
    """One call of a pass: the data for its backward pass besides the tensors that autograd saves."""

    __slots__ = ("forms", "kept", "known", "one_pass")

    def __init__(self, one_pass: Pass, known: Moments | None) -> None:
        self.one_pass, self.known, self.kept = one_pass, known, None
        self.kept: Any
        self.forms: Forms = []


class Pass:
    """A way bound to one kind of call: a pass over ``x`` with its own backward pass."""

    #: Whether a backward pass may follow.
    graph: bool
    #: Whether `backward` itself checks that the saved tensors are unchanged, with `forms`.
    checks_saved = False
    #: Whether the second result is the sum of x and the residual, which is saved instead of them.
    saves_sum = False
    #: Whether y is saved instead of x.
    saves_output = False
    #: Whether the residual's gradient equals that of ``y``: then the residual is not saved.
    passes_residual = False

    def forward(self, call: PassCall, x: Tensor, residual: Tensor | None, mask: Tensor | None, p: Parameters) -> Any:
        """``y``; or a tuple of ``y`` and the other results that have a gradient."""
        raise NotImplementedError

    def backward(
        self,
        call: PassCall,
        grad_y: Any,
        x: Tensor,
        residual: Tensor | None,
        mask: Tensor | None,
        p: Parameters,
        needs: Sequence[bool],
    ) -> Gradients:
        """The gradients of x, residual and parameters; ``needs`` says for each whether it is needed.

        ``grad_y`` is the gradient of the result of `forward`, so it may be a tuple.
        """
        raise NotImplementedError

    def forms(self, x: Tensor, residual: Tensor | None, mask: Tensor | None, p: Parameters) -> Forms:
        """The forms that the saved tensors must still have in the backward pass."""
        return forms_of(x, residual, mask, *p)

    def plainly(
        self, call: PassCall, mask: Tensor | None, x: Tensor, residual: Tensor | None, *p: Tensor | None
    ) -> Any:
        """The result of `forward` in plain differentiable operations, for higher derivatives."""
        raise NotImplementedError

    def run(self, request: Request) -> tuple[Any, Any]:
        """The result of `forward`, and the data that it kept."""
        call = PassCall(self, request.known)
        if self.graph:
            y = over_tensor(call, request.x, request.residual, request.mask, *request.parameters)
        else:
            y = self.forward(call, request.x, request.residual, request.mask, request.parameters)
        return y, call.kept


class PassOfOneKind(Pass):
    """A pass whose saved tensors are compared all at once, by their kinds; by their forms only where a kind differs."""

    checks_saved = True

    def __init__(self, request: Request) -> None:
        x, residual = request.x, request.residual
        self.formula, self.activation = request.formula, request.activation
        self.passes_residual = residual is not None and residual.dtype is x.dtype and request.activation is None
        given = (x, None if self.passes_residual else residual, request.mask, *request.parameters)
        #: The forms and the kinds of the tensors that all calls of this kind save.
        self.of_kind, self.saved = forms_of(*given), kinds_of(*(t for t in given if t is not None))

    def forms(self, x: Tensor, residual: Tensor | None, mask: Tensor | None, p: Parameters) -> Forms:  # noqa: ARG002
        return self.of_kind

    def saved_are_same(self, x: Tensor, residual: Tensor | None, mask: Tensor | None, p: Parameters) -> bool:
        """Whether the saved tensors are of the kinds of the forward pass; RuntimeError where one has another form."""
        same = self.saved.check(*[t for t in (x, residual, *p) if t is not None])
        if not same:
            check_unchanged(self.of_kind, x, residual, mask, *p)
        return same


class _OverTensor(torch.autograd.Function):
    """The autograd function behind `over_tensor`: it saves a pass' tensors and runs its backward pass."""

    @staticmethod
    def forward(
        ctx: Any, call: PassCall, x: Tensor, residual: Tensor | None, mask: Tensor | None, *p: Tensor | None
    ) -> Any:
        ctx.call, one_pass = call, call.one_pass
        found = one_pass.forward(call, x, residual, mask, p)
        if one_pass.saves_sum:
            x, residual = found[1], None
        elif one_pass.saves_output:
            x = found
        elif one_pass.passes_residual:
            residual = None
        call.forms = one_pass.forms(x, residual, mask, p)
        ctx.save_for_backward(x, residual, mask, *p)
        return found

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor, *others: Tensor) -> tuple[Tensor | None, ...]:
        call, (x, residual, mask, *p) = ctx.call, ctx.saved_tensors
        grads = (grad_y, *others) if others else grad_y
        # Transforms may be active here even if none was in the forward pass.
        plainly = is_backward_plain()
        if plainly or not call.one_pass.checks_saved:
            check_unchanged(call.forms, x, residual, mask, *p)
        if plainly and call.one_pass.saves_output:
            raise RuntimeError(
                "lean=True keeps the output alone, of which no second derivative and no transform of the backward "
                "pass is made; build the layer with lean=False."
            )
        if plainly:
            found = _plainly(call, (grad_y, *others), x, residual, mask, p)
        else:
            needs = ctx.needs_input_grad
            try:
                found = call.one_pass.backward(call, grads, x, residual, mask, p, (*needs[1:3], *needs[4:]))
            except RuntimeError:
                # The kernels cannot read it. Checked only here: the check costs a good part of a kernel's time.
                if call.one_pass.saves_output or not any(map(_is_batched, (grad_y, *others))):
                    raise
                found = _plainly(call, (grad_y, *others), x, residual, mask, p)
        return None, found[0], found[1], None, *found[2:]


# Called directly, without the search of `apply` for transforms: there are none where a kernel runs. So is the backward
# pass, without torch's search for the form in which it was written.
over_tensor = super(torch.autograd.Function, _OverTensor).apply  # pyright: ignore[reportAttributeAccessIssue]
_OverTensor._backward_cls.apply = _OverTensor.backward  # type: ignore[attr-defined]


def _plainly(
    call: PassCall, grads: Sequence[Tensor], x: Tensor, residual: Tensor | None, mask: Tensor | None, p: Parameters
) -> Gradients:
    check_memory(x, residual, mask, *p)
    found = differentiable_gradients(partial(call.one_pass.plainly, call, mask), (x, residual, *p), grads)
    if call.one_pass.saves_sum:
        found[1] = found[0]
    elif call.one_pass.passes_residual:
        found[1] = grads[0]
    return found


def _is_batched(grad_y: Tensor) -> bool:
    """Whether a batch of gradients is passed, as by ``is_grads_batched=True`` and ``jacobian(vectorize=True)``."""
    return torch._C._functorch.is_legacy_batchedtensor(grad_y)  # pyright: ignore[reportAttributeAccessIssue]


def forms_of(*tensors: Tensor | None) -> Forms:
    """The forms that `check_unchanged` compares."""
    return [None if t is None else (t.dtype, t.shape) for t in tensors]


def check_unchanged(forms: Forms, *saved: Tensor | None) -> None:
    """RuntimeError where a tensor saved for the backward pass has another shape or dtype than in the forward pass."""
    for form, t in zip(forms, saved, strict=True):
        if form is not None and t is not None and (t.dtype is not form[0] or t.shape != form[1]):
            raise RuntimeError(
                f"A tensor of shape {list(form[1])} of {form[0]} that the backward pass needs is of shape "
                f"{list(t.shape)} of {t.dtype} now; do not assign to its .data before the backward pass."
            )


def differentiable_gradients(
    operation: Callable[..., Tensor | tuple[Tensor, ...]], inputs: Sequence[Tensor | None], grads: Sequence[Tensor]
) -> list[Tensor | None]:
    """The gradients of ``operation(*inputs)``, as functions of the inputs and ``grads``; None where none is needed.

    ``operation`` consists of plain differentiable operations and returns as many tensors as there are ``grads``.
    """
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases: the derivative is taken with respect to this use of the tensors, not through their history.
        aliases = [None if t is None else t.view_as(t) for t in inputs]
        wanted = [t for t in aliases if t is not None and t.requires_grad]
        results = operation(*aliases)
    pairs = zip((results,) if isinstance(results, Tensor) else results, grads, strict=True)
    made, grads = zip(*((t, g) for t, g in pairs if t.requires_grad), strict=True)
    found = iter(torch.autograd.grad(made, wanted, grads, create_graph=again, allow_unused=True))
    return [None if t is None or not t.requires_grad else next(found) for t in aliases]
