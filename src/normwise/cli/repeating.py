"""The command line that repeats a sweep."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from ..comparison.data.sources import is_folder
from ..comparison.settings import is_own


def command_of(settings: dict[str, Any], out: Path) -> str:
    """The command line that repeats a sweep, with all settings that may differ from later defaults."""
    own = is_own(settings)
    trained = ("model", "data", "weights", "task", "metric", "target", "batches_by", "weight_decay")
    trained += ("optimizer", "schedule", "augment", "precision")
    names = ("norms", "batch_sizes", "epochs", "learning_rate", "lrs", "device")
    names = (*names, *(() if own else (*trained, "tokenizer")))
    values = {name: _text(settings.get(name)) for name in names}
    values["learning_rate"] = None if values["lrs"] else values["learning_rate"]
    values["workers"] = None if settings.get("workers") is None or own else str(settings["workers"])
    if not own and is_folder(settings["data"]):
        values["image_size"] = settings.get("image_size")
    if own:
        values |= {"train": settings["model"], "metric": f"{settings['metric']}:{settings['direction']}"}
    values |= {"seeds": len(settings["seeds"]), "out": out}
    options = [
        word
        for name, value in values.items()
        if value or value == "0"
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    flags = [
        flag for flag, field in (("--standardize", "standardize"), ("--until-clear", "looks")) if settings.get(field)
    ]
    return shlex.join(["normwise", "compare", *options, *flags])


def _text(value: Any) -> Any:
    """A list in the form of the command line, "2,8,64"; everything else unchanged."""
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value
