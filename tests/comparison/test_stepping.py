"""The lean update of our loop, against torch's own clipping and SGD, bit for bit."""

import pytest
import torch
from torch import nn

from normwise import nets
from normwise.comparison.training.stepping import LeanSGD, are_alike, clip_gradients

SIZES = ((3,), (7, 5), (16, 8, 3, 3), (1,), (130,))
OPTIONS = {"lr": 0.1, "momentum": 0.9, "nesterov": True}


def parameters(seed=0):
    random = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(size, generator=random)) for size in SIZES]


def groups(params):
    return [{"params": params[:3], "weight_decay": 5e-4}, {"params": params[3:], "weight_decay": 0.0}]


def give_gradients(step, *lists, missing=()):
    random = torch.Generator().manual_seed(step)
    for index, size in enumerate(SIZES):
        grad = torch.randn(size, generator=random) * 10 ** float(torch.randint(-2, 3, (), generator=random))
        for params in lists:
            params[index].grad = None if index in missing else grad.clone()


def test_clipping_is_torchs_to_the_bit():
    ours, theirs = parameters(), parameters()
    for step in range(20):
        give_gradients(step, ours, theirs, missing=(1,) if step % 3 else ())
        clip_gradients(ours, 1.0)
        nn.utils.clip_grad_norm_(theirs, 1.0)
        assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours, theirs, strict=True) if a.grad is not None)
    for p in ours:
        p.grad = None
    clip_gradients(ours, 1.0)
    assert all(p.grad is None for p in ours)


def test_updates_are_torchs_to_the_bit():
    ours, theirs = parameters(), parameters()
    lean, fused = LeanSGD(groups(ours), **OPTIONS), torch.optim.SGD(groups(theirs), **OPTIONS, fused=True)
    for step in range(30):
        give_gradients(step, ours, theirs, missing=(2,) if step % 4 == 3 else ())
        for optimizer in (lean, fused):
            for group in optimizer.param_groups:
                group["lr"] = 0.1 / (1 + step)
            optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    state, other = lean.state_dict()["state"], fused.state_dict()["state"]
    assert all(torch.equal(state[i]["momentum_buffer"], other[i]["momentum_buffer"]) for i in range(len(SIZES)))
    lean.zero_grad()
    assert all(p.grad is None for p in ours)


def test_a_parameter_whose_first_gradient_comes_later_begins_then():
    """As the plain loop over parameters has it; torch's fused one stops there."""
    ours, theirs = parameters(), parameters()
    lean, plain = LeanSGD(groups(ours), **OPTIONS), torch.optim.SGD(groups(theirs), **OPTIONS, foreach=False)
    for step in range(5):
        give_gradients(step, ours, theirs, missing=(0, 4) if step < 2 else ())
        lean.step()
        plain.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_a_net_is_trained_to_the_same_bits(norm):
    trained = []
    for lean in (True, False):
        torch.manual_seed(0)
        net = nets.resnet(8, norm, 1, 10, width=4)
        optimizer = (
            LeanSGD(net.parameters(), **OPTIONS) if lean else torch.optim.SGD(net.parameters(), **OPTIONS, fused=True)
        )
        for _ in range(6):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(torch.randn(4, 1, 8, 8)), torch.randint(10, (4,))).backward()
            (clip_gradients if lean else nn.utils.clip_grad_norm_)(list(net.parameters()), 1.0)
            optimizer.step()
        trained.append(list(net.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*trained, strict=True))


def test_several_dtypes_are_left_to_torch():
    mixed = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3, dtype=torch.float64))]
    assert are_alike(mixed[:1])
    assert not are_alike(mixed)
