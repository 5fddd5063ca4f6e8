"""The error of the tools that people call by hand."""

from __future__ import annotations


class InputError(ValueError):
    """What the caller asked for cannot be done; the message says what to write instead."""
