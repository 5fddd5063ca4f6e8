"""Calls for Hypothesis. The first of every choice is the simplest: finds shrink towards it."""

from __future__ import annotations

from functools import cache

import hypothesis.strategies as st

from normwise import ACTIVATIONS
from tests import any_tensor

from .call import DTYPES, Call, Fault
from .faults import BEFORE, BETWEEN
from .subjects import SUBJECTS, Subject

#: Whole vectors, what is around them, and primes.
SIZES = st.sampled_from([2, 3, 1, 4, 5, 0, 7, 8, 9, 15, 16, 17, 31, 33, 65, 127])
MOST_VALUES = 6000
#: Calls of one process, which costs more than any of them.
LONGEST = 12
#: Enough for several tasks of each kind, once in a while.
LARGE = {2: [(2, 5000), (5000, 3)], 3: [(1, 2, 70001), (700, 6, 11)], 4: [(8, 4, 32, 32), (2, 64, 20, 20)]}
FAULTS = [Fault("x", change) for change in BEFORE]


@cache
def _names(subject: str) -> tuple[str, ...]:
    """The tensors of a subject; an input with two channels has all of them."""
    known = SUBJECTS[subject]
    dims = known.least if known.rank is None else known.rank + 2
    return tuple(known.make((2, 4, 3, 3, 3)[:dims]).tensors)


@st.composite
def shapes(draw, subject: Subject) -> tuple[int, ...]:
    fitting = [subject.rank + 2] if subject.rank is not None else [2, 3, 4, 5] if subject.channel == 1 else [1, 2, 3]
    dims = draw(st.sampled_from(fitting if draw(st.integers(0, 15)) else [2, 3, 4, 5, 1, 0]))
    if dims in LARGE and not draw(st.integers(0, 39)) < 39:
        return draw(st.sampled_from(LARGE[dims]))
    sizes: list[int] = []
    room = MOST_VALUES
    for _ in range(dims):
        sizes.append(min(draw(SIZES), max(room, 1)))
        room //= max(sizes[-1], 1)
    return tuple(sizes)


@st.composite
def faults(draw, subject: Subject, residual: bool, mask: bool) -> Fault:
    targets = [*_names(subject.name), "x", *["residual"] * residual, *["mask"] * mask]
    between = draw(st.booleans())
    change = draw(st.sampled_from(list(BETWEEN if between else BEFORE)))
    return Fault(draw(st.sampled_from(targets)), change, between)


@st.composite
def calls(draw, only: tuple[str, ...] = ()) -> Call:
    """Any call of the subjects, or of ``only`` some of them: every second with a fault."""
    subject = SUBJECTS[draw(st.sampled_from(only or tuple(SUBJECTS)))]
    shape = draw(shapes(subject))
    layouts = st.sampled_from(list(any_tensor.LAYOUTS))
    residual = draw(st.none() | layouts) if "residual" in subject.takes else None
    mask = draw(st.sampled_from([None, None, 0.8, 0.3, 1.0, 0.0])) if "mask" in subject.takes else None
    activation = draw(st.none() | st.sampled_from(list(ACTIVATIONS))) if "activation" in subject.takes else None
    dtype = draw(st.sampled_from(list(DTYPES)))
    return Call(
        subject.name,
        shape,
        dtype,
        kept=draw(st.sampled_from([dtype, "fp32", *DTYPES])),
        layout=draw(layouts),
        cotangent=draw(layouts),
        residual=residual,
        mask=mask,
        activation=activation,
        distance=draw(st.sampled_from(any_tensor.DISTANCES)),
        training=draw(st.sampled_from([True, False])),
        graph=draw(st.sampled_from([True, False])),
        meta=draw(st.integers(0, 19)) == 19,
        warm=draw(st.booleans()),
        threads=draw(st.sampled_from([1, 2])),
        seed=draw(st.integers(0, 2**16)),
        fault=draw(faults(subject, residual is not None, mask is not None)) if draw(st.booleans()) else None,
    )


def histories(only: tuple[str, ...] = ()) -> st.SearchStrategy[list[Call]]:
    """Calls in one process: none may depend on what came before."""
    return st.lists(calls(only), min_size=1, max_size=LONGEST)
