"""The user's code on which the result of a run depends."""

from __future__ import annotations

import inspect
import pickle
import sys
from functools import partial
from pathlib import Path
from typing import Any

from ..references import name_of


def code_of(thing: Any) -> list[str]:
    """What a result depends on of a normalizer or a function: its name, all that is written in its file, and, of an
    object or a partial function, what it holds."""
    if isinstance(thing, str):
        return [thing]
    function = thing.func if isinstance(thing, partial) else inspect.unwrap(thing)
    plain = inspect.isroutine(thing) or inspect.isclass(thing)
    home = function if inspect.isroutine(function) or inspect.isclass(function) else type(function)
    module = sys.modules.get(home.__module__ or "")
    file = getattr(module, "__file__", None)
    text = Path(file).read_text(encoding="utf-8", errors="replace") if file and Path(file).is_file() else ""
    if not text:
        code = getattr(function, "__code__", None)
        text = repr((code.co_code, code.co_consts, code.co_names)) if code else repr(function)
    return [name_of(thing), text, *([] if plain else [_held_by(thing)])]


def _held_by(thing: Any) -> str:
    try:
        return pickle.dumps(thing).hex()
    except Exception:  # pickle raises PicklingError, AttributeError or TypeError
        return repr(thing)
