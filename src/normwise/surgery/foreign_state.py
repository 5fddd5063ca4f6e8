"""A foreign state, flat or nested, split into the tensors of each layer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .foreign_names import Source

_NAME = "load_foreign"
_VARIABLE = re.compile(r":\d+$")  # TensorFlow's number of an operation's output


class Group:
    """The part of a state for one layer: ``path`` is the layer's name in the state, ``values`` its entries."""

    def __init__(self, path: tuple[str, ...]) -> None:
        self.path = path
        self.values: dict[str, Any] = {}

    @property
    def name(self) -> str:
        return "/".join(self.path)

    def called(self, names: tuple[str, ...]) -> str | None:
        """The first of the names that is in the group; None if none is."""
        return next((name for name in names if name in self.values), None)

    def array(self, names: tuple[str, ...]) -> Tensor | None:
        """The values under one of the names, finite and in fp64 on the CPU; None if there are none."""
        name = self.called(names)
        if name is None:
            return None
        where = f"{self.name}/{name}" if self.path else name
        values = _as_fp64(self.values[name], where)
        if not values.isfinite().all():
            count = int((~values.isfinite()).sum())
            raise ValueError(
                f"{_NAME}: {where} has {count} values that are NaN or infinite; "
                "use an earlier checkpoint, whose values are finite."
            )
        return values

    def number(self, names: tuple[str, ...], least: float, most: float) -> float | None:
        """A single number within bounds."""
        values = self.array(names)
        if values is None:
            return None
        if values.numel() != 1 or not least <= values.item() <= most:
            raise ValueError(
                f"{_NAME}: {self.called(names)} must be one number from {least:g} to {most:g}, received "
                f"{values.tolist()}."
            )
        return values.item()

    def denies(self, names: tuple[str, ...]) -> bool:
        """Whether a setting of the layer is False, for example ``use_bias``."""
        name = self.called(names)
        return name is not None and isinstance(self.values[name], (bool, np.bool_)) and not self.values[name]

    def holds_kernel(self, source: Source) -> bool:
        """Whether this is a convolution or linear layer rather than a normalization."""
        statistics = (name for role in ("mean", "var", "std") for name in source.norm.get(role, ()))
        if any(name in self.values for name in statistics):
            return False
        kernels = [name for role in ("weight", "depthwise") for name in source.kernel.get(role, ())]
        return any(name in self.values and np.ndim(self.values[name]) > 1 for name in kernels)

    def holds_norm(self, source: Source) -> bool:
        return not self.holds_kernel(source) and self.called(source.listed) is not None


def groups_of(state: object, source: Source, children: Set[str]) -> list[Group]:
    """The state split by layer, in its order; settings outside the layers apply to all of them.

    An outer key for a collection, such as Flax's "params", is not part of the names unless the model has a child of
    that name. Raises TypeError if the state is no mapping of names, ValueError if it is empty or a name occurs twice.
    """
    if not isinstance(state, Mapping):
        raise TypeError(
            f"{_NAME}: state must be a dict of names to arrays, received {type(state).__name__}; write for example "
            "{variable.name: variable.numpy() for variable in layer.variables}."
        )
    collections = [name for name in source.collections if name not in children]
    nested = [state[name] for name in collections if isinstance(state.get(name), Mapping)]
    if nested:
        nested.append({name: value for name, value in state.items() if name in source.settings})
    leaves = [leaf for part in nested or [state] for leaf in _leaves(part, ())]
    if leaves and not nested and all(len(path) > 1 and path[0] in collections for path, _ in leaves):
        leaves = [(path[1:], value) for path, value in leaves]
    groups: dict[tuple[str, ...], Group] = {}
    for path, value in leaves:
        at, name = _split(path, source.names)
        values = groups.setdefault(at, Group(at)).values
        if name in values:
            raise ValueError(f"{_NAME}: {'/'.join((*at, name))} comes twice in the state; leave one of them out.")
        values[name] = value
    if not groups:
        raise ValueError(f"{_NAME}: the state is empty; pass a dict of names to arrays.")
    return _with_common_settings(groups, source)


def _leaves(state: Mapping[Any, Any], above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in state.items():
        parts = key if isinstance(key, tuple) else (key,)
        if not all(isinstance(part, str) for part in parts):
            raise TypeError(f"{_NAME}: the state's keys must be names, received {key!r}.")
        path = (*above, *(p for part in parts for p in re.split(r"[/.]", part) if p not in ("", "~")))
        if isinstance(value, Mapping):
            yield from _leaves(value, path)
        else:
            yield path, value


def _split(path: tuple[str, ...], known: set[str]) -> tuple[tuple[str, ...], str]:
    """Split a path into the layer and the name in it; files of Keras contain the layer's name twice."""
    path = (*path[:-1], _VARIABLE.sub("", path[-1])) if path else ("",)
    size = 2 if "/".join(path[-2:]) in known else 1
    at = path[:-size]
    return at[:-1] if len(at) > 1 and at[-1] == at[-2] else at, "/".join(path[-size:])


def _with_common_settings(groups: dict[tuple[str, ...], Group], source: Source) -> list[Group]:
    common = groups.get(())
    if common is None or len(groups) == 1 or not common.values.keys() <= source.settings:
        return list(groups.values())
    del groups[()]
    for group in groups.values():
        if group.holds_norm(source):
            group.values = common.values | group.values
    return list(groups.values())


def _as_fp64(value: Any, where: str) -> Tensor:
    """A value that NumPy can read, also JAX's bf16, as a tensor in fp64."""
    if isinstance(value, Tensor):
        plain = value.layout is torch.strided and not (value.is_complex() or value.is_meta or value.is_quantized)
        if not plain or value.is_nested:
            raise TypeError(
                f"{_NAME}: {where} must be a dense tensor of real numbers, received {value.dtype}, {value.layout} on "
                f"{value.device}; convert it first."
            )
        return value.detach().to("cpu", torch.float64)
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "cOSU":
            return torch.from_numpy(np.array(array, np.float64))
        received = f"{type(value).__name__} of {array.dtype}"
    except (TypeError, ValueError):
        received = type(value).__name__
    raise TypeError(f"{_NAME}: {where} must be an array of real numbers, received {received}.")
