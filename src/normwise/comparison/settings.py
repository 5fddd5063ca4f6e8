"""The settings of a comparison, checked before anything runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch

from ..errors import InputError as InputError
from ..layers import Norm
from .contestants import bank
from .contestants.normalizer_free import NORMALIZER_FREE, UNIT_CLIP
from .contestants.strategy_names import check_name
from .metric import Metric
from .tasks import TASKS

MOMENTUM = 0.9
WARM_UP = 0.1
CLIP_NORM = 1.0
FULL_RATE_BATCH = 32
OPTIMIZERS = ("sgd", "adamw")
COSINE = "cosine"
CLASSIFICATION = "classification"


class Run(NamedTuple):
    """One training run of the sweep."""

    norm: str
    batch_size: int
    seed: int


@dataclass(frozen=True)
class Settings:
    """Everything that the runs of a sweep have in common. `norms` are names; `image_size` is for image folders.

    For a user's training function, `model` is its name, `data` and `task` are empty, `metric` and `direction` define
    the metric, and a `learning_rate` of 0 means none. `looks` is the number of interim verdicts that may stop runs, 0
    if nothing is stopped. `optimizer`, `schedule` and `augment` are names, and `choices` is a hash of the user's
    functions among them; without `workers` samples are held in memory. `weights` is the source of the initial weights.
    """

    model: str
    data: str
    norms: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    seeds: tuple[int, ...]
    epochs: int
    learning_rate: float
    weight_decay: float
    image_size: int
    device: str
    threads: int
    lrs: tuple[float, ...] = ()
    target: str | None = None
    standardize: bool = False
    batches_by: str | None = None
    metric: str | None = None
    direction: str | None = None
    looks: int = 0
    task: str = CLASSIFICATION
    optimizer: str = OPTIMIZERS[0]
    schedule: str = COSINE
    augment: str | None = None
    precision: str = "fp32"
    workers: int | None = None
    tokenizer: str | None = None
    choices: str = ""
    weights: str | None = None

    @property
    def judged(self) -> Metric:
        """The metric by which runs of our own loop are judged."""
        return TASKS[self.task].metric(self.metric, self.direction)

    @property
    def own_rate(self) -> float | None:
        """The learning rate for a user's training function."""
        return self.learning_rate or None

    def rate(self, batch_size: int) -> float:
        """Peak learning rate at a batch size: up to 32 proportional to it (AdamW: to its square root), constant above.
        The rate of a user's optimizer is not scaled."""
        share = min(1.0, batch_size / FULL_RATE_BATCH)
        if self.optimizer not in OPTIMIZERS:
            return self.learning_rate
        return self.learning_rate * (share if self.optimizer == OPTIMIZERS[0] else math.sqrt(share))

    def identity(self) -> dict[str, Any]:
        """The settings that determine the result of a run, besides the model, the data and the run itself."""
        names = ("epochs", "learning_rate", "weight_decay", "device")
        protocol = {"momentum": MOMENTUM, "warm_up": WARM_UP, "clip": CLIP_NORM, "full_rate_batch": FULL_RATE_BATCH}
        protocol |= {"unit_clip": UNIT_CLIP}
        # The order of a sum depends on the number of threads.
        threads = {"threads": self.threads} if self.device == "cpu" else {}
        # Options at their defaults are left out, so that results from before these options existed keep their keys.
        plain = {field.name: field.default for field in fields(self)}
        chosen = ("task", "optimizer", "schedule", "augment", "precision", "workers", "choices")
        others = {name: value for name in chosen if (value := getattr(self, name)) != plain[name]}
        judged = {"metric": self.metric} if self.task != CLASSIFICATION else {}
        return {name: getattr(self, name) for name in names} | protocol | threads | others | judged


def schedule(step: int, total: int) -> float:
    """Share of the peak learning rate: linear warm-up over the first tenth, then a cosine to zero."""
    at = (step + 0.5) / total
    return at / WARM_UP if at < WARM_UP else 0.5 * (1 + math.cos(math.pi * (at - WARM_UP) / (1 - WARM_UP)))


def is_own(settings: Mapping[str, Any]) -> bool:
    """Whether a user's function trained, from the settings of a folder, which may lack the newer field `task`."""
    return not settings.get("task", "" if settings.get("metric") else CLASSIFICATION)


def named_norms(norms: Sequence[Norm]) -> dict[str, Norm]:
    """Names and normalizers in the order given; unknown and repeated names raise InputError."""
    if isinstance(norms, str) or not isinstance(norms, Sequence) or not norms:
        raise InputError(f"norms must be a list such as ['batch', 'group'], received {norms!r}.")
    named: dict[str, Norm] = {}
    for norm in norms:
        name = _norm_name(norm)
        if name in named:
            raise InputError(f"norms: {name!r} is given twice; give each normalizer once.")
        named[name] = norm
    return named


def _norm_name(norm: Norm) -> str:
    if not isinstance(norm, str):
        name = getattr(norm, "__name__", "")
        if not callable(norm) or name in ("", "<lambda>"):
            raise InputError(
                f"norms: {norm!r} is neither a name nor a class nor a named function; write "
                "`def my_norm(channels): ...` and pass my_norm."
            )
        return name
    if norm in (NORMALIZER_FREE, bank.BANK):
        return norm
    check_name(norm)
    return norm


def make_settings(
    *,
    model: str,
    data: str,
    norms: Sequence[str],
    batch_sizes: Sequence[int],
    seeds: int | Sequence[int],
    epochs: int,
    learning_rate: float,
    weight_decay: float,
    image_size: int,
    device: str | torch.device | None,
    lrs: Sequence[float] | None = None,
    batches_by: str | None = None,
) -> Settings:
    """Check the plain values and put defaults in; raises InputError."""
    sizes = tuple(sorted(_integers("batch_sizes", batch_sizes, least=1)))
    return Settings(
        model=model,
        data=data,
        norms=tuple(norms),
        batch_sizes=sizes,
        seeds=_seeds(seeds),
        epochs=_integers("epochs", [epochs], least=1)[0],
        learning_rate=_number("learning_rate", learning_rate, lambda v: v > 0, "positive"),
        weight_decay=_number("weight_decay", weight_decay, lambda v: v >= 0, "0 or positive"),
        image_size=_integers("image_size", [image_size], least=1)[0],
        device=_device(device),
        threads=torch.get_num_threads(),
        lrs=_rates(lrs),
        batches_by=_key(batches_by),
    )


def _integers(name: str, values: Sequence[int], least: int) -> tuple[int, ...]:
    if isinstance(values, (str, int)) or not values:
        raise InputError(f"{name} must be a list of integers such as [2, 8, 64], received {values!r}.")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{name}: {value!r} is not an integer of at least {least}.")
    if len(set(values)) < len(values):
        raise InputError(f"{name}: give each value once, received {list(values)}.")
    return tuple(values)


def _seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    if isinstance(seeds, int):
        return tuple(range(_integers("seeds", [seeds], least=1)[0]))
    return _integers("seeds", seeds, least=0)


def _number(name: str, value: float, fits: Callable[[float], bool], words: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not fits(value) or value == float("inf"):
        raise InputError(f"{name} must be a {words} number, received {value!r}.")
    return float(value)


def _key(batches_by: str | None) -> str | None:
    if batches_by is not None and (not isinstance(batches_by, str) or not batches_by):
        raise InputError(
            f"batches_by={batches_by!r}: must say where the groups of the samples are; write, for example, the name of "
            "a column."
        )
    return batches_by


def _rates(lrs: Sequence[float] | None) -> tuple[float, ...]:
    if lrs is None:
        return ()
    if isinstance(lrs, (str, int, float)) or len(lrs) < 2 or len(set(lrs)) < len(lrs):
        raise InputError(f"lrs must be a list of different learning rates such as [0.1, 0.3, 0.6], received {lrs!r}.")
    return tuple(_number("lrs", rate, lambda v: v > 0, "positive") for rate in lrs)


def _device(device: str | torch.device | None) -> str:
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device={str(device)!r} is not available here; write 'cpu' or leave it out.") from error
    return str(chosen)
