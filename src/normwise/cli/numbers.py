"""Lists of numbers in options: separated by commas, or by x as the sizes of a tensor."""

from __future__ import annotations

import math

from ..errors import InputError


def words(text: str) -> tuple[str, ...]:
    """The parts of a text; an empty text has none."""
    return tuple(text.split(",")) if text else ()


def integers(option: str, text: str, example: str, separator: str = ",") -> tuple[int, ...]:
    """The parts as numbers. Raises `InputError` with an ``example`` for others."""
    try:
        return tuple(int(part) for part in text.split(separator))
    except ValueError as error:
        raise InputError(f"{option} {text}: write integers such as {example}.") from error


def shape_of(text: str | None) -> tuple[int, ...] | None:
    """The sizes of ``--input``, such as ``8x3x224x224``; `InputError` for an invalid text."""
    if text is None:
        return None
    sizes = text.lower().replace("×", "x").replace(",", "x").split("x")
    if not all(size.strip().isdigit() and int(size) > 0 for size in sizes):
        raise InputError(f"--input {text}: write the sizes of a batch, such as 8x3x224x224.")
    shape = tuple(int(size) for size in sizes)
    if math.prod(shape) >= 2**63:
        raise InputError(f"--input {text}: that is more values than any tensor has; write sizes such as 8x3x224x224.")
    return shape
