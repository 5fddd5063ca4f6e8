"""Lists in options, their parts separated by commas."""

from __future__ import annotations

from ..errors import InputError


def words(text: str) -> tuple[str, ...]:
    """The parts; none of an empty text."""
    return tuple(text.split(",")) if text else ()


def integers(option: str, text: str, example: str, separator: str = ",") -> tuple[int, ...]:
    """The parts as numbers. Raises `InputError` with an ``example`` for others."""
    try:
        return tuple(int(part) for part in text.split(separator))
    except ValueError as error:
        raise InputError(f"{option} {text}: write integers such as {example}.") from error
