"""The tasks that our own loop trains, by name."""

from __future__ import annotations

from ...errors import InputError
from .classification import Classification
from .labelling import Labelling
from .language import Language
from .regression import Regression
from .segmentation import Segmentation
from .target_statistics import IGNORED as IGNORED
from .target_statistics import TargetStatistics as TargetStatistics
from .target_statistics import statistics_of as statistics_of
from .task import Task as Task
from .task import tensor_of as tensor_of

TASKS: dict[str, type[Task]] = {
    task.name: task for task in (Classification, Regression, Segmentation, Labelling, Language)
}


def find_task(name: str) -> type[Task]:
    """The task of this name; InputError where there is none."""
    if not isinstance(name, str) or name not in TASKS:
        raise InputError(f"task={name!r} is unknown; write {', '.join(TASKS)}, or compare any other with train=.")
    return TASKS[name]
