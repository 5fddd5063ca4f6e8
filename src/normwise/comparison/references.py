"""`package.module:function` as an object."""

from __future__ import annotations

import importlib
from typing import Any

from ..errors import InputError


def name_of(item: Any) -> str:
    """The name of a model or a data source in messages and rows: of a string itself, of an instance its class.

    >>> name_of("digits"), name_of(len), name_of(object())
    ('digits', 'len', 'object')
    """
    if isinstance(item, str):
        return item
    return getattr(item, "__qualname__", type(item).__name__)


def load_object(reference: str) -> Any:
    """The object that `package.module:name` names; raises InputError where the module or the name is missing."""
    module_name, _, path = reference.partition(":")
    if not module_name or module_name.startswith("."):
        raise InputError(f"{reference!r} names no module; write package.module:name.")
    if not path:
        raise InputError(f"{reference!r} names no function or class of a module; write package.module:name.")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise
        raise InputError(
            f"{reference!r}: there is no module {error.name!r} to import; run in the directory that holds it, or "
            "install it."
        ) from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise InputError(f"{reference!r}: the module {module_name!r} has no {path!r}.")
        found = getattr(found, part)
    return found
