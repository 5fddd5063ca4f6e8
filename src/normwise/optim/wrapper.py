"""An optimizer that clips gradients adaptively before each step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from .clipping import check_numbers, clip_targets
from .report import ClipReport
from .units import Classifier, Target, classifier_weights, targets_of

#: Attributes that belong to the wrapped optimizer, even if it replaces the objects: `__getattr__` finds them there.
SHARED = (
    *("param_groups", "state", "defaults", "_optimizer_state_dict_pre_hooks", "_optimizer_state_dict_post_hooks"),
    *("_optimizer_load_state_dict_pre_hooks", "_optimizer_load_state_dict_post_hooks"),
)


class AdaptiveGradientClipping(Optimizer):
    r"""Any optimizer with adaptive gradient clipping before each step.

    ``step`` clips the gradients of this optimizer's parameters as `adaptive_clip_grad_` does, then steps the
    wrapped optimizer: clipping comes before its weight decay and momentum, as in the paper.

    Args:
        optimizer: the optimizer to wrap; it stays usable.
        model: the model whose parameters it trains; it is needed to find transposed convolutions, the classifier and
            the names.
        clip, eps, classifier: as in `adaptive_clip_grad_`.

    It can be used wherever an optimizer is expected. ``param_groups``, ``state`` and ``defaults`` are the wrapped
    one's, so learning rate schedulers work on either of the two. ``state_dict`` is the wrapped one's, too: checkpoints
    with and without clipping are interchangeable. With a closure the gradients are clipped after each call of it. Under
    ``GradScaler`` the gradients are unscaled before they are clipped, also with a fused optimizer. Attributes that
    `torch.optim.Optimizer` does not have are looked up in the wrapped optimizer.

    ``report`` is a `ClipReport` over all steps since the start or the last ``reset_report()``.

    Raises TypeError where ``optimizer`` or ``model`` is of another class, and the errors of `adaptive_clip_grad_`.

    Source: Brock, De, Smith and Simonyan 2021, arXiv:2102.06171.

    The trap: ``isinstance(wrapped, torch.optim.SGD)`` is False; test ``wrapped.optimizer``.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> optimizer = AdaptiveGradientClipping(torch.optim.SGD(model.parameters(), lr=0.1), model, clip=0.1)
    >>> schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    >>> model(torch.randn(3, 4)).square().sum().backward()
    >>> optimizer.step()
    >>> schedule.step()
    >>> optimizer.report.excluded
    ('2.weight',)
    """

    # Otherwise a fused optimizer would be given the loss' scale, and scaled gradients would be clipped here.
    _step_supports_amp_scaling = False

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module,
        clip: float = 0.01,
        eps: float = 1e-3,
        *,
        classifier: Classifier = "final",
    ) -> None:
        name = type(self).__name__
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{name} wraps a torch.optim.Optimizer, received {type(optimizer).__name__}.")
        if not isinstance(model, nn.Module):
            raise TypeError(f"{name} expects the model that the optimizer trains, received {type(model).__name__}.")
        check_numbers(name, clip, eps)
        super().__init__([dict(group) for group in optimizer.param_groups], optimizer.defaults)
        self._share()
        self.optimizer, self.clip, self.eps = optimizer, clip, eps
        self._targets = list(targets_of(model).values())
        self._left_out = classifier_weights(model, classifier, name)
        self.reset_report()

    def _share(self) -> None:
        for name in SHARED:
            self.__dict__.pop(name, None)

    def __getattr__(self, name: str) -> Any:
        if "optimizer" not in self.__dict__:  # while it is being built or copied
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}.")
        return getattr(self.optimizer, name)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Clip and step; returns what the wrapped optimizer's step returns."""
        if closure is None:
            self._clip()
            return self.optimizer.step()

        def clipped() -> Any:
            loss = closure()
            self._clip()
            return loss

        return self.optimizer.step(clipped)

    def _clip(self) -> None:
        known = {id(target.parameter): target for target in self._targets}
        own = [parameter for group in self.param_groups for parameter in group["params"]]
        targets = [known.get(id(p), Target(f"parameter {i}", p)) for i, p in enumerate(own)]
        self.report.add(clip_targets(targets, self._left_out, self.clip, self.eps))

    def reset_report(self) -> None:
        """Start counting anew."""
        self.report = ClipReport()

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        # The base class calls this method in its own constructor.
        owner = self.optimizer if "optimizer" in self.__dict__ else super()
        owner.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        names = ("optimizer", "clip", "eps", "_targets", "_left_out", "report")
        return {name: self.__dict__[name] for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(clip={self.clip:g}, eps={self.eps:g}) of {self.optimizer!r}"
