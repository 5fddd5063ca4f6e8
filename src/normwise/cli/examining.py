"""The findings of `normwise doctor MODEL`, about a model or a checkpoint alone."""

from __future__ import annotations

from pathlib import Path

from ..checkpoint_files import READABLE, is_whole_model, read_state
from ..comparison import InputError
from ..signal.diagnosis.findings import Findings
from ..surgery import doctor
from ..surgery.examination.checkpoint import findings_in_state
from .given_model import given_model
from .samples import DataOptions, training_samples


def examined(
    name: str,
    checkpoint: Path | None,
    data: str | None,
    batch_size: int | None,
    world_size: int | None,
    target: str | None,
) -> Findings:
    """The findings; InputError for a name or a file that cannot be examined."""
    path = Path(name)
    if path.suffix in READABLE and path.is_file() and checkpoint is None and not is_whole_model(path):
        given = {"--data": data, "--target": target, "--batch-size": batch_size, "--world-size": world_size}
        option = next((option for option, value in given.items() if value is not None), None)
        if option is not None:
            raise InputError(
                f"{option} needs the model; write its name in front of {name}, as in torchvision:resnet18."
            )
        return findings_in_state(read_state(path), path.name)
    net = given_model(name, checkpoint)
    batches = None if data is None else training_samples(net, data, DataOptions(batch_size)).batches
    return doctor(net, batches, batch_size, 1 if world_size is None else world_size, target)
