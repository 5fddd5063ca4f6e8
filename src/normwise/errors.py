"""The error of the tools that people call by hand, and errors of others in one line."""

from __future__ import annotations

from collections.abc import Sequence


class InputError(ValueError):
    """What the caller asked for cannot be done; the message says what to write instead."""


def first_line(error: BaseException) -> str:
    """The type and the first line of an error's message.

    >>> first_line(ValueError("no such file\\nat all"))
    'ValueError: no such file.'
    """
    line = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {line.rstrip('.')}."


def listed(names: Sequence[str]) -> str:
    """Three of the names, and how many more there are.

    >>> listed(list("abcde"))
    'a, b, c and 2 more'
    """
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
