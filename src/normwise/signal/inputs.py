"""The input of a trace without data: noise of a given or a suitable shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

SAMPLES = 8
SPACE = {1: (1024,), 2: (224, 224), 3: (16, 112, 112)}
TOKENS = 32


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first tensor, to which inputs are moved."""
    return next((t.device for t in [*model.parameters(), *model.buffers()]), torch.device("cpu"))


def dtype_of(model: nn.Module) -> torch.dtype:
    dtypes = (t.dtype for t in [*model.parameters(), *model.buffers()] if t.is_floating_point())
    return next(dtypes, torch.get_default_dtype())


def gaussian(model: nn.Module, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard normal values of the model's dtype on its device, the same on every device."""
    return torch.randn(shape, generator=generator, device="cpu").to(device_of(model), dtype_of(model))


def default_input(model: nn.Module, generator: torch.Generator) -> tuple[Tensor, str]:
    """Noise that fits the model's first layer, in the order of registration, and a description of the noise.

    Raises ValueError if the input shape cannot be read from any layer.
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
        f"trace cannot find the input shape of {type(model).__name__}; pass a batch as input, or a shape such as "
        "(8, 3, 32, 32)"
    )


def _described(model: nn.Module, shape: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, str]:
    return gaussian(model, shape, generator), f"Gaussian {'×'.join(map(str, shape))}"


def _shape_for(module: nn.Module) -> tuple[int, ...] | None:
    for rank, convolution in ((1, nn.Conv1d), (2, nn.Conv2d), (3, nn.Conv3d)):
        if isinstance(module, convolution):
            return SAMPLES, module.in_channels, *SPACE[rank]
    if isinstance(module, nn.RNNBase):
        return SAMPLES, TOKENS, module.input_size
    if isinstance(module, nn.MultiheadAttention):
        return SAMPLES, TOKENS, module.embed_dim
    return (SAMPLES * SAMPLES, module.in_features) if isinstance(module, nn.Linear) else None


def is_shape(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) > 0 and all(type(size) is int for size in value)
