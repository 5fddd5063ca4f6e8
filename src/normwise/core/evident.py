"""Formulas of the user's whose code shows that they are pure: they run on the kernels without a mark."""

from __future__ import annotations

import dis
import sys
from collections.abc import Hashable
from functools import partial
from types import CodeType, FunctionType
from typing import Any

import torch

from .bound import bound, says_what_it_computes
from .bound import formula as marked
from .formulas import Affine, Formula
from .moments import Moments
from .responses import Gated, LargerScale, Thresholded

#: Methods and attributes of statistics and tensors, and functions of torch, that compute and do nothing else.
_NAMES = {
    *Moments._fields,
    *("over_batch", "over_channels", "over_groups", "over_chunks", "unbiased_var"),
    *("sqrt", "rsqrt", "reciprocal", "exp", "abs", "neg", "sign", "square", "pow", "clamp", "clamp_min", "where"),
    *("add", "sub", "mul", "div", "sum", "mean", "amax", "unsqueeze"),
    *(result.__name__ for result in (Affine, Thresholded, Gated, LargerScale)),
}
_RESULTS = (Affine, Thresholded, Gated, LargerScale)
#: Instructions of CPython 3.11 to 3.14 that neither write outside of the function nor branch on a value. Where a later
#: version has others, formulas only run unrecorded.
_INSTRUCTIONS = {
    *("RESUME", "NOP", "CACHE", "PRECALL", "PUSH_NULL", "POP_TOP", "COPY", "SWAP", "NOT_TAKEN"),
    *("RETURN_VALUE", "RETURN_CONST"),
    *("LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_FAST_LOAD_FAST", "LOAD_FAST_BORROW", "LOAD_FAST_BORROW_LOAD_FAST_BORROW"),
    *("STORE_FAST", "STORE_FAST_STORE_FAST", "STORE_FAST_LOAD_FAST", "LOAD_CONST", "LOAD_SMALL_INT", "LOAD_GLOBAL"),
    *("LOAD_ATTR", "LOAD_METHOD", "CALL", "CALL_KW", "KW_NAMES", "BINARY_OP", "UNARY_NEGATIVE", "COMPARE_OP"),
    *("BUILD_TUPLE", "UNPACK_SEQUENCE", "IS_OP"),
    *("POP_JUMP_IF_NONE", "POP_JUMP_IF_NOT_NONE", "POP_JUMP_FORWARD_IF_NONE", "POP_JUMP_FORWARD_IF_NOT_NONE"),
}
_CONSTANTS = (bool, int, float, str, type(None))
#: The marked copy of a formula by its code, its module's names and its defaults; None for one that is not evident.
_copies: dict[Hashable, FunctionType | None] = {}
_MOST_COPIES = 4096


def with_evident_mark(function: Formula) -> Formula:
    """A marked copy of a formula that computes with its arguments and numbers alone; any other formula itself.

    It is judged by its instructions: no variable of a surrounding function, no name of its module but ``torch``,
    ``normwise`` and the results of formulas, no branch but on None, and only methods that compute. Functions of the
    same code, such as a lambda that every call makes anew, have one copy.

    >>> shift = torch.ones(3)
    >>> def variance(moments, weight, eps=1e-5):
    ...     return Affine(moments.mean, weight * (moments.var + eps).rsqrt(), 0.0)
    >>> with_evident_mark(variance) is variance
    False
    >>> hidden = lambda moments: Affine(moments.mean, 1.0, shift)
    >>> with_evident_mark(hidden) is hidden
    True
    """
    if torch.compiler.is_compiling() or says_what_it_computes(function):
        return function
    if type(function) is partial:
        constants = function.keywords
        copy = function.func if function.args else with_evident_mark(function.func)
        if copy is function.func or not all(isinstance(value, _CONSTANTS) for value in constants.values()):
            return function
        return bound(copy, **constants)
    if type(function) is not FunctionType:
        return function
    defaults, options = function.__defaults__ or (), function.__kwdefaults__ or {}
    values = (*defaults, *options.values())
    key = (function.__code__, id(function.__globals__), values, tuple(map(type, values)), tuple(options))
    try:
        copy = _copies[key]
    except KeyError:
        if len(_copies) >= _MOST_COPIES:
            _copies.clear()
        copy = _copies[key] = _copy_of(function) if _is_evident(function, values) else None
    except TypeError:  # a default that has no hash, such as a list
        return function
    return copy or function


def is_copy(function: Formula) -> bool:
    """Whether the mark is not the user's but `with_evident_mark`'s."""
    return any(function is copy for copy in _copies.values())


def _copy_of(function: FunctionType) -> FunctionType:
    copy = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__)
    copy.__kwdefaults__, copy.__module__ = function.__kwdefaults__, function.__module__
    return marked(copy)


def _is_evident(function: FunctionType, defaults: tuple[Any, ...]) -> bool:
    if not all(isinstance(value, _CONSTANTS) for value in defaults):
        return False
    if any(isinstance(names, tuple) and "out" in names for names in function.__code__.co_consts):
        return False  # a keyword of a call, whose result would be written into an argument
    # In torch.package there is no such module, and names without a value would be taken for it.
    known = [one for one in (torch, sys.modules.get("normwise"), *_RESULTS) if one is not None]
    for step in dis.get_instructions(function):
        if step.opname not in _INSTRUCTIONS:
            return False
        if step.opname == "BINARY_OP" and step.argrepr.endswith("="):  # a tensor would be changed in place
            return False
        if step.opname == "LOAD_GLOBAL" and not any(function.__globals__.get(step.argval) is one for one in known):
            return False
        if step.opname in ("LOAD_ATTR", "LOAD_METHOD") and step.argval not in _NAMES:
            return False
        if step.opname == "LOAD_CONST" and isinstance(step.argval, CodeType):
            return False
    return True
