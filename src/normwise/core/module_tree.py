"""A model's modules, each once, with every place that holds it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from torch import nn

Store = dict[Any, Any] | list[Any]

_OF_TORCH = frozenset(vars(nn.Module()))  # `_modules`, the hooks and so on: what every module has


class Place(NamedTuple):
    """Where an object is held: ``store[key]``, of the module ``holder`` or of a container in one of its attributes.

    ``inner``: the indices into ``store[key]`` where that is a tuple; `put` makes a new tuple. ``name``: the path that
    the user writes, from the model on.
    """

    holder: nn.Module
    store: Store
    key: Any
    inner: tuple[int, ...]
    name: str

    def get(self) -> Any:
        """The object that is held; None where there is none any more."""
        try:
            held = self.store[self.key]
            for index in self.inner:
                held = held[index]
        except (KeyError, IndexError, TypeError):
            return None
        return held

    def put(self, value: Any) -> None:
        self.store[self.key] = _with_item(self.store[self.key], self.inner, value) if self.inner else value


class Node(NamedTuple):
    """A module, all its names (that of `named_modules` first), and the places that hold it; the model itself has none.

    A module has several places if it is registered twice, or is also held by an attribute such as a plain list.
    """

    module: nn.Module
    names: tuple[str, ...]
    places: tuple[Place, ...]

    @property
    def name(self) -> str:
        return self.names[0]


def module_tree(model: nn.Module) -> dict[nn.Module, Node]:
    """Every module of a model, itself first, in the order of `named_modules`.

    Places are looked for in the modules' children and in their other attributes, lists, tuples and dicts included. A
    module that a closure or another object holds is not found.

    >>> model = nn.Sequential(nn.ReLU(), nn.Linear(2, 2))
    >>> model.alias, model.plain = model[0], [model[0]]
    >>> node = module_tree(model)[model[0]]
    >>> node.names, [place.name for place in node.places]
    (('0', 'alias'), ['0', 'alias', 'plain[0]'])
    """
    names: dict[nn.Module, list[str]] = defaultdict(list)
    for name, module in model.named_modules(remove_duplicate=False):
        names[module].append(name)
    places: dict[nn.Module, list[Place]] = defaultdict(list)
    for holder, known in names.items():
        for place in places_in(holder, known[0]):
            places[place.get()].append(place)
    return {m: Node(m, tuple(known), tuple(places[m])) for m, known in names.items()}


def places_in(holder: nn.Module, name: str) -> Iterator[Place]:
    """The places in one module that hold modules, its own children first."""
    prefix = f"{name}." if name else ""
    for key, child in holder._modules.items():
        if child is not None:
            yield Place(holder, holder._modules, key, (), prefix + key)  # type: ignore[arg-type]
    attributes = vars(holder)
    for key in [key for key in attributes if key not in _OF_TORCH]:
        yield from _within(holder, attributes, key, (), attributes[key], prefix + key, frozenset())


def _within(
    holder: nn.Module, store: Store, key: Any, inner: tuple[int, ...], value: Any, name: str, outer: frozenset[int]
) -> Iterator[Place]:
    """The places at and under ``value``; containers that contain themselves are entered once."""
    if isinstance(value, nn.Module):
        yield Place(holder, store, key, inner, name)
    elif isinstance(value, (list, tuple, dict)) and id(value) not in outer:
        outer |= {id(value)}
        items: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else enumerate(value)
        for index, item in items:
            where = (store, key, (*inner, index)) if isinstance(value, tuple) else (value, index, ())
            yield from _within(holder, *where, item, f"{name}[{index!r}]", outer)


def _with_item(held: Any, way: tuple[int, ...], value: Any) -> Any:
    if not way:
        return value
    items = list(held)
    items[way[0]] = _with_item(held[way[0]], way[1:], value)
    return type(held)(*items) if hasattr(held, "_fields") else type(held)(items)
