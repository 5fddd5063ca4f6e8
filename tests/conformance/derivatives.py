"""Promises about derivatives beyond one backward pass: mapped, second ones, many at once."""

from __future__ import annotations

import copy

import torch
from torch.testing import assert_close

from .cases import NOT_APPLICABLE, WORKS, Case, modes, needs_processes


def mapped(case: Case) -> str:
    """torch.func.vmap of the evaluated layer, and of its gradient."""
    module, condition = case.layer().eval(), case.condition()

    def layer(x):
        return module(x, *condition)

    xs = torch.stack([case.input(seed=s) for s in range(3)])
    assert_close(torch.func.vmap(layer)(xs), torch.stack([layer(x) for x in xs]))
    gradient = torch.func.grad(lambda x: layer(x).tanh().sum())
    assert_close(torch.func.vmap(gradient)(xs), torch.stack([gradient(x) for x in xs]))
    return WORKS


def twice_differentiable(case: Case) -> str:
    """Second derivatives by finite differences, in training."""
    if case.name == "renorm" and case.setting in ("open", "constants"):
        return NOT_APPLICABLE  # its corrections are taken for constants, which finite differences do not know
    layer, condition = case.layer().train(not needs_processes(case)), case.condition()
    x = case.input()
    parameters = {n: p.detach().clone().requires_grad_() for n, p in layer.named_parameters()}

    def call(x, *tensors):
        named = dict(zip(parameters, tensors, strict=True))
        return torch.func.functional_call(copy.deepcopy(layer), named, (x, *condition))

    leaves = (x.requires_grad_(), *parameters.values())
    assert torch.autograd.gradgradcheck(call, leaves, fast_mode=True)
    return WORKS


def many_gradients(case: Case) -> str:
    """``is_grads_batched=True``, once and twice, and ``jacobian(vectorize=True)``, both strategies."""
    close = {"rtol": 1e-4, "atol": 1e-4}  # another order of sums in fp32, on values of order ten
    jacobian = torch.autograd.functional.jacobian
    for training in modes(case):
        model = case.layer(torch.float32).train(training)
        x, *condition = case.input(torch.float32), *case.condition(torch.float32)
        x.requires_grad_()
        y = model(x, *condition)
        cotangents, leaves = torch.randn(3, *y.shape), (x, *(p for p in model.parameters() if p.requires_grad))
        options = {"retain_graph": True, "allow_unused": True}
        together = torch.autograd.grad(y, leaves, cotangents, is_grads_batched=True, **options)
        alone = [torch.autograd.grad(y, leaves, one, **options) for one in cotangents]
        for found, expected in zip(together, zip(*alone, strict=True), strict=True):
            if found is not None:
                assert_close(found / _size(found), torch.stack(expected) / _size(found), **close)

        def some(x, model=model, condition=condition):
            return copy.deepcopy(model)(x, *condition).flatten()[:5]

        slow = jacobian(some, x.detach())
        assert_close(jacobian(some, x.detach(), vectorize=True), slow, **close)
        assert_close(jacobian(some, x.detach(), vectorize=True, strategy="forward-mode"), slow, **close)
    return WORKS


def _size(t: torch.Tensor) -> float:
    return max(1.0, t.abs().max().item())
