"""The layer, formula or function to explain, as one function from fp64 to fp64; errors say what cannot be explained."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..core.formulas import Affine
from ..core.moments import Moments
from ..core.responses import Gated, LargerScale, Thresholded
from ..layers import Normalizer
from ..layers.registry import parse_norm
from ..operations.normalize import normalize
from .in_double import AWAY, in_double, undisturbed
from .samples import CHANNELS, SAMPLES, conditions

#: The most values of x: each is changed, and the derivatives of all outputs by all inputs are compared.
MOST = 2048


#: The default numbers of rows with a number; they are visible in `CHANNELS` channels and `SAMPLES` samples.
_NUMBERS = {"group": 3, "evo-s0": 3, "ghost": 2}


class Subject(NamedTuple):
    """``what`` is a module, a formula, or a function of x; ``name`` is its name in sentences.

    ``row`` is the row of `NORMALIZERS` that the user named: a GroupNorm of one group also belongs to `layer`'s row.
    """

    what: Any
    name: str
    is_formula: bool = False
    row: Normalizer | None = None

    @property
    def layer(self) -> nn.Module | None:
        return self.what if isinstance(self.what, nn.Module) else None


def of_row(row: Normalizer, number: int | None, channels: int, rank: int) -> Subject:
    """A fresh layer of a row, with the name that `parse_norm` reads."""
    name = row.name if number is None else f"{row.name}:{number}"
    return Subject(row.make(channels, rank, number), name, row=row)


def channels_for(row: Normalizer, number: int | None) -> int:
    """Enough channels to show the effect of the number: `CHANNELS`, or two in each group if they do not divide."""
    if number is None or row.name == "ghost" or CHANNELS % number == 0:
        return CHANNELS
    return 2 * number


def subject_of(given: Any) -> Subject:
    """The subject for a layer, a name of `NORMALIZERS`, a formula, or a function of x."""
    given = getattr(given, "_orig_mod", given)  # the module that torch.compile wraps
    if isinstance(given, str):
        row, number = parse_norm(given)
        number = number or _NUMBERS.get(row.name)
        return of_row(row, number, channels_for(row, number), 2)
    if isinstance(given, nn.Module):
        return Subject(given, type(given).__name__)
    if inspect.isclass(given):
        raise TypeError(
            f"explain takes a layer, and {given.__name__} is a class; write nw.explain({given.__name__}(...))."
        )
    if not callable(given):
        raise TypeError(
            f"explain takes a layer, the name of a normalizer or a formula, received {type(given).__name__}."
        )
    inner = getattr(given, "func", given)
    name = getattr(inner, "__name__", type(given).__name__)
    return Subject(given, name, _is_formula(given))


def _is_formula(function: Callable[..., Any]) -> bool:
    """Whether a function makes coefficients from a table of moments."""
    table = Moments.of(torch.linspace(-1, 2, SAMPLES * CHANNELS * 4, dtype=torch.float64).view(SAMPLES, CHANNELS, 4))
    try:
        made = function(table, *parameters_for(function, CHANNELS, torch.device("cpu")))
    except Exception:  # a function of x may raise any error for a table
        return False
    return isinstance(made, (Affine, Gated, LargerScale, Thresholded))


def parameters_for(formula: Callable[..., Any], channels: int, device: torch.device) -> tuple[Tensor, ...]:
    """One number for each channel, all equal, for every parameter of a formula that has no default."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    wanted = list(inspect.signature(formula).parameters.values())[1:]
    needed = [p for p in wanted if p.kind in positional and p.default is inspect.Parameter.empty]
    return tuple(torch.full((channels,), 0.8, dtype=torch.float64, device=device) for _ in needed)


def check_x(x: Any, name: str) -> None:
    """Require a dense floating tensor with values, of a size that can be measured."""
    if not isinstance(x, Tensor):
        raise TypeError(f"explain: x must be a tensor, received {type(x).__name__}.")
    if not x.is_floating_point() or x.layout is not torch.strided:
        received = x.dtype if x.layout is torch.strided else x.layout
        raise TypeError(f"explain: x must be a dense floating tensor, received {received}; write x.float().")
    if x.is_meta:
        raise ValueError("explain: x is on the device 'meta' and has no values; give one on the CPU.")
    if x.numel() == 0:
        raise ValueError(f"explain: x {list(x.shape)} has no values; give a small batch, such as one of 4 samples.")
    if x.numel() > MOST:
        raise ValueError(
            f"explain moves every value of x by itself, and x {list(x.shape)} has {x.numel():,} for {name}; give at "
            f"most {MOST:,}, such as torch.randn({', '.join(map(str, smaller(tuple(x.shape))))})."
        )


def smaller(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape with fewer samples and positions, if that makes it small enough."""
    sizes = list(shape)
    for axis in (0, *range(len(shape) - 1, 1, -1)):
        sizes[axis] = min(sizes[axis], 2)
    return tuple(sizes)


@contextmanager
def prepared(
    subject: Subject, device: torch.device, more: tuple[Any, ...], keywords: dict[str, Any], away: float = AWAY
) -> Iterator[Any]:
    """``make(shape) -> function(x, sign)`` for the subject, which is restored afterwards; see `in_double`."""
    more = tuple(_in_double(each) for each in more)
    keywords = {name: _in_double(value) for name, value in keywords.items() if value is not None}
    layer = subject.layer if subject.layer is not None else _inner(subject.what)
    with in_double(layer, away, device) if layer is not None else undisturbed(device) as renew:

        def make(shape: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
            beside = more
            if not beside and subject.layer is not None:
                beside = conditions(subject.layer, shape, device)
            elif not beside and subject.is_formula and len(shape) > 1:
                beside = parameters_for(subject.what, shape[1], device)

            def function(x: Tensor, sign: float = 1.0) -> Any:
                if renew is not None:
                    renew(sign)
                if subject.is_formula:
                    return normalize(x, subject.what, *beside, **keywords)
                y = subject.what(x, *beside, **keywords)
                return y[0] if isinstance(y, (tuple, list)) and y else y

            return function

        yield make


def _inner(function: Any) -> nn.Module | None:
    """The modules that a function calls, as far as its closure, bound arguments and globals show them."""
    found: list[Any] = [getattr(function, "__self__", None)]
    found += [*getattr(function, "args", ()), *(getattr(function, "keywords", None) or {}).values()]
    code = inspect.unwrap(getattr(function, "func", function))
    if inspect.isfunction(code):
        known = inspect.getclosurevars(code)
        found += [*known.nonlocals.values(), *known.globals.values()]
    modules = [each for each in found if isinstance(each, nn.Module)]
    return nn.ModuleList(modules) if modules else None


def _in_double(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_in_double, value))
    return value.detach().double() if isinstance(value, Tensor) and value.is_floating_point() else value
