"""Gradient clipping, SGD and AdamW with little overhead in Python.

With small nets and small batches the overhead of Python takes longer than the arithmetic. This module calls the same
operators as torch's own clipping, SGD and AdamW, with the same arguments, so the results are equal bit for bit. It
omits two things: grouping the tensors again in each step, and the profiler's record around the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

# The operators that torch's own optimizers and clipping call.
_fused_sgd: Any = torch._fused_sgd_  # pyright: ignore
_fused_adamw: Any = torch._fused_adamw_  # pyright: ignore
_foreach_norm: Any = torch._foreach_norm  # pyright: ignore
_foreach_mul: Any = torch._foreach_mul_  # pyright: ignore

Step = TypeVar("Step", bound=Callable[..., Any])


def are_alike(parameters: Sequence[Tensor]) -> bool:
    """Whether all are of one dtype on one device, a CPU or CUDA."""
    kinds = {(p.device, p.dtype) for p in parameters}
    return len(kinds) == 1 and parameters[0].device.type in ("cpu", "cuda")


@torch.no_grad()
def clip_gradients(parameters: Sequence[Tensor], most: float) -> None:
    """Scale all gradients to a global norm of at most `most`, as `torch.nn.utils.clip_grad_norm_` does to the bit.

    For parameters that `are_alike`.
    """
    grads = [g for p in parameters if (g := p.grad) is not None]
    if not grads:
        return
    norm = torch.linalg.vector_norm(torch.stack(_foreach_norm(grads, 2.0)), 2.0)
    share = torch.clamp(most / (norm + 1e-6), max=1.0)
    # A factor of 1 changes nothing; on a CPU it can be read without waiting for the device.
    if share.device.type != "cpu" or float(share) != 1.0:
        _foreach_mul(grads, share)


def _unmarked(step: Step) -> Step:
    """An optimizer's step without torch's wrapper, which records it in the profiler and calls hooks."""
    step.hooked = True  # type: ignore[attr-defined]
    return step


class _Lean(torch.optim.Optimizer):
    """The common part of both optimizers. `_held` are, for each group of parameters, the lists of tensors for its
    update, once every parameter has its state; None before."""

    _held: list[tuple[Any, ...]] | None = None

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients."""
        if not set_to_none:
            super().zero_grad(set_to_none=False)
            return
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._held = None

    def _gradients(self) -> list[list[Tensor]] | None:
        """Those of each group, None where a parameter has none."""
        grads = [[p.grad for p in group["params"]] for group in self.param_groups]
        return None if any(g is None for each in grads for g in each) else grads

    def _have_all_begun(self) -> bool:
        return all(p in self.state for group in self.param_groups for p in group["params"])


class LeanSGD(_Lean, torch.optim.SGD):
    """`torch.optim.SGD(fused=True)` with momentum to the bit, for parameters that `are_alike`.

    A parameter may get its first gradient later than others; torch's own raises an error then.
    """

    @_unmarked
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update by the gradients that are there."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        grads = self._gradients() if self._held else None
        if self._held and grads:
            for group, given, (buffers,) in zip(self.param_groups, grads, self._held, strict=True):
                self._update(group, group["params"], given, buffers, first=False)
            return loss
        for group in self.param_groups:
            moving = [p for p in group["params"] if p.grad is not None]
            self._update_some(group, [p for p in moving if p in self.state], first=False)
            self._update_some(group, [p for p in moving if p not in self.state], first=True)
        if self._have_all_begun():
            self._held = [([self.state[p]["momentum_buffer"] for p in g["params"]],) for g in self.param_groups]
        return loss

    def _update_some(self, group: dict[str, Any], params: list[Tensor], first: bool) -> None:
        if first:
            for p in params:
                self.state[p]["momentum_buffer"] = torch.empty_like(p)
        buffers = [self.state[p]["momentum_buffer"] for p in params]
        self._update(group, params, [p.grad for p in params], buffers, first)

    def _update(
        self, group: dict[str, Any], params: list[Tensor], grads: list[Any], buffers: list[Tensor], first: bool
    ) -> None:
        if params:
            _fused_sgd(
                params,
                grads,
                buffers,
                weight_decay=group["weight_decay"],
                momentum=group["momentum"],
                lr=group["lr"],
                dampening=group["dampening"],
                nesterov=group["nesterov"],
                maximize=group["maximize"],
                is_first_step=first,
                grad_scale=None,
                found_inf=None,
            )


class LeanAdamW(_Lean, torch.optim.AdamW):
    """`torch.optim.AdamW(fused=True)` to the bit, for parameters that `are_alike`; it calls torch's own step until
    every parameter has its state."""

    @_unmarked
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update by the gradients that are there."""
        grads = self._gradients() if self._held and closure is None else None
        if not self._held or not grads:
            loss = super().step(closure)
            self._held = self._held or (self._lists() if self._have_all_begun() else None)
            return loss
        for group, given, (averages, squares, steps, counts) in zip(self.param_groups, grads, self._held, strict=True):
            steps.add_(1)
            beta1, beta2 = group["betas"]
            _fused_adamw(
                group["params"],
                given,
                averages,
                squares,
                [],
                counts,
                amsgrad=False,
                lr=group["lr"],
                beta1=beta1,
                beta2=beta2,
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=group["maximize"],
                grad_scale=None,
                found_inf=None,
            )
        return None

    def _lists(self) -> list[tuple[Any, ...]]:
        """The lists for the update; the step counters of a group become views of one tensor, so one addition
        increments all of them."""
        held = []
        for group in self.param_groups:
            states = [self.state[p] for p in group["params"]]
            steps = torch.stack([state["step"] for state in states]) if states else torch.zeros(0)
            counts = list(steps.unbind())
            for state, count in zip(states, counts, strict=True):
                state["step"] = count
            held.append(([s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states], steps, counts))
        return held
