"""`package.module:function` as an object."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import InputError, first_line


def name_of(item: Any) -> str:
    """The name of a model or a data source in messages and rows: of a string itself, of an instance its class.

    >>> name_of("digits"), name_of(len), name_of(object())
    ('digits', 'len', 'object')
    """
    if isinstance(item, str):
        return item
    return getattr(item, "__qualname__", type(item).__name__)


def load_object(reference: str) -> Any:
    """The object that `package.module:name` names; raises InputError where there is none, or its module fails."""
    module_name, _, path = reference.partition(":")
    if not module_name or module_name.startswith("."):
        raise InputError(f"{reference!r} names no module; write package.module:name.")
    if not path:
        raise InputError(f"{reference!r} names no function or class of a module; write package.module:name.")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise _failed(f"{reference!r}: the module {module_name!r} cannot be imported", error) from error
        raise InputError(
            f"{reference!r}: there is no module {error.name!r} to import; run in the directory that holds it, or "
            "install it."
        ) from error
    except Exception as error:  # the user's code may raise anything
        raise _failed(f"{reference!r}: the module {module_name!r} cannot be imported", error) from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise InputError(f"{reference!r}: the module {module_name!r} has no {path!r}.")
        found = getattr(found, part)
    return found


def result_of(reference: str, function: Callable[[], Any]) -> Any:
    """What the user's function returns; an error inside it becomes an InputError that says where it was raised."""
    try:
        return function()
    except InputError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise _failed(f"{reference!r} fails", error) from error


def _failed(what: str, error: Exception) -> InputError:
    """The error in one sentence, with the last line it came from that belongs to no installed library."""
    if isinstance(error, SyntaxError):  # says its place itself
        return InputError(f"{what}: {first_line(error)}")
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith("<") and "site-packages" not in frame.filename]
    where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return InputError(f"{what}: {first_line(error).removesuffix('.')}{where}.")
