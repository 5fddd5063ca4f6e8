"""What a trace runs on: Gaussian noise, a batch, or the batches of a loader."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

SAMPLES = 8
SPACE = {1: (1024,), 2: (224, 224), 3: (16, 112, 112)}
TOKENS = 32
Forward = Callable[[nn.Module, Any], Any]


def device_of(model: nn.Module) -> torch.device:
    """The device of the first tensor: where inputs go."""
    return next((t.device for t in [*model.parameters(), *model.buffers()]), torch.device("cpu"))


def dtype_of(model: nn.Module) -> torch.dtype:
    dtypes = (t.dtype for t in [*model.parameters(), *model.buffers()] if t.is_floating_point())
    return next(dtypes, torch.get_default_dtype())


def gaussian(model: nn.Module, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard normal values of the model's dtype on its device, the same on every device."""
    return torch.randn(shape, generator=generator, device="cpu").to(device_of(model), dtype_of(model))


def default_input(model: nn.Module, generator: torch.Generator) -> tuple[Tensor, str]:
    """Noise for the model's first layer, in the order of registration, and its description.

    Raises ValueError where no layer says what it takes.
    """
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    size = config.get("input_size") if isinstance(config, Mapping) else None
    if size is not None:
        return _described(model, (SAMPLES, *size), generator)
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            tokens = torch.randint(module.num_embeddings, (SAMPLES, TOKENS), generator=generator, device="cpu")
            return tokens.to(device_of(model)), f"random tokens {SAMPLES}×{TOKENS}"
        shape = _shape_for(module)
        if shape is not None:
            return _described(model, shape, generator)
    raise ValueError(
        f"trace cannot tell what {type(model).__name__} takes; pass a batch as input, or a shape such as (8, 3, 32, 32)"
    )


def _described(model: nn.Module, shape: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, str]:
    return gaussian(model, shape, generator), f"Gaussian {'×'.join(map(str, shape))}"


def _shape_for(module: nn.Module) -> tuple[int, ...] | None:
    for rank, kind in ((1, nn.Conv1d), (2, nn.Conv2d), (3, nn.Conv3d)):
        if isinstance(module, kind):
            return SAMPLES, module.in_channels, *SPACE[rank]
    if isinstance(module, nn.RNNBase):
        return SAMPLES, TOKENS, module.input_size
    if isinstance(module, nn.MultiheadAttention):
        return SAMPLES, TOKENS, module.embed_dim
    return (SAMPLES * SAMPLES, module.in_features) if isinstance(module, nn.Linear) else None


def is_shape(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) > 0 and all(type(size) is int for size in value)


def batches_of(source: Any, limit: int) -> Iterator[Any]:
    """One batch as it is; of a loader the first ones. Raises TypeError for what is neither, ValueError for none."""
    if isinstance(source, (Tensor, tuple, list, Mapping)):
        yield source
        return
    if not isinstance(source, Iterable) or isinstance(source, str):
        raise TypeError(
            f"input must be a tensor, a tuple, list or dict of them, a shape, or a loader of batches; "
            f"received {type(source).__name__}."
        )
    empty = True
    for batch in islice(source, limit):
        empty = False
        yield batch
    if empty:
        raise ValueError("The loader has no batches.")


def run(model: nn.Module, batch: Any) -> Any:
    """Call the model on a batch.

    A tuple is the positional arguments. A dict is the keyword arguments if `forward` has these names, else one
    argument. Of a list (what a loader makes of (input, target)) the arguments that `forward` requires.
    """
    if isinstance(batch, tuple):
        return model(*batch)
    if isinstance(batch, list):
        return model(*batch[: max(1, _required(model))])
    if isinstance(batch, Mapping) and _accepts(model, batch):
        return model(**batch)
    return model(batch)


def _parameters(model: nn.Module) -> list[inspect.Parameter]:
    return list(inspect.signature(model.forward).parameters.values())


def _required(model: nn.Module) -> int:
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is p.empty for p in _parameters(model))


def _accepts(model: nn.Module, names: Iterable[Any]) -> bool:
    parameters = _parameters(model)
    return any(p.kind is p.VAR_KEYWORD for p in parameters) or {p.name for p in parameters}.issuperset(names)


def copied(value: Any, device: torch.device, change: Callable[[Tensor], Tensor]) -> Any:
    """A nested batch on ``device``, every tensor changed by ``change``; the caller's tensors stay as they are."""
    if isinstance(value, Tensor):
        return change(value.detach().to(device))
    if isinstance(value, Mapping):
        return {key: copied(item, device, change) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [copied(item, device, change) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value
