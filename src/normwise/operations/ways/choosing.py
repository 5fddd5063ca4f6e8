"""The choice of a way, made once for each kind of call and kept.

A way is a function ``bind(request, context)``: it returns the way bound to a kind of call, or the reason why it does
not serve that kind.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from normwise.backends import chosen, cpu, is_anything_compiling, tuning_of
from normwise.core.bound import says_what_it_computes
from normwise.core.kinds import kinds_of
from normwise.core.lasting import lasting
from normwise.core.moments import Moments

from ..context import Context, context_of, is_ordinary
from ..request import NO_POOL, Request, layout_of, operation_of
from . import by_graph, by_kernels, by_torch, compiled, lean, per_sample, plain


class Way(Protocol):
    """A way bound to a kind of call."""

    name: str
    #: Whether `remember` can update the running statistics.
    remembers: bool

    def run(self, request: Request) -> tuple[Tensor, Any]:
        """``y``, and the data that `statistics` needs."""
        ...

    def statistics(self, request: Request, kept: Any) -> Moments:
        """The statistics in the formula's result, otherwise the table; without a gradient."""
        ...


def by_torch_where_faster(request: Request, context: Context) -> Any:
    """torch's operator, bound, where kernels could serve too but were measured to be slower."""
    x = request.x
    if context.plain or context.forced is not None or request.mask is not None:
        return "speed is not measured for masks, chosen backends and plain operations"
    if context.pool is None and request.view.over == "planes":
        return NO_POOL
    if not (cpu.serves(x) if x.is_cpu else x.is_cuda):
        return "no kernels serve x"
    way = by_torch.bind_alone(request, context) if x.is_cpu else by_torch.bind(request, context)
    if isinstance(way, str):
        return way
    tuning = tuning_of(x)
    operation, layout = operation_of(request, context.pool), layout_of(x)
    verdict = None if tuning is None else tuning.verdict(operation, layout, context.graph, x.numel())
    if verdict is None:
        return f"no speed was measured for {operation} of {x.dtype}, {layout}"
    if verdict.kernels:
        return verdict.said
    way.because = verdict.said
    return way


#: In this order: the first that serves a request is chosen.
WAYS: tuple[Callable[[Request, Context], Any], ...] = (
    compiled.bind,
    by_torch_where_faster,
    by_kernels.bind,
    by_torch.bind,
    by_graph.bind,
    plain.bind,
)


def choose(request: Request, context: Context, reasons: list[str]) -> Way:
    """The first way that serves the request; the reasons of those before it are added to ``reasons``."""
    if request.lean and context.graph and not context.plain:
        return lean.bind(request, context)
    for bind in WAYS:
        way = bind(request, context)
        if not isinstance(way, str):
            return way
        module = bind.__module__.rpartition(".")[2]
        reasons.append(f"{bind.__name__ if module == 'choosing' else f'{module}.{bind.__name__}'}: {way}")
    raise AssertionError("plain operations take everything")


# Looked up once: the module is large, and every call needs them.
_grad_enabled, _threads = torch.is_grad_enabled, torch.get_num_threads


def state_of_torch() -> Hashable:
    """The settings that a way depends on: gradients, the chosen backend, the number of threads."""
    return _grad_enabled(), chosen(), _threads()


#: For each kind of call, keyed by its hashable part: the kinds of its tensors, and the way.
_kept: dict[Hashable, list[tuple[Any, Way]]] = {}
#: The check of the kinds of its tensors, for each way that is kept.
_seen_by: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
#: At most so many are kept: a detection net has new sizes as long as it trains.
_MOST_KINDS = 2048
#: Placeholders for absent tensors, all different, since a kind excludes calls that pass one tensor twice.
ABSENT = tuple(torch.empty(0, device="cpu") for _ in range(16))


def seen_by(way: Way) -> Any:
    """The check of the tensors' kinds of a kept way, ``check(x, residual, mask, ...)``; None for another way."""
    return _seen_by.get(way)


def way_for(request: Request, check: Callable[[Request], None]) -> Way:
    """The way of a request; the request is checked if it is the first of its kind.

    The kind is everything but the values: the formula, the class, device, dtype, sizes and strides of each tensor,
    whether it requires a gradient, and torch's settings for it. A call under an unusual mode, or with an unmarked
    formula of the user's, has no kind: its way is chosen anew each time.
    """
    if not says_what_it_computes(request.formula) or _explanations is not None or not is_ordinary():
        return _checked(request, check)
    x, formula, parameters, activation, residual, mask, known, memory, measured, flowing, view = request[:11]
    asker, beside, lean_one = request[11:]
    given = (x, residual, mask, *parameters, *beside)
    momentum = None
    if known is not None:
        given += known[:2]
    if memory is not None:
        given += memory[:3]
        momentum = memory.momentum
    tensors = [absent if t is None else t for t, absent in zip(given, ABSENT, strict=False)]
    try:
        shape = x.shape
        key = (
            *(formula, asker, shape, activation, state_of_torch(), measured, flowing, momentum, view, len(given)),
            lean_one,
        )
        kinds = _kept.get(key)
    except (AttributeError, TypeError):  # x is not a tensor; the check raises the error
        return _checked(request, check)
    if kinds is not None:
        for seen, way in kinds:
            if seen.check(*tensors):
                return way
    may_stay = not is_anything_compiling()  # before the choice, and again after it
    way = _checked(request, check)
    seen = kinds_of(*tensors)
    if may_stay and not is_anything_compiling() and seen.check(*tensors):  # false where one tensor is passed twice
        if len(_kept) >= _MOST_KINDS:
            _kept.clear()
        _seen_by[way] = seen
        _kept.setdefault(key, []).append((seen, way))
    return way


def _checked(request: Request, check: Callable[[Request], None]) -> Way:
    """Check the request, choose its way, and note the reasons for `explain_way`."""
    reasons: list[str] = []
    if per_sample.are_expanded(request):
        way: Way = per_sample.bind(request)
    else:
        check(request)
        context = context_of(request)
        with lasting():
            way = choose(request, context, reasons)
    if _explanations is not None:
        _explanations.append(Explanation(way.name, tuple(reasons), getattr(way, "because", "")))
    return way


class Explanation(NamedTuple):
    """The way of a call, the reasons against the ways before it, and the measurement that speaks for it, if any."""

    way: str
    reasons: tuple[str, ...]
    because: str = ""

    def __str__(self) -> str:
        way = f"{self.way}, by {self.because}" if self.because else self.way
        return "\n  ".join((way, *(f"not {reason}" for reason in self.reasons)))


_explanations: list[Explanation] | None = None


def explain_way(layer: Callable[..., Any], *inputs: Any, **options: Any) -> list[Explanation]:
    """Which way each normalization in ``layer(*inputs, **options)`` goes, in the order of the calls, and why.

    A copy of the layer, or model, runs once; the original does not change. Ways are one kernel each way, torch's
    operator, the formula between two passes, and plain operations. The choice depends on `use_backend`, masks, dtypes,
    devices, transforms and the compiler, and between kernels and torch's operators on the times that `normwise tune`
    shows.

    Raises TypeError for an object that is not a layer, model or function; errors of the call are passed on.

    >>> import normwise as nw
    >>> x, mask = torch.randn(2, 8, 4, 4), torch.ones(2, 4, 4, dtype=torch.bool)
    >>> print(nw.explain_way(nw.GroupNorm(2, 8), x, mask=mask)[0])
    the formula between two passes
      not compiled.bind: nothing is being compiled
      not by_torch_where_faster: speed is not measured for masks, chosen backends and plain operations
      not by_kernels.bind: there is a mask
      not by_torch.bind: there is a mask
    """
    global _explanations
    if not callable(layer):
        raise TypeError(f"explain_way takes a layer, a model or a function, received {type(layer).__name__}.")
    before, _explanations = _explanations, []
    try:
        copy.deepcopy(layer)(*inputs, **options)
        return _explanations
    finally:
        _explanations = before
