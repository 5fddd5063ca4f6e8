"""Optimizer, schedule, augmentation, precision and workers: ours, or the user's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from ..fingerprints import digest
from ..references import load_object, name_of
from ..settings import COSINE, MOMENTUM, OPTIMIZERS, InputError, schedule
from .code import code_of
from .stepping import LeanAdamW, LeanSGD, are_alike

PRECISIONS = ("fp32", "bf16", "fp16")
CONSTANT = "constant"

OptimizerLike = str | Callable[..., torch.optim.Optimizer]
ScheduleLike = str | Callable[[torch.optim.Optimizer, int], LRScheduler]
Augment = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Choices:
    """The choices that define a training step. Functions are called as `optimizer(parameter_groups, lr=rate)`,
    `schedule(optimizer, total_steps)` and `augment(x, y)`."""

    optimizer: OptimizerLike = "sgd"
    schedule: ScheduleLike = COSINE
    augment: Augment | None = None
    precision: str = "fp32"

    def make_optimizer(self, groups: list[dict[str, Any]], rate: float, device: str) -> torch.optim.Optimizer:
        """The optimizer for these parameter groups; InputError if a user's function returns something else."""
        device_type = torch.device(device).type
        # A fused update would unscale the gradients of fp16 a second time.
        fused = device_type in ("cpu", "cuda") and self.precision != "fp16"
        alike = fused and are_alike([p for group in groups for p in group["params"]])
        if self.optimizer == "sgd":
            return (LeanSGD if alike else torch.optim.SGD)(
                groups, lr=rate, momentum=MOMENTUM, nesterov=True, fused=fused
            )
        if self.optimizer == "adamw":
            return (LeanAdamW if alike else torch.optim.AdamW)(groups, lr=rate, fused=fused)
        assert callable(self.optimizer)
        made = self.optimizer(groups, lr=rate)
        if not isinstance(made, torch.optim.Optimizer):
            raise InputError(
                f"optimizer={name_of(self.optimizer)!r} must return a torch.optim.Optimizer, it returns "
                f"{type(made).__name__}; it is called as optimizer(parameter_groups, lr=rate)."
            )
        return made

    def make_schedule(self, optimizer: torch.optim.Optimizer, steps: int) -> Cosine | LRScheduler | None:
        """The scheduler for a run of `steps` steps, stepped after each; None for a constant rate."""
        if self.schedule == COSINE:
            return Cosine(optimizer, steps)
        if not callable(self.schedule):
            return None
        made = self.schedule(optimizer, steps)
        if not callable(getattr(made, "step", None)):
            raise InputError(
                f"schedule={name_of(self.schedule)!r} must return a scheduler of torch.optim.lr_scheduler, it returns "
                f"{type(made).__name__}; it is called as schedule(optimizer, total_steps)."
            )
        return made

    def autocast(self, device: str) -> AbstractContextManager[Any]:
        """The autocast context of forward passes."""
        if self.precision == "fp32":
            return nullcontext()
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        return torch.autocast(torch.device(device).type, dtype=dtype)

    def make_scaler(self, device: str) -> torch.amp.GradScaler | None:  # pyright: ignore[reportPrivateImportUsage]
        """The loss scaler for fp16, which keeps small gradients from becoming 0; None otherwise."""
        return torch.amp.GradScaler(device) if self.precision == "fp16" else None  # pyright: ignore[reportPrivateImportUsage]

    def fingerprint(self) -> str:
        """Changes with the code of the user's functions."""
        return digest([code_of(part) for part in (self.optimizer, self.schedule, self.augment or "")])


class Cosine:
    """Our schedule: the optimizer's initial rates times `schedule(step, steps)`."""

    def __init__(self, optimizer: torch.optim.Optimizer, steps: int) -> None:
        self.groups, self.steps, self.done = optimizer.param_groups, steps, -1
        self.peaks = [group["lr"] for group in self.groups]
        self.step()

    def step(self) -> None:
        """Set the rates of the next step."""
        self.done += 1
        share = schedule(self.done, self.steps)
        for group, peak in zip(self.groups, self.peaks, strict=True):
            group["lr"] = share * peak


def make_choices(
    optimizer: OptimizerLike, schedule: ScheduleLike | None, augment: str | Augment | None, precision: str, device: str
) -> Choices:
    """Names and functions, checked; raises InputError."""
    optimizer = _found("optimizer", optimizer, OPTIMIZERS, 1)
    chosen = _found("schedule", COSINE if schedule is None else schedule, (COSINE, CONSTANT), 2)
    changed = None if augment is None else _found("augment", augment, (), 2)
    if precision not in PRECISIONS:
        raise InputError(f"precision={precision!r} is unknown; write {', '.join(PRECISIONS)}.")
    if precision == "fp16" and torch.device(device).type != "cuda":
        raise InputError(f"precision='fp16' is for CUDA, and the device is {device}; write bf16.")
    return Choices(optimizer, chosen, changed, precision)


def _found(option: str, given: Any, names: tuple[str, ...], arguments: int) -> Any:
    """A known name, or the user's function, which must accept `arguments` positional arguments."""
    if given in names:
        return given
    words = f"{' or '.join(map(repr, names))}, or " if names else ""
    if isinstance(given, str) and ":" not in given:
        raise InputError(f"{option}={given!r} is unknown; write {words}a function, package.module:function.")
    function = load_object(given) if isinstance(given, str) else given
    if not callable(function):
        raise InputError(f"{option}={name_of(given)!r} is no function; write {words}a function.")
    try:
        inspect.signature(function).bind(*range(arguments), **({"lr": 0.1} if option == "optimizer" else {}))
    except TypeError as error:
        called = {"optimizer": "parameter_groups, lr=rate", "schedule": "optimizer, total_steps", "augment": "x, y"}
        raise InputError(
            f"{option}={name_of(given)!r} is called as {option}({called[option]}), which it does not take: {error}."
        ) from error
    except ValueError:
        pass  # a builtin without a signature
    return function
