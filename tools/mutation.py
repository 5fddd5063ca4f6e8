"""A mutation: an edit that breaks one behaviour, and the nearest tests, which must notice."""

from __future__ import annotations

from typing import NamedTuple


class Mutation(NamedTuple):
    """A mutation. ``old`` occurs once in ``file``, a path below src/normwise; ``tests`` are pytest's arguments."""

    behaviour: str
    file: str
    old: str
    new: str
    tests: str
