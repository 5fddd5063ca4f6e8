"""The user's code on which the result of a run depends."""

from __future__ import annotations

import inspect
import pickle
import sys
from functools import partial
from pathlib import Path
from typing import Any

from ..references import name_of


def code_of(item: Any) -> list[str]:
    """The parts of a normalizer or function on which a result depends: its name, the text of its file, and the
    attributes of an object or the arguments of a partial function."""
    if isinstance(item, str):
        return [item]
    function = item.func if isinstance(item, partial) else inspect.unwrap(item)
    plain = inspect.isroutine(item) or inspect.isclass(item)
    home = function if inspect.isroutine(function) or inspect.isclass(function) else type(function)
    module = sys.modules.get(home.__module__ or "")
    file = getattr(module, "__file__", None)
    text = Path(file).read_text(encoding="utf-8", errors="replace") if file and Path(file).is_file() else ""
    if not text:
        code = getattr(function, "__code__", None)
        text = repr((code.co_code, code.co_consts, code.co_names)) if code else repr(function)
    return [name_of(item), text, *([] if plain else [_held_by(item)])]


def _held_by(item: Any) -> str:
    try:
        return pickle.dumps(item).hex()
    except Exception:  # pickle raises PicklingError, AttributeError or TypeError
        return repr(item)
