"""The update of a training step with as little work of the host as its arithmetic allows.

Small nets at small batches wait for Python, not for arithmetic. What is here calls the operators that torch's own
clipping and SGD end in, with the same arguments, so that the results are the same bits; what is left out is the search,
anew in each step, for how the tensors are to be grouped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# torch's own optimizers and clipping end in these.
_fused_sgd: Any = torch._fused_sgd_  # pyright: ignore
_foreach_norm: Any = torch._foreach_norm  # pyright: ignore
_foreach_mul: Any = torch._foreach_mul_  # pyright: ignore


def are_alike(parameters: Sequence[Tensor]) -> bool:
    """Whether all are of one dtype on one device, a CPU or CUDA."""
    kinds = {(p.device, p.dtype) for p in parameters}
    return len(kinds) == 1 and parameters[0].device.type in ("cpu", "cuda")


@torch.no_grad()
def clip_gradients(parameters: Sequence[Tensor], most: float) -> None:
    """Scale all gradients to a global norm of at most `most`, as `torch.nn.utils.clip_grad_norm_` does to the bit.

    For parameters that `are_alike`.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    if grads:
        norm = torch.linalg.vector_norm(torch.stack(_foreach_norm(grads, 2.0)), 2.0)
        _foreach_mul(grads, torch.clamp(most / (norm + 1e-6), max=1.0))


class LeanSGD(torch.optim.SGD):
    """`torch.optim.SGD(fused=True)` to the bit, for parameters that `are_alike`.

    A parameter may get its first gradient later than others, at which torch's own stops.
    """

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients."""
        if not set_to_none:
            super().zero_grad(set_to_none=False)
            return
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update by the gradients that are there."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moving = [p for p in group["params"] if p.grad is not None]
            begun = [p for p in moving if p in self.state]
            self._update(group, begun, first=False)
            if len(begun) < len(moving):
                new = [p for p in moving if p not in self.state]
                for p in new:
                    self.state[p]["momentum_buffer"] = torch.empty_like(p)
                self._update(group, new, first=True)
        return loss

    def _update(self, group: dict[str, Any], params: list[Tensor], first: bool) -> None:
        if params:
            _fused_sgd(
                params,
                [p.grad for p in params],
                [self.state[p]["momentum_buffer"] for p in params],
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
