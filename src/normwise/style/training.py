"""The training of style nets on the user's own photographs and paintings."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from ..errors import InputError
from ..nets.style import AdaptiveStyleNet
from ..signal.protection import random_numbers_kept
from .decoder_start import start_decoder
from .features import Features, channels_last
from .objectives import Losses, objective_for
from .photographs import Crops
from .plan import Plan
from .progress import Painted, Resume
from .schedule import begins_a_part, optimizer_for, share_of_rate
from .style_file import Style, build, save_style

SECONDS_BETWEEN_SAVES = 60.0
#: The number of crops on which a decoder is fitted before its training.
FITTED = 12


class Step(NamedTuple):
    """The event after each step: losses relative to their targets, and the path of the preview if it is new."""

    done: int
    total: int
    content: float
    style: float
    preview: Path | None = None


Listener = Callable[[Step], None]


def run_training(plan: Plan, features: Features, out: Path, on_step: Listener) -> Style:
    """Train by a plan, continuing an earlier run of the same plan if there is one.

    Every minute, at the end and on KeyboardInterrupt the style so far is written to ``out``, with a preview next to it;
    the state for continuing is in a third file, which is removed at the end.
    """
    resume = Resume(out, plan, features)
    with random_numbers_kept(set(), plan.seed):
        net = channels_last(build(plan.kind, plan.net(features)))
        photos = Crops(plan.photos, plan.size, plan.seed)
        if isinstance(net, AdaptiveStyleNet):
            net.encoder.load_state_dict(_encoder_state(net, features))
        optimizer = optimizer_for(net, plan.learning_rate)
        start = resume.load(net, optimizer)
        if start == 0 and isinstance(net, AdaptiveStyleNet):
            start_decoder(net, photos(0, FITTED))
        objective = objective_for(plan, features)
        painted = Painted(plan, net, photos, out)
        style = Style(net, plan.kind, plan.names, plan.net(features), plan.record(features))
        done, saved = start, time.monotonic()
        try:
            for step in range(start, plan.steps):
                if begins_a_part(step, plan.steps):
                    optimizer = optimizer_for(net, plan.learning_rate)
                losses = _train_step(net.train(), optimizer, objective, photos, plan, step)
                done, preview = step + 1, None
                if time.monotonic() - saved > SECONDS_BETWEEN_SAVES or done == plan.steps:
                    preview = _keep(style, out, resume, optimizer, done, painted)
                    saved = time.monotonic()
                on_step(Step(done, plan.steps, losses.content, losses.style, preview))
        except KeyboardInterrupt:
            if done > start:
                _keep(style, out, resume, optimizer, done, painted)
            raise
        resume.remove()
        return style._replace(net=net.eval())


def _train_step(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    objective: Callable[..., Losses],
    photos: Crops,
    plan: Plan,
    step: int,
) -> Losses:
    for group in optimizer.param_groups:
        group["lr"] = plan.learning_rate * group["times"] * share_of_rate(step, plan.steps)
    losses = objective(net, photos(step, plan.batch_size), step)
    if not math.isfinite(losses.total.item()):
        raise InputError(
            f"The training diverged in step {step + 1}; write a --learning-rate below {plan.learning_rate:g}. The "
            "style file holds the last saved state."
        )
    optimizer.zero_grad()
    losses.total.backward()
    optimizer.step()
    return losses


def _keep(
    style: Style, out: Path, resume: Resume, optimizer: torch.optim.Optimizer, done: int, painted: Painted
) -> Path:
    style.trained["steps"] = done
    resume.save(style.net, optimizer, done)
    save_style(style, out)
    return painted.preview()


def _encoder_state(net: nn.Module, features: Features) -> dict[str, torch.Tensor]:
    assert features.trunk is not None
    wanted = set(net.get_submodule("encoder").state_dict())
    return {name: value for name, value in features.trunk.state_dict().items() if name in wanted}
