"""The work of `normwise tune`: it checks, measures and stores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from normwise.backends import available_backends, build
from normwise.backends.tunings import Tuning, stored
from normwise.bench.entry import check_device
from normwise.errors import InputError

from .measuring import DTYPES, Listener, measure

#: The element types that are measured on a GPU by default; for the CPU see `stored.CONTESTED`.
ON_GPU = ("fp32", "bf16", "fp16")


class Wanted(NamedTuple):
    """One tuning to be measured, and its file."""

    device: str
    element: str
    threads: int
    path: Path


def wanted(device: str, elements: Sequence[str], threads: Sequence[int]) -> list[Wanted]:
    """The tunings to measure; an empty argument means all values. Raises `InputError` for impossible ones."""
    check_device(device)
    gpu = device != "cpu"
    device = f"cuda:{torch.device(device).index or 0}" if gpu else device
    reason = available_backends()["triton" if gpu else "cpu"]
    if reason is not None:
        raise InputError(f"There are no kernels to measure on {device}: {reason}")
    if gpu and threads:
        raise InputError(f"threads={','.join(map(str, threads))}: a GPU has none to choose; leave it out.")
    if any(count < 1 for count in threads):
        raise InputError(f"threads={','.join(map(str, threads))}: each must be at least 1.")
    known = tuple(DTYPES) if gpu else stored.CONTESTED
    for element in elements:
        if element not in known:
            why = "" if gpu else "; of narrower types torch's operators round the statistics, and kernels always serve"
            raise InputError(f"dtypes={element!r}: write some of {', '.join(known)}{why}.")
    counts = (0,) if gpu else tuple(dict.fromkeys(threads or (1, torch.get_num_threads())))
    found = []
    for element in dict.fromkeys(elements or (ON_GPU if gpu else stored.CONTESTED)):
        for count in counts:
            path = stored.path_of(device, element, count)
            if path is None or not stored.can_write(path.parent):
                folder = "the cache" if path is None else path.parent
                raise InputError(f"{folder} cannot be written; set NORMWISE_CACHE to a folder that can.")
            found.append(Wanted(device, element, count, path))
    return found


def tune(what: Sequence[Wanted], listen: Listener | None = None) -> Iterator[Tuning]:
    """Measure and store each, for processes that start afterwards."""
    for device, element, threads, path in what:
        with build.alone(path.with_suffix(".lock")):
            tuning = measure(device, element, threads, listen)
            stored.write(tuning, path)
        yield tuning
