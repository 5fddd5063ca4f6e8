"""Match each group of a foreign state to a layer of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ..core.module_tree import Node
from ..layers.remembering import memory_of
from ..signal.diagnosis.findings import listed
from .foreign_names import Source
from .foreign_state import Group

_NAME = "load_foreign"
_NORMALIZATION = "normalization"
_ROWS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)
_NORMS = (nn.modules.batchnorm._NormBase, *_ROWS)

Pairs = dict[nn.Module, Group]


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a normalization layer with no other parameters than γ and β; others are never in a state."""
    known = isinstance(module, _NORMS) or memory_of(module) is not None
    plain = module._parameters.keys() <= {"weight", "bias"}
    weight = tensor_of(module, "weight")
    return known and plain and (isinstance(module, _ROWS) or weight is None or weight.dim() == 1)


def is_kernel(module: nn.Module) -> bool:
    """Whether a module is a plain convolution or linear layer, whose weight is not computed from other tensors."""
    plain = isinstance(module, (_ConvNd, nn.Linear)) and not isinstance(module, _ConvTransposeNd)
    return plain and module._parameters.keys() == {"weight", "bias"}


def tensor_of(module: nn.Module, name: str) -> Tensor | None:
    """A parameter or a buffer: frozen layers have γ and β as buffers."""
    held = module._parameters.get(name)
    return module._buffers.get(name) if held is None else held


class Matching:
    """Pairs of groups and layers, by name or else by a shape that occurs once on both sides.

    ``left``: the groups without a layer into which they could be loaded, each with the reason.
    """

    def __init__(self, nodes: Mapping[nn.Module, Node], groups: Sequence[Group], source: Source, last: bool) -> None:
        self._nodes, self._source, self._last = nodes, source, last
        self._by_name = {name: module for module, node in nodes.items() for name in node.names}
        self.pairs: Pairs = {}
        self.left: list[tuple[Group, str]] = []
        rest = [group for group in groups if not self._is_named(group)]
        norms = [group for group in rest if group.holds_norm(source)]
        kernels = [group for group in rest if group.holds_kernel(source)]
        others = [group for group in rest if group not in norms and group not in kernels]
        self.left += [(group, "no names of a normalization, convolution or linear layer") for group in others]
        self._by_shape(norms, self._open(is_norm), _NORMALIZATION, self._size_of_norm)
        given = kernels or any(is_kernel(module) for module in self.pairs)
        self._by_shape(kernels, self._open(is_kernel) if given else [], "convolution or linear", self._size_of_kernel)

    def _open(self, fits: Callable[[nn.Module], bool]) -> list[nn.Module]:
        """The layers without a group so far; those without any tensor need none."""
        return [m for m in self._nodes if fits(m) and m not in self.pairs and _has_tensors(m)]

    def _is_named(self, group: Group) -> bool:
        """Whether a module has the group's name; DataParallel puts "module" before it."""
        name = ".".join(group.path)
        module = self._by_name.get(name, self._by_name.get(name.removeprefix("module.")))
        if module is None or (not name and not (is_norm(module) or is_kernel(module))):
            return False
        if not (is_norm(module) or is_kernel(module)):
            reason = f"{type(module).__name__} is no plain normalization, convolution or linear layer"
            self.left.append((group, reason))
        elif module in self.pairs and not _same(self.pairs[module], group):
            raise ValueError(
                f"{_NAME}: {self.pairs[module].name} and {group.name} are one shared layer of the model, and the state "
                "has different values for them."
            )
        else:
            self.pairs.setdefault(module, group)
        return True

    def _by_shape(
        self,
        groups: list[Group],
        layers: list[nn.Module],
        role: str,
        size_of: Callable[[Group], tuple[int, ...]],
    ) -> None:
        if len(groups) == len(layers) == 1:  # if they do not fit, a later error names both shapes
            self.pairs[layers[0]] = groups[0]
            return
        if not groups and layers:
            missing = _listed([self._nodes[m].name for m in layers])
            raise ValueError(
                f"{_NAME}: the state has nothing for the {role} layers{missing}; "
                f"pass them too, by the names of this source ({self._names(role)})."
            )
        if len(groups) != len(layers):
            raise ValueError(
                f"{_NAME}: the state has {len(groups)} {role} layer(s){_listed([g.name for g in groups])} whose names "
                f"are none of the model's, and the model has {len(layers)} without one"
                f"{_listed([self._nodes[m].name for m in layers])}; pass as many, by the names of this source "
                f"({self._names(role)}), or give them the model's names."
            )
        sizes = [size_of(group) for group in groups]
        shapes = [_size_of(layer) for layer in layers]
        for group, size in zip(groups, sizes, strict=True):
            fitting = [layer for layer, shape in zip(layers, shapes, strict=True) if shape == size]
            if len(fitting) != 1 or sizes.count(size) != 1:
                found = _listed([self._nodes[m].name for m in fitting]) or " none"
                raise ValueError(
                    f"{_NAME}: {group.name or 'the state'} has the name of no layer, and the shape {list(size)} of"
                    f"{found}, where one layer is needed; rename it in the state to the name of its layer in the model."
                )
            self.pairs[fitting[0]] = group

    def _names(self, role: str) -> str:
        return ", ".join(self._source.listed if role == _NORMALIZATION else self._source.listed_of_kernels)

    def _size_of_norm(self, group: Group) -> tuple[int, ...]:
        values: Any = group.array(self._source.listed)  # `holds_norm` has found one
        return (values.numel(),)

    def _size_of_kernel(self, group: Group) -> tuple[int, ...]:
        kernel = kernel_of(group, self._source, self._last)
        return () if kernel is None else tuple(kernel.shape)


def kernel_of(group: Group, source: Source, last: bool, shape: torch.Size | None = None) -> Tensor | None:
    """The kernel in torch's layout, ``[out, in, *space]``, for a weight of this shape.

    Keras 3 uses the same name for depthwise kernels as for all others: only the layer's shape distinguishes them.
    """
    depthwise = group.array(source.kernel.get("depthwise", ()))
    if depthwise is not None and depthwise.dim() > 2:
        if not last:  # [C, multiplier, *space]
            return depthwise.flatten(0, 1).unsqueeze(1)
        return _per_channel(depthwise)
    kernel = group.array(source.kernel["weight"])
    if kernel is None or kernel.dim() < 2 or not last:
        return kernel
    whole = kernel.movedim((-1, -2), (0, 1))
    apart = whole if kernel.dim() == 2 else _per_channel(kernel)
    return apart if whole.shape != shape == apart.shape else whole


def _per_channel(depthwise: Tensor) -> Tensor:
    """``[*space, C, multiplier]`` as ``[C · multiplier, 1, *space]``."""
    return depthwise.movedim((-2, -1), (0, 1)).flatten(0, 1).unsqueeze(1)


def _size_of(layer: nn.Module) -> tuple[int, ...]:
    memory, weight = memory_of(layer), tensor_of(layer, "weight")
    if is_kernel(layer):
        return tuple(layer.weight.shape)  # type: ignore[union-attr,arg-type]
    return (memory.mean.numel() if memory is not None else 0 if weight is None else weight.numel(),)


def _has_tensors(layer: nn.Module) -> bool:
    return memory_of(layer) is not None or any(tensor_of(layer, name) is not None for name in ("weight", "bias"))


def _same(one: Group, other: Group) -> bool:
    if one.values.keys() != other.values.keys():
        return False
    pairs = ((one.array((name,)), other.array((name,))) for name in one.values)
    return all(torch.equal(a, b) for a, b in pairs if a is not None and b is not None)


def _listed(names: Sequence[str]) -> str:
    return f" ({listed([name or 'the model itself' for name in names])})" if names else ""


def default_eps(layer: nn.Module, source: Source) -> float | None:
    """The framework's default eps for a layer of this class; None if there is no single one."""
    return source.eps_of_rows if isinstance(layer, _ROWS) else source.eps
