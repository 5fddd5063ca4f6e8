"""The batches of a loader, and how a model is called on them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from ..core.numbers import check_whole
from ..signal.batches import Forward, copied
from ..signal.inputs import device_of


class Batches:
    """The batches of a loader, checked once; each can be passed through a model several times.

    Without ``forward`` a tensor is the model's input. Of a tuple or a list (input and target, for example) the model
    gets the first items, as many as its `forward` requires; of a dict, the entries that are parameters of its
    `forward`. The model gets copies on its own device.
    """

    def __init__(self, loader: Any, forward: Forward | None, steps: int | None, caller: str) -> None:
        if isinstance(loader, (Tensor, Mapping, str)) or not isinstance(loader, Iterable):
            raise TypeError(
                f"{caller}: loader must be an iterable of batches, received {type(loader).__name__}; write [batch] for "
                "a single one."
            )
        if steps is not None:
            check_whole(caller, "steps", steps, 1)
        if forward is not None and not callable(forward):
            raise TypeError(
                f"{caller}: forward must be callable as forward(model, batch), received {type(forward).__name__}."
            )
        self._loader, self._forward, self._steps, self._caller = loader, forward, steps, caller

    def once_only(self) -> bool:
        """Whether the loader is an iterator, which can be read only once."""
        return isinstance(self._loader, Iterator)  # asking with iter() would start a DataLoader's workers

    def has_an_end(self) -> bool:
        """Whether the number of batches is known: an iterable without a length may be endless."""
        return self._steps is not None or hasattr(self._loader, "__len__")

    def through(self, model: nn.Module) -> Iterator[int]:
        """Run the model on one batch after the other; yields the number of batches so far."""
        for number, run in enumerate(self.runs(), 1):
            run(model)
            yield number

    def runs(self) -> Iterator[Callable[[nn.Module], Any]]:
        """For each batch a function that runs a model on it."""
        empty = True
        for number, batch in enumerate(islice(self._loader, self._steps), 1):
            empty = False
            yield partial(self._run, batch=batch, number=number)
        if empty:
            raise ValueError(f"{self._caller}: the loader has no batches.")

    def _run(self, model: nn.Module, batch: Any, number: int) -> Any:
        batch = copied(batch, device_of(model), torch.clone)
        if self._forward is not None:
            return self._forward(model, batch)
        arguments, named = _arguments(model, batch)
        try:
            inspect.signature(model.forward).bind(*arguments, **named)
        except TypeError as error:
            raise TypeError(
                f"{self._caller}: batch {number} is {_described(batch)}, which {type(model).__name__}.forward does not "
                f"take ({error}); say how with forward=lambda model, batch: model(...)."
            ) from error
        return model(*arguments, **named)


def _arguments(model: nn.Module, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    parameters = inspect.signature(model.forward).parameters.values()
    if isinstance(batch, Mapping):
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
        known = {name: item for name, item in batch.items() if open_ended or name in {p.name for p in parameters}}
        return ((), known) if known else ((batch,), {})
    if isinstance(batch, (tuple, list)) and not hasattr(batch, "_fields"):
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        required = sum(p.kind in positional and p.default is p.empty for p in parameters)
        return tuple(batch[: max(1, required)]), {}
    return (batch,), {}


def _described(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return f"a dict of {', '.join(map(repr, batch))}"
    if isinstance(batch, (tuple, list)):
        return f"a {type(batch).__name__} of {len(batch)}"
    return f"a {type(batch).__name__}"
