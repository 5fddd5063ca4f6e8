"""The output units of parameters, whose norms adaptive gradient clipping compares, and the layer that it excludes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..weights.layers import TRANSPOSED, FanIn, computing_dtype

#: Selects the weights that are not clipped: "final", a module, several, or None.
Classifier = str | nn.Module | Iterable[nn.Module] | None


class Target(NamedTuple):
    """A parameter to clip, its name, and the dimensions of its units."""

    name: str
    parameter: Tensor
    fan_in: FanIn = FanIn(None)

    @property
    def whole(self) -> bool:
        """Whether the parameter is a single unit, as scalars and vectors are."""
        return sum(size != 1 for size in self.parameter.shape) <= 1

    def norms(self, tensor: Tensor) -> Tensor:
        """The Euclidean norm, ``[units]``, of each unit that this process holds of a tensor like the parameter."""
        dtype = computing_dtype(tensor)
        if self.whole:
            norm: Any = torch.linalg.vector_norm(tensor, dtype=dtype)
            return (norm.full_tensor() if is_distributed(norm) else norm).reshape(1)
        blocks = self.blocks(tensor)
        return torch.linalg.vector_norm(blocks, dim=self.fan_in.axes(blocks), dtype=dtype).reshape(-1)

    def blocks(self, tensor: Any) -> Tensor:
        """A view of this process' part of a tensor of the parameter's shape, over which `per_unit` broadcasts."""
        local = tensor.to_local() if is_distributed(tensor) else tensor
        return local if self.whole else self.fan_in.blocks(local)

    def per_unit(self, values: Tensor) -> Tensor:
        """``[units]`` values in the shape that broadcasts over `blocks`."""
        return values.reshape(()) if self.whole else self.fan_in.per_unit(values, self.blocks(self.parameter))


def is_distributed(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor, tested without importing its module, which takes seconds."""
    return hasattr(tensor, "placements")


def targets_of(model: nn.Module) -> dict[int, Target]:
    """Every parameter of a model once, by its id."""
    transposed = {
        id(parameter): FanIn.of(module)
        for module in model.modules()
        if isinstance(module, TRANSPOSED)
        # The originals of parametrized weights are included; reading `module.weight` would compute it.
        for parameter in module.parameters()
        if parameter.dim() == len(module.kernel_size) + 2 and parameter.shape[0] == module.in_channels
    }
    return {id(p): Target(name, p, transposed.get(id(p), FanIn(None))) for name, p in model.named_parameters()}


def classifier_weights(model: nn.Module | None, classifier: Classifier, caller: str) -> list[Tensor]:
    """The weights that are not clipped: matrices of the classifier, not its bias."""
    if classifier is None or (classifier == "final" and model is None):
        return []
    if isinstance(classifier, str):
        if classifier != "final":
            raise ValueError(
                f"{caller}: classifier={classifier!r}: it is found by its role, not by its name; give the module, "
                "such as classifier=model.head, or None to clip every weight."
            )
        modules: list[nn.Module] = [_final_linear(model, caller)]  # type: ignore[arg-type]
    else:
        modules = [classifier] if isinstance(classifier, nn.Module) else list(classifier)
        for module in modules:
            if not isinstance(module, nn.Module):
                raise TypeError(f"{caller}: classifier must be a module, received {type(module).__name__}.")
    return [parameter for module in modules for parameter in module.parameters() if parameter.dim() > 1]


def _final_linear(model: nn.Module, caller: str) -> nn.Module:
    """The last layer of a model, which must be linear."""
    inside = {
        id(part)
        for module in model.modules()
        if parametrize.is_parametrized(module)
        for part in module.parametrizations.modules()  # type: ignore[union-attr]
    }
    layers = [m for m in model.modules() if id(m) not in inside and _owns_parameters(m)]
    if not layers or not isinstance(layers[-1], nn.Linear):
        last = f"its last layer is a {type(layers[-1]).__name__}" if layers else "it has no parameters"
        raise ValueError(
            f"{caller}: the classifier of {type(model).__name__} cannot be told, since {last}, not a Linear; name the "
            "module that gives the output, such as classifier=model.head, or None to clip every weight."
        )
    return layers[-1]


def _owns_parameters(module: nn.Module) -> bool:
    return any(p is not None for p in module._parameters.values()) or parametrize.is_parametrized(module)
