"""What `predict` takes, leaves alone, and cannot follow."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normwise.signal import predict, trace


def test_nothing_of_the_model_changes():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.register_buffer("calls", torch.zeros(()))
            self.last = None

        def forward(self, x):
            self.calls.add_(1)
            self.last = self.conv(x)
            return F.batch_norm(self.last, torch.zeros(4), torch.ones(4), training=self.training)

    net = nn.Sequential(Counting(), nn.BatchNorm2d(4), nn.Dropout()).train()
    net[0].register_forward_hook(lambda *_: pytest.fail("a hook ran"))
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    predict(net, (2, 3, 8, 8))
    assert net[0].last is None
    assert all(module.training for module in net.modules())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_dead_channels_and_inputs():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    with torch.no_grad():
        net[0].weight[1:] = 0
    conv, relu = predict(net, (2, 3, 4, 4)).taps
    assert (conv.dead_share, relu.dead_share) == (0.75, 0.75)
    x = torch.randn(64, 3, 8, 8) * 3 + torch.tensor([5.0, 0.0, -5.0]).view(3, 1, 1)
    by_tensor, by_name = predict(net, x), predict(net, {"input": x})
    assert by_tensor.taps == by_name.taps
    assert by_tensor.taps[0].variance == pytest.approx(trace(net, x).taps[0].variance, rel=0.05)
    assert predict(torch.compile(net), (2, 3, 4, 4)).taps == predict(nn.DataParallel(net), (2, 3, 4, 4)).taps


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        return self.linear(x) if x.sum() > 0 else x


class Sorting(nn.Module):
    def forward(self, x):
        return torch.sort(x).values


BAD = {
    "control flow": (lambda: nn.Sequential(Branching()), (4, 3), "cannot follow Sequential[.]forward at 0"),
    "recurrent": (lambda: nn.Sequential(nn.LSTM(3, 3)), (4, 5, 3), r"the module 0 \(LSTM\): there is no rule"),
    "attention": (lambda: nn.Sequential(nn.Softmax(-1)), (4, 5), r"\(Softmax\)"),
    "unknown function": (lambda: nn.Sequential(Sorting()), (4, 3), "cannot follow sort in 0: there is no rule for it"),
    "wrong channels": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3)), (2, 5, 8, 8), r"the module 0 \(Conv2d\)"),
    "empty": (lambda: nn.Linear(3, 3), (0, 3), "must be at least 1"),
    "empty tensor": (lambda: nn.Linear(3, 3), torch.zeros(0, 3), "is empty"),
    "too many": (lambda: nn.Sequential(nn.Linear(3, 3)), ((2, 3), (2, 3)), "2 inputs for Sequential"),
    "unknown name": (lambda: nn.Sequential(nn.Linear(3, 3)), {"x": (2, 3)}, "takes input, not"),
    "missing": (lambda: nn.Sequential(nn.Linear(3, 3)), {}, "the input input: no value was given"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_followed_is_said(case):
    make, given, words = BAD[case]
    with pytest.raises(ValueError, match=words):
        predict(make(), given)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_wrong_types():
    with pytest.raises(TypeError, match=r"predict expects a torch.nn.Module, received function"):
        predict(F.relu, (2, 3))
    with pytest.raises(TypeError, match="a tensor or a shape"):
        predict(nn.Linear(3, 3), "images")
    with pytest.raises(TypeError, match="TorchScript"):
        predict(torch.jit.trace(nn.Linear(3, 3), torch.zeros(1, 3)), (2, 3))
