"""Groups of image files by a pattern in their paths."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from ..groups import Grouping
from ..settings import InputError

EXAMPLES = r"'(.*)/' for directories inside of the classes, or 'patient(\d+)' for a part of the names"


def grouping_of(paths: Sequence[str], key: str) -> Grouping:
    """The first group of the pattern `key` in each path, or all that it matches where it has no group.

    Raises InputError for an invalid pattern, and for a path that does not match.

    >>> grouping_of(["site-a/1.png", "site-a/2.png", "site-b/1.png"], "(.*)/").named.tolist()
    ['site-a', 'site-a', 'site-b']
    """
    try:
        pattern = re.compile(key)
    except re.error as error:
        raise InputError(f"batches_by={key!r} is no pattern for paths ({error}); write {EXAMPLES}.") from error
    part = 1 if pattern.groups else 0
    named = [match[part] if (match := pattern.search(path)) else None for path in paths]
    missed = [path for path, name in zip(paths, named, strict=True) if name is None]
    if missed:
        raise InputError(
            f"batches_by={key!r} is not found in {len(missed)} of the {len(paths)} paths inside of the classes' "
            f"directories, such as {missed[0]!r}; write {EXAMPLES}."
        )
    return Grouping(key, np.array(named, dtype=np.str_))
