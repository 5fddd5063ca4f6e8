"""The request to `compare`, checked and turned into an experiment."""

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
from .contestants.normalizer_free import NORMALIZER_FREE
from .contestants.zoo import ModelLike, open_model
from .data.image_size import choose_image_size
from .data.sources import is_folder, load_data
from .data.text import Tokenizer
from .data.training_data import TrainingData
from .experiments.experiment import Experiment
from .experiments.own_training import OwnTraining, TrainingFunction, open_training
from .experiments.task_training import TaskTraining
from .isolation import isolated
from .metric import own_metric
from .references import name_of
from .settings import CLASSIFICATION, COSINE, InputError, Settings, make_settings, named_norms
from .tasks import Task, find_task
from .tasks.classification import Classification
from .tasks.regression import Regression
from .training.choices import Augment, Choices, OptimizerLike, ScheduleLike, make_choices
from .verdicts.sequential import looks_of

DataLike = str | os.PathLike[str] | Callable[[], Any] | tuple[Any, Any]

SMALL_MAP = 256
IMAGE_SIZE, MASK_SIZE = 32, 64
#: Peak learning rates of our optimizers at batch size 32 and above.
LEARNING_RATES = {"sgd": 0.6, "adamw": 0.003}
WEIGHT_DECAY = 5e-4
OWN_EPOCHS = 6
#: Without `nf`, which needs a whole model.
OWN_NORMS = tuple(norm for norm in Classification.norms if norm != NORMALIZER_FREE)
#: Arguments that a user's training function replaces.
_NOT_WITH_TRAIN = (
    *("model", "data", "task", "target", "standardize", "batches_by", "weight_decay", "image_size", "optimizer"),
    *("schedule", "augment", "precision", "workers", "tokenizer", "weights"),
)
#: With trained weights: small, so that the first steps do not destroy what was learned.
FINE_TUNING_RATES = {"sgd": 0.05, "adamw": 0.00025}


@dataclass(frozen=True)
class Request:
    """The arguments of `compare` that define the comparison; None stands for the default of the task."""

    model: ModelLike | None = None
    data: DataLike | None = None
    task: str | None = None
    train: str | TrainingFunction | None = None
    metric: str | None = None
    direction: str | None = None
    target: str | None = None
    standardize: bool = False
    batches_by: str | None = None
    norms: Sequence[Norm] | None = None
    batch_sizes: Sequence[int] = (2, 8, 64)
    seeds: int | Sequence[int] = 3
    epochs: int | None = None
    learning_rate: float | None = None
    lrs: Sequence[float] | None = None
    weight_decay: float = WEIGHT_DECAY
    optimizer: OptimizerLike | None = None
    schedule: ScheduleLike | None = None
    augment: str | Augment | None = None
    precision: str = "fp32"
    workers: int | None = None
    tokenizer: Tokenizer | None = None
    image_size: int | None = None
    device: str | torch.device | None = None
    until_clear: bool = False
    weights: str | os.PathLike[str] | None = None

    def check_picklable(self, option: str) -> None:
        """Raises InputError if the request cannot be sent to another process."""
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
    """The experiment of a request, ready to run; InputError for every request that cannot work."""
    experiment = _task_training(request) if request.train is None else _own_training(request, request.train)
    if experiment.settings.device == "cpu":
        build_kernels(torch.float32)  # otherwise the first runs would be computed without them and the last with them
    return experiment


def _task_training(request: Request) -> TaskTraining:
    task = find_task(request.task or CLASSIFICATION)
    source = task.data if request.data is None else request.data
    source = os.fspath(source) if isinstance(source, os.PathLike) else source
    # Reports errors before any data are read; the metric is checked later, because it may depend on the data.
    _settled(request if request.task else replace(request, metric=None, direction=None), task)
    size = _image_size(request, source, task)
    with isolated(0, "cpu"):
        loaded = load_data(
            *(source, size, request.target, request.standardize, request.batches_by),
            *(request.task, request.workers, request.tokenizer),
        )
    task = loaded.task_class
    model = _default_model(loaded) if request.model is None else request.model
    settings, named, choices = _settled(request, task)
    settings = replace(settings, model=name_of(model), data=loaded.name, image_size=size)
    settings = replace(settings, threads=threads_for(loaded.sample_shape))
    recipe = open_model(model, loaded.example, len(loaded.classes), settings.weights, task, loaded.in_channels)
    return TaskTraining(settings, named, loaded, recipe, choices)


def _settled(request: Request, task: type[Task]) -> tuple[Settings, dict[str, Norm], Choices]:
    """Settings, normalizers and choices of a request, with the defaults of the task; without model and data."""
    optimizer = task.optimizer if request.optimizer is None else request.optimizer
    named = named_norms(task.norms if request.norms is None else request.norms)
    rates = LEARNING_RATES if request.weights is None else FINE_TUNING_RATES
    rate = rates.get(optimizer) if isinstance(optimizer, str) else None
    settings = _settings(request, "", "", list(named), task.epochs, rate or 1.0)
    choices = make_choices(optimizer, request.schedule, request.augment, request.precision, settings.device)
    if rate is None and request.learning_rate is None and not request.lrs:
        raise InputError(f"optimizer={name_of(optimizer)!r} needs a learning rate: give learning_rate or lrs.")
    judged = task.metric(request.metric, request.direction)
    own_functions = any(map(callable, (choices.optimizer, choices.schedule, choices.augment)))
    settings = replace(
        settings,
        target=request.target,
        standardize=request.standardize,
        task=task.name,
        metric=judged.name,
        direction=judged.direction,
        optimizer=name_of(optimizer),
        schedule=COSINE if request.schedule is None else name_of(request.schedule),
        augment=request.augment and name_of(request.augment),
        precision=request.precision,
        workers=request.workers,
        tokenizer=request.tokenizer and name_of(request.tokenizer),
        weights=None if request.weights is None else os.fspath(request.weights),
        choices=choices.fingerprint() if own_functions else "",
    )
    return settings, named, choices


def _default_model(data: TrainingData) -> str:
    """The default model of the task; for tables, which have no maps, the one for features."""
    return Regression.model if len(data.sample_shape) == 1 and not data.task_class.takes_ids else data.task_class.model


def _image_size(request: Request, source: Any, task: type[Task]) -> int:
    """The size to which images are resized; InputError if a size is given without a folder of images."""
    folder = is_folder(source)
    if request.image_size is not None:
        if not folder:
            raise InputError(
                f"image_size={request.image_size!r} goes with a folder of images, and {name_of(source)!r} is none; "
                "leave it out."
            )
        return request.image_size
    if folder and task.name == CLASSIFICATION:
        return choose_image_size(task.model if request.model is None else request.model, Path(source))
    return MASK_SIZE if folder else IMAGE_SIZE


def _own_training(request: Request, train: str | TrainingFunction) -> OwnTraining:
    plain = Request()
    given = [name for name in _NOT_WITH_TRAIN if getattr(request, name) != getattr(plain, name)]
    if given:
        raise InputError(
            f"{', '.join(given)}: with train= the function has its own model, data and training; leave it out."
        )
    metric = own_metric(request.metric, request.direction)
    named = named_norms(OWN_NORMS if request.norms is None else request.norms)
    settings = _settings(request, name_of(train), "", list(named), OWN_EPOCHS, 1.0)
    settings = replace(settings, task="", metric=metric.name, direction=metric.direction)
    settings = replace(settings, learning_rate=request.learning_rate or 0.0)
    return OwnTraining(settings, named, open_training(train), metric)


def _settings(request: Request, model: str, data: str, norms: list[str], epochs: int, rate: float) -> Settings:
    settings = make_settings(
        model=model,
        data=data,
        norms=norms,
        batch_sizes=request.batch_sizes,
        seeds=request.seeds,
        epochs=epochs if request.epochs is None else request.epochs,
        learning_rate=rate if request.learning_rate is None else request.learning_rate,
        lrs=request.lrs,
        batches_by=request.batches_by,
        weight_decay=request.weight_decay,
        image_size=IMAGE_SIZE if request.image_size is None else request.image_size,
        device=request.device,
    )
    return replace(settings, looks=looks_of(len(settings.seeds)) if request.until_clear else 0)


def threads_for(sample_shape: tuple[int, ...]) -> int:
    """One thread for samples of at most 256 positions, for which several threads are slower; else torch's number.

    >>> threads_for((1, 8, 8)), threads_for((64,))
    (1, 1)
    """
    return 1 if math.prod(sample_shape[1:]) <= SMALL_MAP else torch.get_num_threads()
