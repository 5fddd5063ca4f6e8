"""The wrapped optimizer under learning rate schedulers and a gradient scaler."""

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler, swa_utils
from torch.testing import assert_close
from wrapped_cases import CLIP, OPTIMIZERS, assert_same, backward, batches, model_and_twin, wrapped

from normwise.optim import adaptive_clip_grad_

SCHEDULERS = {
    "step": lambda o: lr_scheduler.StepLR(o, 1),
    "one-cycle": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.2, total_steps=9),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o), lr_scheduler.ExponentialLR(o, 0.5)], milestones=[2]
    ),
    "swa": lambda o: swa_utils.SWALR(o, swa_lr=0.01, anneal_epochs=2),
}


@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
@pytest.mark.parametrize("inner", [False, True], ids=["on the wrapper", "on the wrapped"])
def test_schedulers_move_the_wrapped_rate(make, inner):
    model, twin = model_and_twin()
    optimizer, plain = wrapped(model), OPTIMIZERS["sgd"](twin.parameters())
    schedule, expected = make(optimizer.optimizer if inner else optimizer), make(plain)
    for x, y in batches(4):
        backward(model, x, y)
        optimizer.step()
        schedule.step()
        plain.step()
        expected.step()
        assert optimizer.optimizer.param_groups[0]["lr"] == plain.param_groups[0]["lr"]
        assert optimizer.optimizer.param_groups[0]["momentum"] == plain.param_groups[0]["momentum"]


def test_reduce_on_plateau():
    optimizer = wrapped(model_and_twin()[0])
    schedule = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    schedule.step(1.0)
    schedule.step(1.0)
    assert optimizer.optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


@pytest.mark.parametrize("name", ["sgd", "sgd-fused"])
@pytest.mark.parametrize("unscale", [False, True], ids=["in step", "by hand"])
def test_grad_scaler_unscales_before_the_clipping(name, unscale):
    make = OPTIMIZERS[name]
    model, twin = model_and_twin()
    optimizer, plain = wrapped(model, make), make(twin.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    for x, y in batches(3):
        optimizer.zero_grad()
        scaler.scale(nn.functional.cross_entropy(model(x), y)).backward()
        if unscale:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        backward(twin, x, y)
        adaptive_clip_grad_(twin, CLIP)
        plain.step()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_grad_scaler_skips_a_step_with_infinite_gradients():
    model, twin = model_and_twin()
    optimizer = wrapped(model, OPTIMIZERS["sgd-fused"])
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    x, y = batches(1)[0]
    scaler.scale(nn.functional.cross_entropy(model(x), y)).backward()
    model[0].weight.grad[0, 0, 0, 0] = float("inf")
    scaler.step(optimizer)
    scaler.update()
    assert_same(model, twin)
    assert (scaler.get_scale(), optimizer.report.steps) == (2.0**11, {})
