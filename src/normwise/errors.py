"""The error of the commands and tools, and one-line forms of other errors."""

from __future__ import annotations

from collections.abc import Sequence


class InputError(ValueError):
    """A request that cannot be fulfilled; the message says what to write instead."""


def first_line(error: BaseException) -> str:
    """The type and the first line of an error's message.

    >>> first_line(ValueError("no such file\\nat all"))
    'ValueError: no such file.'
    """
    line = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {line.rstrip('.')}."


def listed(names: Sequence[str]) -> str:
    """The first three names, and the number of the others.

    >>> listed(list("abcde"))
    'a, b, c and 2 more'
    """
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
