"""Write normalized weights into plain ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils import parametrizations as torch_parametrizations
from torch.nn.utils import parametrize

from .convolutions import (
    ScaledWSConv1d,
    ScaledWSConv2d,
    ScaledWSConv3d,
    WSConv1d,
    WSConv2d,
    WSConv3d,
)
from .effective import parametrized_value
from .layers import StandardizedConv, chain_of
from .old_names import forget_old_names
from .operator_norm import OperatorNorm
from .spectral_norm import SpectralNorm
from .standardization import ScaledWeightStandardization, WeightStandardization
from .vector_norm import VectorNorm

KINDS: dict[type[nn.Module], str] = {
    SpectralNorm: "spectral norm",
    VectorNorm: "spectral norm",
    OperatorNorm: "operator norm",
    WeightStandardization: "weight standardization",
    ScaledWeightStandardization: "scaled weight standardization",
    torch_parametrizations._SpectralNorm: "torch spectral norm",
    WSConv1d: "weight standardization",
    WSConv2d: "weight standardization",
    WSConv3d: "weight standardization",
    ScaledWSConv1d: "scaled weight standardization",
    ScaledWSConv2d: "scaled weight standardization",
    ScaledWSConv3d: "scaled weight standardization",
}
PLAIN: dict[type[nn.Module], type[nn.Module]] = {
    WSConv1d: nn.Conv1d,
    WSConv2d: nn.Conv2d,
    WSConv3d: nn.Conv3d,
    ScaledWSConv1d: nn.Conv1d,
    ScaledWSConv2d: nn.Conv2d,
    ScaledWSConv3d: nn.Conv3d,
}


class Baked(NamedTuple):
    """One weight that `bake` wrote: its name in the model and what had normalized it."""

    name: str
    kind: str


def bake(model: nn.Module) -> list[Baked]:
    """Write every weight normalization of a model into plain weights, in place, and say which.

    The parametrizations `spectral_norm`, `weight_standardization`, `scaled_weight_standardization` and torch's own
    `spectral_norm` are removed; `WSConvNd` and `ScaledWSConvNd` become plain `torch.nn.ConvNd`. The weights are those
    of evaluation, computed by the same operations, so the outputs in evaluation stay the same bit for bit (eager; to
    rounding against a compiled model), and exported graphs have no trace of the normalization.

    Parameters, modules, hooks, training flags and ``requires_grad`` stay the objects they are; a shared module is
    baked once and stays shared. The gains of scaled weight standardization are gone afterwards. To keep training with
    the normalization, bake a `copy.deepcopy`.

    Raises ValueError, with the model unchanged, where baking would alter something else: a weight tensor that several
    modules use, a weight that another parametrization changes as well, a subclass of our convolutions.

    >>> from normwise.weights import spectral_norm
    >>> model = nn.Sequential(WSConv2d(3, 4, 3), nn.ReLU(), spectral_norm(nn.Conv2d(4, 5, 3))).eval()
    >>> x = torch.randn(1, 3, 8, 8)
    >>> before = model(x)
    >>> for name, kind in bake(model):
    ...     print(name, "-", kind)
    0.weight - weight standardization
    2.weight - spectral norm
    >>> torch.equal(model(x), before)
    True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"bake expects a module, received {type(model).__name__}.")
    modules = dict(model.named_modules())
    work = {name: list(_normalized_tensors(name, module)) for name, module in modules.items()}
    _check_unshared(model, [tensor for tensors in work.values() for tensor in tensors])
    report = []
    for name, tensors in work.items():
        for tensor in tensors:
            kinds = _write(modules[name], tensor.rpartition(".")[2])
            report.append(Baked(tensor, " + ".join(kinds)))
    return report


def _normalized_tensors(name: str, module: nn.Module) -> Iterator[str]:
    """Full names of a module's tensors that are ours to bake; ValueError for what cannot be."""
    prefix = f"{name}." if name else ""
    parametrized = list(module.parametrizations) if parametrize.is_parametrized(module) else []  # type: ignore[arg-type]
    for tensor in parametrized:
        chain = chain_of(module, tensor)
        foreign = [type(p).__name__ for p in chain if type(p) not in KINDS]
        if len(foreign) == len(chain):
            continue
        if foreign:
            raise ValueError(
                f"bake: {prefix}{tensor} is also parametrized by {', '.join(foreign)}, which baking would remove; "
                "remove that parametrization first."
            )
        yield prefix + tensor
    if isinstance(module, StandardizedConv):
        if parametrize.type_before_parametrizations(module) not in PLAIN:
            raise ValueError(
                f"bake: {name or 'the model'} is a {type(module).__name__}, a subclass with behaviour of its own; "
                "give it a plain convolution with weight_standardization instead."
            )
        if "weight" not in parametrized:
            yield prefix + "weight"


def _check_unshared(model: nn.Module, tensors: list[str]) -> None:
    """A tensor with two users cannot hold the normalized value of one of them."""
    users: dict[int, list[str]] = defaultdict(list)
    for owner_name, owner in model.named_modules():
        for key, tensor in (*owner._parameters.items(), *owner._buffers.items()):
            if tensor is not None:
                users[id(tensor)].append(f"{owner_name}.{key}" if owner_name else key)
    for names in users.values():
        plain = [_without_chain(name) for name in names]
        if len(names) > 1 and any(name in tensors for name in plain):
            raise ValueError(
                f"bake: one tensor is shared by {' and '.join(plain)}; writing one's normalized weight would change "
                "the other. Give each its own tensor first."
            )


def _without_chain(name: str) -> str:
    """``0.parametrizations.weight.original`` is ``0.weight`` to the user."""
    head, found, tail = name.rpartition("parametrizations.")
    return head + tail.removesuffix(".original") if found else name


@torch.no_grad()
def _write(module: nn.Module, tensor: str) -> list[str]:
    kinds = []
    if parametrize.is_parametrized(module, tensor):
        kinds += [KINDS[type(p)] for p in chain_of(module, tensor)]
        _unparametrize(module, tensor)
    if isinstance(module, StandardizedConv) and tensor == "weight":
        kinds.append(KINDS[type(module)])
        _make_plain(module)
    return kinds


def _unparametrize(module: nn.Module, name: str) -> None:
    """Put the normalized value into the original tensor and the tensor back into its module.

    `parametrize.remove_parametrizations` deletes the property from the class, which deep copies of the module share:
    they would lose their weight.
    """
    chain: Any = chain_of(module, name)
    original = chain.original
    original.copy_(parametrized_value(module, name))
    forget_old_names(module, name)
    others = [n for n in module.parametrizations if n != name]  # type: ignore[union-attr]
    module.__class__ = parametrize.type_before_parametrizations(module)
    if others:
        del module.parametrizations[name]  # type: ignore[union-attr]
        parametrize._inject_new_class(module)
        for other in others:
            parametrize._inject_property(module, other)
    else:
        del module.parametrizations
    register = module.register_parameter if isinstance(original, nn.Parameter) else module.register_buffer
    register(name, original)


def _make_plain(conv: Any) -> None:
    conv.weight.copy_(conv.standardized(conv.weight))
    for attribute in ("gain", "gamma", "eps"):
        if hasattr(conv, attribute):
            delattr(conv, attribute)
    conv.__class__ = PLAIN[type(conv)]
