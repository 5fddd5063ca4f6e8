"""Run a user's model on an example in any dtype; the model is unchanged afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...core.model_change import ModelChange
from ...signal.batches import copied, run
from ...signal.inputs import device_of
from ...signal.modules import constants_of, tensors_in
from ...signal.protection import as_it_was, random_numbers_kept

SEED = 0
Run = Callable[[nn.Module], Any]
Change = Callable[[ModelChange], None]


def own_dtype(model: nn.Module) -> torch.dtype:
    """The dtype that most of a model's floating values have."""
    sizes: dict[torch.dtype, int] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.numel()
    return max(sizes, key=lambda dtype: sizes[dtype], default=torch.get_default_dtype())


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Compute convolutions and matrix products in the full precision of their dtype, also on GPUs."""
    settings: Any = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # pyright: ignore[reportAttributeAccessIssue]
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        yield
    finally:
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision


def in_dtype(model: nn.Module, example: Any, dtype: torch.dtype | None, work: Callable[[Run], Any]) -> Any:
    """Call ``work(forward)`` with the model in ``dtype`` (None: its own); ``forward(module)`` runs it on the example.

    Without gradients and always with the same random numbers; afterwards everything is restored.
    """
    device = device_of(model)
    devices = {t.device for t in constants_of(model)}
    with torch.no_grad(), _without_tf32(), as_it_was(model), random_numbers_kept(devices, SEED):
        if dtype is not None:
            _convert(model, dtype)
        batch = copied(
            example, device, lambda t: t.to(dtype, copy=True) if dtype and t.is_floating_point() else t.clone()
        )
        return work(lambda module: run(module, batch))


def on_example(model: nn.Module, example: Any, work: Callable[[Run], Any], caller: str) -> Any:
    """`in_dtype` in the model's own dtype; ValueError with the cause if the model fails on the example."""
    if next(tensors_in(example), None) is None:
        raise ValueError(
            f"{caller}: the example must be a tensor, a tuple of arguments or a dict of them, received "
            f"{type(example).__name__}."
        )
    try:
        return in_dtype(model, example, None, work)
    except Exception as error:  # whatever the user's code raises
        raise ValueError(
            f"{caller}: {type(model).__name__} does not take the example: {type(error).__name__}: {first_line(error)}"
        ) from error


def first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def outputs(model: nn.Module, example: Any, dtype: torch.dtype, change: Change | None = None) -> list[Tensor]:
    """The floating-point tensors that the model returns, with a temporary change that is made in ``dtype``."""

    def work(forward: Run) -> list[Tensor]:
        with ModelChange(model, "a trial") as trial:
            if change is not None:
                change(trial)
            try:
                return list(tensors_in(forward(trial.model)))
            finally:
                trial.roll_back()

    return [t.detach() for t in in_dtype(model, example, dtype, work) if t.is_floating_point()]


def outputs_if_any(model: nn.Module, example: Any, dtype: torch.dtype) -> list[Tensor] | None:
    """The `outputs`; None if the model does not run in this dtype, as with a hard-coded dtype."""
    try:
        return outputs(model, example, dtype)
    except Exception:  # whatever the user's code raises
        return None


def _convert(model: nn.Module, dtype: torch.dtype) -> None:
    """Put converted copies of all floating-point tensors into the modules; only inside `as_it_was`, which restores.

    Tied tensors stay tied, and buffers that our layers keep wide stay wide.
    """
    copies: dict[int, Tensor] = {}
    for module in model.modules():
        wide = getattr(module, "wide", ())
        for store in (module._parameters, module._buffers):
            for name, tensor in store.items():
                if tensor is None or not tensor.is_floating_point():
                    continue
                if id(tensor) not in copies:
                    new_dtype = torch.promote_types(dtype, torch.float32) if name in wide else dtype
                    converted = tensor.detach().to(new_dtype)
                    is_parameter = isinstance(tensor, nn.Parameter)
                    copies[id(tensor)] = nn.Parameter(converted, tensor.requires_grad) if is_parameter else converted
                store[name] = copies[id(tensor)]  # type: ignore[assignment]
        if isinstance(module, nn.RNNBase):  # which keeps a second list of its parameters
            module._flat_weights = [module._parameters.get(name) for name in module._flat_weights_names]
