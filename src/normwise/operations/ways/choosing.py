"""The choice of a way, made once for each kind of call and kept.

A way is a function ``bind(request, context)``: it gives the way bound to a kind of call, or why it does not serve.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from normwise.backends import chosen, cpu, is_anything_compiling, tuning_of
from normwise.core.bound import Bound
from normwise.core.kinds import kinds_of
from normwise.core.lasting import lasting
from normwise.core.moments import Moments

from ..context import Context, context_of, is_ordinary
from ..request import NO_POOL, PLANES, Request, layout_of, operation_of
from . import by_graph, by_kernels, by_torch, compiled, lean, per_sample, plain


class Way(Protocol):
    """A way bound to a kind of call."""

    name: str
    #: Whether `remember` may be asked to take in what was measured.
    remembers: bool

    def run(self, request: Request) -> tuple[Tensor, Any]:
        """``y``, and what `statistics` needs."""
        ...

    def statistics(self, request: Request, kept: Any) -> Moments:
        """What the formula states, otherwise the table; without a gradient."""
        ...


def by_torch_where_faster(request: Request, context: Context) -> Any:
    """torch's operator, bound, where kernels would serve too and were measured to be the slower ones."""
    x = request.x
    if context.plain or context.forced is not None or request.mask is not None:
        return "of masks, chosen backends and plain operations no speed is measured"
    if context.pool is None and request.view is PLANES:
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


#: In this order: the first that takes a request is its way.
WAYS: tuple[Callable[[Request, Context], Any], ...] = (
    compiled.bind,
    by_torch_where_faster,
    by_kernels.bind,
    by_torch.bind,
    by_graph.bind,
    plain.bind,
)


def choose(request: Request, context: Context, reasons: list[str]) -> Way:
    """The first way that takes the request; why the others before it did not is added to ``reasons``."""
    if request.lean and context.graph and not context.plain:
        return lean.bind(request, context)
    for bind in WAYS:
        way = bind(request, context)
        if not isinstance(way, str):
            return way
        module = bind.__module__.rpartition(".")[2]
        reasons.append(f"{bind.__name__ if module == 'choosing' else f'{module}.{bind.__name__}'}: {way}")
    raise AssertionError("plain operations take everything")


# Every call asks these, of a large module: looked up once.
_grad_enabled, _threads = torch.is_grad_enabled, torch.get_num_threads


def state_of_torch() -> Hashable:
    """What torch is set to do with a call, and which backend was chosen."""
    return _grad_enabled(), chosen(), _threads()


#: For each kind of call, by what can be hashed: the tensors' kinds, and the way.
_kept: dict[Hashable, list[tuple[Any, Way]]] = {}
#: What tells the tensors of a way that is kept.
_seen_by: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
#: More are not kept: a detection net brings new sizes for as long as it trains.
_MOST_KINDS = 2048
#: Stand for tensors that are not there, each for another one: of a kind are only calls that share no tensors.
ABSENT = tuple(torch.empty(0, device="cpu") for _ in range(16))


def seen_by(way: Way) -> Any:
    """What tells the tensors of a kept way, its ``check(x, residual, mask, ...)``; None of another."""
    return _seen_by.get(way)


def way_for(request: Request, check: Callable[[Request], None]) -> Way:
    """The way of a request, which is checked if it is the first of its kind.

    The kind is everything but the values: the formula, the type, device, dtype, sizes and strides of each tensor,
    whether it requires a gradient, and what torch is set to do with it. What is unusual is looked at anew each time.
    """
    if type(request.formula) is not Bound or _explanations is not None or not is_ordinary():
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
    except (AttributeError, TypeError):  # x is no tensor; the check says so
        return _checked(request, check)
    if kinds is not None:
        for seen, way in kinds:
            if seen.check(*tensors):
                return way
    may_stay = not is_anything_compiling()  # before the choice, and still after it
    way = _checked(request, check)
    seen = kinds_of(*tensors)
    if may_stay and not is_anything_compiling() and seen.check(*tensors):  # not where one tensor comes twice
        if len(_kept) >= _MOST_KINDS:
            _kept.clear()
        _seen_by[way] = seen
        _kept.setdefault(key, []).append((seen, way))
    return way


def _checked(request: Request, check: Callable[[Request], None]) -> Way:
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
    """Which way a call goes, why not one of those that were asked before, and what was measured that speaks for it."""

    way: str
    reasons: tuple[str, ...]
    because: str = ""

    def __str__(self) -> str:
        way = f"{self.way}, by {self.because}" if self.because else self.way
        return "\n  ".join((way, *(f"not {reason}" for reason in self.reasons)))


_explanations: list[Explanation] | None = None


def explain_way(layer: Callable[..., Any], *inputs: Any, **options: Any) -> list[Explanation]:
    """Which way each normalization in ``layer(*inputs, **options)`` goes, in their order, and why.

    The layer, or model, runs once, as a copy: nothing of it changes. Ways are one kernel each way, torch's operator,
    the formula between two passes, and plain operations; `use_backend`, masks, dtypes, devices, transforms and the
    compiler decide among them, and between kernels and torch's operators the times that `normwise tune` shows.

    Raises TypeError for what is no layer, model or function, and what the call raises.

    >>> import normwise as nw
    >>> x, mask = torch.randn(2, 8, 4, 4), torch.ones(2, 4, 4, dtype=torch.bool)
    >>> print(nw.explain_way(nw.GroupNorm(2, 8), x, mask=mask)[0])
    the formula between two passes
      not compiled.bind: nothing is being compiled
      not by_torch_where_faster: of masks, chosen backends and plain operations no speed is measured
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
