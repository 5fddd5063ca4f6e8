"""What `compare` was asked, and the experiment that it is."""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from ..backends import build_kernels
from ..layers import Norm
from .classification import Classification
from .experiment import Experiment
from .image_size import choose_image_size
from .isolation import isolated
from .metric import own_metric
from .own_training import OwnTraining, TrainingFunction, open_training
from .references import name_of
from .sequential import looks_of
from .settings import InputError, Settings, make_settings, named_norms
from .sources import load_data
from .zoo import ModelLike, open_model

DataLike = str | os.PathLike[str] | Callable[[], Any]

EXAMPLES = 2
SMALL_MAP = 256
IMAGE_SIZE = 32
LEARNING_RATE = 0.6
WEIGHT_DECAY = 5e-4
#: What a user's training function brings with it.
_NOT_WITH_TRAIN = (
    *("model", "data", "target", "standardize", "batches_by", "lrs", "weight_decay", "image_size", "weights"),
)
USUAL = ("batch", "group", "instance", "layer", "none", "nf")
# The peak for fine-tuning: what was trained before is not to be lost in the first steps.
FINE_TUNING_RATE = 0.05


@dataclass(frozen=True)
class Request:
    """The arguments of `compare` that say what is compared."""

    model: ModelLike = "resnet8"
    data: DataLike = "digits"
    train: str | TrainingFunction | None = None
    metric: str | None = None
    direction: str | None = None
    target: str | None = None
    standardize: bool = False
    batches_by: str | None = None
    norms: Sequence[Norm] | None = None
    batch_sizes: Sequence[int] = (2, 8, 64)
    seeds: int | Sequence[int] = 3
    epochs: int = 6
    learning_rate: float | None = None
    lrs: Sequence[float] | None = None
    weight_decay: float = WEIGHT_DECAY
    image_size: int | None = None
    device: str | torch.device | None = None
    until_clear: bool = False
    weights: str | os.PathLike[str] | None = None

    @property
    def contestants(self) -> Sequence[Norm]:
        """The normalizers that were asked for, or the usual ones; `nf` needs a whole model."""
        usual = USUAL if self.train is None else USUAL[:-1]
        return usual if self.norms is None else self.norms

    def check_picklable(self, option: str) -> None:
        """Raises InputError where another process could not be told what to do."""
        for name, value in ((field.name, getattr(self, field.name)) for field in fields(self)):
            for part in value if isinstance(value, (list, tuple)) else (value,):
                try:
                    pickle.dumps(part)
                except Exception as error:  # pickle raises PicklingError, AttributeError or TypeError
                    raise InputError(
                        f"{option}= starts other processes, which must be able to import {name}={name_of(part)!r}: "
                        f"define it at the top of a module, not in a function nor as a lambda, or leave {option} out."
                    ) from error


def open_experiment(request: Request) -> Experiment:
    """What the request asks for, ready to run; InputError for everything that cannot work."""
    experiment = _classification(request) if request.train is None else _own_training(request, request.train)
    if experiment.settings.device == "cpu":
        build_kernels(torch.float32)  # or the first runs would be computed otherwise than the last
    return experiment


def _classification(request: Request) -> Classification:
    if request.metric is not None or request.direction is not None:
        raise InputError(
            "metric and direction go with train=, whose function returns the metric; our own loop trains classifiers "
            "and is judged by their accuracy."
        )
    named = named_norms(request.contestants)
    model, weights = request.model, None if request.weights is None else os.fspath(request.weights)
    data = os.fspath(request.data) if isinstance(request.data, os.PathLike) else request.data
    settings = _settings(request, name_of(model), name_of(data), list(named))
    settings = replace(settings, target=request.target, standardize=request.standardize, weights=weights)
    if request.image_size is None and isinstance(data, str) and Path(data).is_dir():
        settings = replace(settings, image_size=choose_image_size(model, Path(data)))
    with isolated(0, "cpu"):
        loaded = load_data(data, settings.image_size, request.target, request.standardize, request.batches_by)
    recipe = open_model(model, loaded.x_train[:EXAMPLES], len(loaded.classes), weights)
    settings = replace(settings, threads=threads_for(loaded.sample_shape))
    return Classification(settings, named, loaded, recipe)


def _own_training(request: Request, train: str | TrainingFunction) -> OwnTraining:
    plain = Request()
    given = [name for name in _NOT_WITH_TRAIN if getattr(request, name) != getattr(plain, name)]
    if given:
        raise InputError(f"{', '.join(given)}: train= brings model, data and training with it; leave it out.")
    metric = own_metric(request.metric, request.direction)
    named = named_norms(request.contestants)
    settings = _settings(request, name_of(train), "", list(named))
    settings = replace(settings, metric=metric.name, direction=metric.direction)
    settings = replace(settings, learning_rate=request.learning_rate or 0.0)
    return OwnTraining(settings, named, open_training(train), metric)


def _settings(request: Request, model: str, data: str, norms: list[str]) -> Settings:
    usual_rate = LEARNING_RATE if request.weights is None else FINE_TUNING_RATE
    settings = make_settings(
        model=model,
        data=data,
        norms=norms,
        batch_sizes=request.batch_sizes,
        seeds=request.seeds,
        epochs=request.epochs,
        learning_rate=usual_rate if request.learning_rate is None else request.learning_rate,
        lrs=request.lrs,
        batches_by=request.batches_by,
        weight_decay=request.weight_decay,
        image_size=IMAGE_SIZE if request.image_size is None else request.image_size,
        device=request.device,
    )
    return replace(settings, looks=looks_of(len(settings.seeds)) if request.until_clear else 0)


def threads_for(sample_shape: tuple[int, ...]) -> int:
    """One thread for samples of at most 256 positions, where several cost more than they bring; else torch's.

    >>> threads_for((1, 8, 8)), threads_for((64,))
    (1, 1)
    """
    return 1 if math.prod(sample_shape[1:]) <= SMALL_MAP else torch.get_num_threads()
