"""Changes of a model that are made as a whole or not at all, and can be undone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .inheritance import HOOKS, inherit
from .module_tree import Place, module_tree, places_in


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


_ABSENT: Any = _Absent()


class _Swap(NamedTuple):
    """A place and the objects that it held before and after the change."""

    place: Place
    old: Any
    new: Any


class _Written(NamedTuple):
    """A tensor that was written: its values before and after, and its version after the write."""

    tensor: Tensor
    old: Tensor
    new: Tensor
    version: int
    name: str


class ModelChange:
    """A transaction on a model: if its ``with`` block raises an exception, the model is as it was.

    After the block `undo` takes the whole change back. ``model`` is the root; where the root itself was replaced, it is
    the new one. ``caller`` is the name of the tool in error messages.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    >>> with ModelChange(model, "example") as change:
    ...     change.replace(model[1], nn.Identity())
    >>> model[1], change.undo() is model, type(model[1]).__name__
    (Identity(), True, 'BatchNorm1d')
    """

    def __init__(self, model: nn.Module, caller: str) -> None:
        self.model = model
        self._caller = caller
        self._roots = [model]
        self._swaps: list[_Swap] = []
        self._written: list[_Written] = []
        self._undone = False
        self._others: list[Callable[[], object]] = []
        tree = module_tree(model)
        self._places = {module: list(node.places) for module, node in tree.items()}
        self._names = {module: node.name for module, node in tree.items()}

    def __enter__(self) -> ModelChange:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.roll_back()

    def replace(self, old: nn.Module, new: nn.Module) -> None:
        """Put ``new`` in every place of ``old``, with what `inherit` hands over.

        ``new`` may contain ``old``, whose own hooks are then removed.
        """
        if old not in self._places:
            raise ValueError(f"{self._caller}: {type(old).__name__} is no module of this model.")
        inherit(new, old)
        if old in set(new.modules()):  # the outer module has the hooks now: they must not run twice
            for hooks in HOOKS:
                self.set(old, hooks, type(getattr(old, hooks))())
        places, name = self._places[old], self._names[old]
        self._places[old] = []
        for module, node in module_tree(new).items():
            if module not in self._names:
                self._names[module] = f"{name}.{node.name}" if name and node.name else name or node.name
            for place in places_in(module, self._names[module]):
                self._places.setdefault(place.get(), []).append(place)
        self._places.setdefault(new, []).extend(places)
        for place in places:
            self._swap(place, old, new)
        if old is self.model:
            self.model = new
            self._roots.append(new)

    def set(self, module: nn.Module, name: str, value: Any) -> None:
        """Set a parameter, a buffer, a child or another attribute, as an assignment would."""
        store: Any = _store_of(module, name, value)
        for key in _keys_of(module, name):
            self._swap(self._place(module, store, key), store.get(key, _ABSENT), value)

    def remove(self, module: nn.Module, name: str) -> None:
        store: Any = _store_of(module, name, _ABSENT)
        self._swap(self._place(module, store, name), store.get(name, _ABSENT), _ABSENT)

    @torch.no_grad()
    def write(self, tensor: Tensor, values: Tensor, name: str) -> None:
        """Copy values into a tensor of the model, which stays the same object."""
        self._written.append(_Written(tensor, tensor.detach().clone(), values, tensor._version + 1, name))
        tensor.copy_(values)

    @torch.no_grad()
    def move(self, tensor: Tensor, values: Tensor) -> None:
        """As `write`, but into new memory: other tensors and models that share the old memory keep its values.

        A tensor of a subclass is written in place, since its values are not in ``data``.
        """
        if type(tensor) not in (Tensor, nn.Parameter):
            before = tensor.detach().clone()
            self.on_undo(lambda: tensor.detach().copy_(before))
            tensor.copy_(values)
            return
        old = tensor.data
        self.on_undo(lambda: setattr(tensor, "data", old))
        tensor.data = values.detach().to(tensor.dtype).clone()

    def on_undo(self, action: Callable[[], object]) -> None:
        """Register the undoing of another change; ``action`` must do no harm if that change did not happen."""
        self._others.append(action)

    def roll_back(self) -> None:
        """Undo everything, even where the model was changed again since."""
        for action in reversed(self._others):
            action()
        for swap in reversed(self._swaps):
            _put(swap.place, swap.old)
        with torch.no_grad():
            for written in reversed(self._written):
                written.tensor.copy_(written.old)
        self.model, self._undone = self._roots[0], True

    def undo(self) -> nn.Module:
        """Undo the whole change and return the model as it was before.

        Raises ValueError, and changes nothing, where a place or a tensor of this change was changed again since.
        """
        if self._undone:
            raise ValueError(f"{self._caller} was undone already; there is nothing left to undo.")
        self._check_untouched()
        self.roll_back()
        return self.model

    def _check_untouched(self) -> None:
        """ValueError where a place or tensor of this change has another value than this change gave it."""
        theirs = [*self._roots, *(s.old for s in self._swaps if isinstance(s.old, nn.Module))]
        reachable = {module for root in theirs for module in root.modules()}
        last = {(id(swap.place.store), swap.place.key, swap.place.inner): swap for swap in self._swaps}
        for place, _, new in last.values():
            held = _held(place)
            if held is not new or place.holder not in reachable:
                found = "is no longer part of the model" if held is new else f"holds {_called(held)} by now"
                raise ValueError(
                    f"{self._caller} cannot be undone: {place.name} {found}, where {self._caller} had put "
                    f"{_called(new)}; put that back first."
                )
        written = {id(w.tensor): w for w in self._written}
        for tensor, _, new, version, name in written.values():
            # A later change that was undone has written the same values again.
            if tensor._version != version and not torch.equal(tensor, new.to(tensor)):
                raise ValueError(f"{self._caller} cannot be undone: {name} has been changed since.")

    def _place(self, module: nn.Module, store: Any, key: str) -> Place:
        name = self._names.get(module, "")
        return Place(module, store, key, (), f"{name}.{key}" if name else key)

    def _swap(self, place: Place, old: Any, new: Any) -> None:
        self._swaps.append(_Swap(place, old, new))  # first: an interruption between the two lines must not lose it
        _put(place, new)


def _store_of(module: nn.Module, name: str, value: Any) -> Any:
    stores: Any = (module._parameters, module._buffers, module._modules)
    for store, kind in zip(stores, (nn.Parameter, Tensor, nn.Module), strict=True):
        if name in store and (value is None or value is _ABSENT or isinstance(value, kind)):
            return store
    if isinstance(value, nn.Parameter):
        return module._parameters
    return module._modules if isinstance(value, nn.Module) else vars(module)


def _keys_of(module: nn.Module, name: str) -> tuple[str, ...]:
    """The names under which an attribute is stored: a descriptor of the class may have others, `kept_as`."""
    return getattr(getattr(type(module), name, None), "kept_as", (name,))


def _held(place: Place) -> Any:
    missing = isinstance(place.store, dict) and place.key not in place.store
    return _ABSENT if missing else place.get()


def _put(place: Place, value: Any) -> None:
    if value is _ABSENT:
        place.store.pop(place.key, None)  # type: ignore[call-arg]
    else:
        place.put(value)


def _called(value: Any) -> str:
    return f"another {type(value).__name__}" if isinstance(value, (nn.Module, Tensor)) else repr(value)
