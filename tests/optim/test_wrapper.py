"""The wrapped optimizer against clip-then-step by hand, and in everything that takes an optimizer."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.testing import assert_close
from wrapped_cases import CLIP, OPTIMIZERS, assert_same, backward, batches, every_optimizer, model_and_twin, wrapped

from normwise.optim import AdaptiveGradientClipping, adaptive_clip_grad_


@every_optimizer
def test_it_clips_and_then_steps(make):
    model, twin = model_and_twin()
    optimizer, plain = wrapped(model, make), make(twin.parameters())
    for x, y in batches(3):
        backward(model, x, y)
        optimizer.step()
        backward(twin, x, y)
        adaptive_clip_grad_(twin, CLIP)
        plain.step()
    assert_same(model, twin)
    assert optimizer.report.rate > 0


def test_a_closure_is_clipped_after_each_call():
    model, twin = model_and_twin()
    options = {"lr": 0.3, "max_iter": 4, "history_size": 3}
    optimizer = wrapped(model, lambda p: torch.optim.LBFGS(p, **options))
    plain = torch.optim.LBFGS(twin.parameters(), **options)
    for x, y in batches(2):

        def by_hand(x=x, y=y):
            loss = backward(twin, x, y)
            adaptive_clip_grad_(twin, CLIP)
            return loss

        expected = plain.step(by_hand)
        assert_close(optimizer.step(lambda x=x, y=y: backward(model, x, y)), expected, rtol=0, atol=0)
    assert_same(model, twin)
    assert optimizer.report.steps["0.weight"] == 8


def test_a_closure_has_gradients_and_its_loss_comes_back():
    model, twin = model_and_twin()
    optimizer = wrapped(model)
    x, y = batches(1)[0]
    with torch.no_grad():
        loss = optimizer.step(lambda: backward(model, x, y))
    assert torch.equal(loss, backward(twin, x, y))
    assert optimizer.step() is None


def trained(steps=2, make=OPTIMIZERS["sgd"]):
    model, _ = model_and_twin()
    optimizer = wrapped(model, make)
    for x, y in batches(steps):
        backward(model, x, y)
        optimizer.step()
    return model, optimizer


@every_optimizer
def test_checkpoints_are_those_of_the_wrapped_optimizer(make):
    model, optimizer = trained(make=make)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file)
    resumed, _ = model_and_twin()
    resumed.load_state_dict(saved["model"])
    other = wrapped(resumed, make)
    schedule = lr_scheduler.StepLR(other, 1)
    other.load_state_dict(saved["optimizer"])
    make(resumed.parameters()).load_state_dict(saved["optimizer"])  # the same layout
    assert other.param_groups is other.optimizer.param_groups
    assert other.state is other.optimizer.state
    for net, opt in ((model, optimizer), (resumed, other)):
        backward(net, *batches(3)[2])
        opt.step()
    assert_same(model, resumed)
    schedule.step()
    assert other.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize(
    "through", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"]
)
def test_copies_train_on(through):
    model, optimizer = trained()
    other, other_optimizer = through((model, optimizer))
    for net, opt in ((model, optimizer), (other, other_optimizer)):
        backward(net, *batches(3)[2])
        opt.step()
    assert_same(model, other)
    assert other_optimizer.report.rates == optimizer.report.rates
    assert other_optimizer.report.steps["0.weight"] == 3
    assert other_optimizer.param_groups is other_optimizer.optimizer.param_groups
    assert other_optimizer.param_groups is not optimizer.param_groups


@pytest.mark.parametrize("inner", [False, True], ids=["through the wrapper", "through the wrapped"])
def test_parameter_groups_can_be_added(inner):
    model, _ = model_and_twin()
    parameters = list(model.parameters())
    optimizer = AdaptiveGradientClipping(torch.optim.SGD(parameters[2:], lr=0.1), model, CLIP)
    (optimizer.optimizer if inner else optimizer).add_param_group({"params": parameters[:2], "lr": 0.2})
    assert [group["lr"] for group in optimizer.optimizer.param_groups] == [0.1, 0.2]
    backward(model, *batches(1)[0])
    optimizer.step()
    assert set(optimizer.report.counts) == {name for name, _ in model.named_parameters()} - {"4.weight"}


def test_named_parameters_and_parameters_outside_the_model():
    model, _ = model_and_twin()
    extra = nn.Parameter(torch.ones(3, 4))
    optimizer = torch.optim.SGD([*model.named_parameters(), ("temperature", extra)], lr=0.1)
    optimizer = AdaptiveGradientClipping(optimizer, model, CLIP)
    backward(model, *batches(1)[0])
    extra.grad = torch.ones(3, 4)
    optimizer.step()
    assert "0.weight" in optimizer.report.counts
    assert_close(extra.grad.norm(dim=1), CLIP * torch.full((3,), 2.0))


def test_it_clips_only_what_it_trains():
    model, _ = model_and_twin()
    optimizer = AdaptiveGradientClipping(torch.optim.SGD(model[0].parameters(), lr=0.1), model, CLIP)
    backward(model, *batches(1)[0])
    before = model[2].weight.grad.clone()
    optimizer.step()
    assert torch.equal(model[2].weight.grad, before)
    assert set(optimizer.report.counts) == {"0.weight", "0.bias"}


def test_hooks_run_once():
    model, _ = model_and_twin()
    optimizer, called = wrapped(model), []
    optimizer.register_step_pre_hook(lambda *_: called.append("before"))
    optimizer.register_step_post_hook(lambda *_: called.append("after"))
    optimizer.register_state_dict_pre_hook(lambda _: called.append("saving"))
    optimizer.register_state_dict_post_hook(lambda _, state: called.append("saved"))
    optimizer.register_load_state_dict_pre_hook(lambda _, state: called.append("loading"))
    optimizer.register_load_state_dict_post_hook(lambda _: called.append("loaded"))
    backward(model, *batches(1)[0])
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    assert called == ["before", "after", "saving", "saved", "loading", "loaded"]


def test_it_is_an_optimizer_and_shows_what_it_wraps():
    model, _ = model_and_twin()
    optimizer = wrapped(model)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert optimizer.defaults is optimizer.optimizer.defaults
    assert repr(optimizer).startswith("AdaptiveGradientClipping(clip=0.05, eps=0.001) of SGD (\nParameter Group 0")
    optimizer.optimizer.own = 7
    assert optimizer.own == 7
    with pytest.raises(AttributeError, match="missing"):
        _ = optimizer.missing
    backward(model, *batches(1)[0])
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_wrapping_leaves_the_optimizer_as_it_was():
    model, _ = model_and_twin()
    plain = torch.optim.Adam([{"params": model[0].parameters(), "lr": 1.0}, {"params": model[4].parameters()}])
    groups, state, keys = plain.param_groups, plain.state, [set(group) for group in plain.param_groups]
    AdaptiveGradientClipping(plain, model)
    assert plain.param_groups is groups
    assert plain.state is state
    assert [set(group) for group in groups] == keys


def test_the_report_covers_all_steps_until_it_is_reset():
    model, _ = model_and_twin()
    optimizer = wrapped(model)
    total = torch.zeros(6)
    for x, y in batches(3):
        backward(model, x, y)
        single = copy.deepcopy(model)
        for ours, theirs in zip(single.parameters(), model.parameters(), strict=True):
            ours.grad = theirs.grad.clone()
        total += adaptive_clip_grad_(single, CLIP).counts["0.weight"]
        optimizer.step()
    assert optimizer.report.counts["0.weight"].tolist() == total.tolist()
    assert optimizer.report.rates["0.weight"] == pytest.approx(total.sum().item() / 18)
    assert str(optimizer.report).startswith("Adaptive gradient clipping: ")
    assert "over 3 steps." in str(optimizer.report)
    optimizer.reset_report()
    assert optimizer.report.counts == {}


def test_a_parameter_without_a_gradient_in_some_steps():
    model, _ = model_and_twin()
    optimizer = wrapped(model)
    for step in range(2):
        backward(model, *batches(1)[0])
        if step:
            model[0].bias.grad = None
        optimizer.step()
    assert (optimizer.report.steps["0.bias"], optimizer.report.steps["0.weight"]) == (1, 2)


def test_bad_input():
    model, _ = model_and_twin()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match=r"wraps a torch.optim.Optimizer, received generator"):
        AdaptiveGradientClipping(model.parameters(), model)
    with pytest.raises(TypeError, match=r"expects the model that the optimizer trains, received float"):
        AdaptiveGradientClipping(sgd, 0.01)
    with pytest.raises(ValueError, match=r"AdaptiveGradientClipping: clip must be a positive number, received 0"):
        AdaptiveGradientClipping(sgd, model, clip=0)
    with pytest.raises(ValueError, match=r"cannot be told, since its last layer is a ConvTranspose2d"):
        AdaptiveGradientClipping(sgd, model[:3])
