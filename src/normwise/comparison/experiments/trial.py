"""Find the contestants that can run: each is tried for one training step before the sweep."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

from ...layers import Norm
from ..contestants.bank import BANK, why_no_bank
from ..contestants.models import REFERENCE, Recipe, first_line
from ..contestants.normalizer_free import NORMALIZER_FREE
from ..contestants.strategy_names import row_of, trains_by_the_batch
from ..data.training_data import TrainingData
from ..settings import InputError, Run, Settings
from ..verdicts.cells import listed, spoken


class Entrants(NamedTuple):
    """The contestants that can run, the (norm, batch size) at which one of them cannot, and the reasons in words."""

    norms: dict[str, Norm]
    missing: frozenset[tuple[str, int]]
    left_out: list[str]


def runnable(
    settings: Settings, norms: Mapping[str, Norm], recipe: Recipe, data: TrainingData, step: Callable[[Run], object]
) -> Entrants:
    """Try each contestant with `step`, one training step of a run, from the smallest batch size on.

    Raises InputError where none can run.
    """
    entrants, missing, left_out = {}, set(), []
    for name, norm in norms.items():
        why = _unfit(name, recipe, data)
        failing: dict[int, str] = {} if why is None else dict.fromkeys(settings.batch_sizes, why)
        for size in settings.batch_sizes if why is None else ():
            why = _why_it_fails(Run(name, size, settings.seeds[0]), recipe, data.name, step)
            if why is None:
                break  # a contestant that runs at this batch size runs at larger ones
            failing[size] = why
        if len(failing) < len(settings.batch_sizes):
            entrants[name] = norm
            missing |= {(name, size) for size in failing}
        if failing:
            left_out.append(_note(name, failing, settings.batch_sizes))
    if not entrants:
        others = f" So are the other {len(left_out) - 1}." if len(left_out) > 2 else ""
        shown = " ".join(left_out if len(left_out) < 3 else left_out[:1])
        raise InputError(f"{shown}{others} Name other normalizers, such as batch and group, or choose another model.")
    return Entrants(entrants, frozenset(missing), left_out)


def _unfit(name: str, recipe: Recipe, data: TrainingData) -> str | None:
    """Why a normalizer cannot be used in the nets of a recipe with these data; None if it can."""
    if name == BANK:
        return why_no_bank(data.groups) or recipe.why_no_place(REFERENCE)
    return why_unfit(name) or recipe.why_no_place(name)


def why_unfit(name: str) -> str | None:
    """Why a normalizer cannot be used in any net of a comparison; None if it can."""
    if name == BANK:
        return why_no_bank(None)
    if name == "sync" and not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return "it synchronizes several processes, and in a single one it is the same as BatchNorm"
    row = row_of(name)
    if row is not None and row.condition:
        return f"it takes {row.condition} in addition to x, and the data of a comparison have none"
    return None


def _why_it_fails(run: Run, recipe: Recipe, data_name: str, step: Callable[[Run], object]) -> str | None:
    if run.batch_size == 1 and trains_by_the_batch(run.norm):
        return "a single sample has no batch to normalize over"
    try:
        step(run)
    except InputError:
        raise
    except torch.OutOfMemoryError:
        return f"a training step at batch size {run.batch_size} does not fit into memory"
    except Exception as error:  # the model's own code and any layer may raise anything
        return f"{recipe.name} with {run.norm!r} fails on {data_name}: {first_line(error).rstrip('.')}"
    return None


def _note(name: str, failing: Mapping[int, str], sizes: Sequence[int]) -> str:
    where = "" if len(failing) == len(sizes) else f" at batch size {listed([str(size) for size in failing])}"
    title = spoken(name)
    called = name if title == name or name == NORMALIZER_FREE else f"{title} ({name!r})"
    return f"{called} is left out{where}: {next(iter(failing.values()))}."
