"""What a mutation is: one behaviour broken by an edit, and the nearest tests, which must notice."""

from __future__ import annotations

from typing import NamedTuple


class Mutation(NamedTuple):
    """``old`` stands once in ``file``, a path below src/normwise; ``tests`` are pytest's arguments."""

    behaviour: str
    file: str
    old: str
    new: str
    tests: str
