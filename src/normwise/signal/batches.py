"""The batches of an input of any form, and how a model is called on one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from .modules import tensors_in

Forward = Callable[[nn.Module, Any], Any]
NO_BATCHES = "The loader has no batches."
MANY = 3
"""A list of at least so many tensors of one shape is a list of batches; two may be an input and its target."""


def is_batch(model: nn.Module, source: Any) -> bool:
    """Whether the source is one batch: a tensor, a mapping, or a tuple or list that holds no batches."""
    if isinstance(source, (tuple, list)):
        return not _holds_batches(model, source)
    return isinstance(source, (Tensor, Mapping))


def batches_of(model: nn.Module, source: Any, limit: int) -> Iterator[Any]:
    """A single batch, or the first ``limit`` batches of a loader or a list.

    Raises TypeError for other sources, ValueError if there is no batch.
    """
    if is_batch(model, source):
        yield source
        return
    if not isinstance(source, Iterable) or isinstance(source, (str, bytes)) or hasattr(source, "__array__"):
        raise TypeError(
            "input must be a tensor, a tuple, list or dict of them, a shape, or a loader of batches; "
            f"received {type(source).__name__}{_instead(source)}."
        )
    empty = True
    for batch in islice(source, limit):
        empty = False
        yield batch
    if empty:
        raise ValueError(NO_BATCHES)


def _instead(source: Any) -> str:
    if hasattr(source, "__array__"):
        return "; write torch.as_tensor(array)"
    return "; write DataLoader(dataset, batch_size=...)" if hasattr(source, "__getitem__") else ""


def _holds_batches(model: nn.Module, items: Sequence[Any]) -> bool:
    """Whether the items are batches of equal structure (pairs, dicts, or many tensors), not arguments of one call."""
    if isinstance(items, tuple) and (hasattr(items, "_fields") or len(items) == _required(model)):
        return False
    structures = {_structure(item) for item in items}
    if len(structures) != 1:
        return False
    if isinstance(items[0], Tensor):
        alike = items[0].dim() > 1 and items[0].is_floating_point() and len({x.shape[1:] for x in items}) == 1
        return isinstance(items, list) and alike and len(items) >= max(MANY, _required(model) + 1)
    return isinstance(items[0], (tuple, list, Mapping)) and any(True for _ in tensors_in(items[0]))


def _structure(item: Any) -> Any:
    """The structure of a batch, which is equal for all batches of one loader."""
    if isinstance(item, (tuple, list)):
        return type(item), tuple(Tensor if isinstance(part, Tensor) else type(part) for part in item)
    return (dict, frozenset(item)) if isinstance(item, Mapping) else type(item)


def call_for(model: nn.Module, source: Any) -> Forward:
    """The function that calls the model on batches of this source if no ``forward=`` is given."""
    return run if is_batch(model, source) else _run_on_loaded


def run(model: nn.Module, batch: Any) -> Any:
    """Call the model on a batch.

    A tuple holds the positional arguments. Of a list (such as (input, target) from a loader), and of a tuple with too
    many items, only the required arguments of `forward` are used. Of a dict the entries that are parameters of
    `forward` are used; a dict without such entries is one argument. Raises ValueError if the batch does not fit.
    """
    args, kwargs = _arguments(model, batch)
    try:
        return model(*args, **kwargs)
    except Exception as error:
        reason = _why_not(model, batch, args, kwargs)
        if reason is None:
            raise
        raise ValueError(reason) from error


def _run_on_loaded(model: nn.Module, batch: Any) -> Any:
    """Call the model on a loader's batch, where a tuple is (input, target), like a list."""
    plain = isinstance(batch, tuple) and not hasattr(batch, "_fields")
    return run(model, list(batch) if plain else batch)


def _arguments(model: nn.Module, batch: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
    if isinstance(batch, list) or (isinstance(batch, tuple) and len(batch) > _most(model)):
        return batch[: max(1, _required(model))], {}
    if isinstance(batch, tuple):
        return batch, {}
    if isinstance(batch, Mapping):
        known = _known(model, batch)
        return ((), known) if known else ((batch,), {})
    return (batch,), {}


def _why_not(model: nn.Module, batch: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    """Why a model cannot be called on such a batch, in a sentence; None if the error comes from the model itself."""
    name = f"{type(model).__name__}.forward({', '.join(p.name for p in _parameters(model))})"
    own = "pass forward=lambda model, batch: ... that calls the model on it"
    if not any(True for _ in tensors_in(batch)):
        if isinstance(batch, (list, tuple)) and not batch:
            return NO_BATCHES
        return f"A batch must hold a tensor; received {'None' if batch is None else type(batch).__name__}; {own}."
    if isinstance(batch, Mapping) and args:
        keys = ", ".join(map(repr, batch))
        example = next((key for key, value in batch.items() if isinstance(value, Tensor)), "x")
        return (
            f"The batch is a dict of {keys}, and {name} has no such arguments; "
            f"pass forward=lambda model, batch: model(batch[{example!r}])."
        )
    given = {p.name: value for p, value in zip(_parameters(model), args, strict=False)} | dict(kwargs)
    missing = [name for name, value in given.items() if value is None]
    return f"The batch holds None where {name} takes {missing[0]}; {own}." if missing else None


def _parameters(model: nn.Module) -> list[inspect.Parameter]:
    return list(inspect.signature(model.forward).parameters.values())


def _positional(model: nn.Module) -> list[inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p for p in _parameters(model) if p.kind in kinds]


def _required(model: nn.Module) -> int:
    return sum(p.default is p.empty for p in _positional(model))


def _most(model: nn.Module) -> float:
    """The largest number of positional arguments of the model's forward."""
    several = any(p.kind is p.VAR_POSITIONAL for p in _parameters(model))
    return float("inf") if several else len(_positional(model))


def _known(model: nn.Module, batch: Mapping[Any, Any]) -> dict[str, Any]:
    """The entries that are arguments of the model; empty if a required one is missing."""
    parameters = _parameters(model)
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return dict(batch)
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if any(p.default is p.empty and p.name not in batch for p in named):
        return {}
    return {p.name: batch[p.name] for p in named if p.name in batch}


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
