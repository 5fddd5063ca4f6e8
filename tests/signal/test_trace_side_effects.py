"""`trace` changes nothing: the model, its input, the random numbers, the modes of the process. On errors neither."""

import copy
import random
from collections import deque

import numpy as np
import pytest
import signal_nets as nets
import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack

import normwise as nw


class Restless(nn.Module):
    """Whatever a forward can do to its module."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4, momentum=0.3)
        self.ours = nw.BatchNorm2d(4)
        self.renorm = nw.BatchRenorm2d(4)
        self.instance = nn.InstanceNorm2d(4, track_running_stats=True)
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 1))
        self.frozen = nn.BatchNorm2d(4).eval()
        self.lstm = nn.LSTM(4, 4)
        self.drop = nn.Dropout(0.5)
        self.skip_gain = nn.Parameter(torch.zeros(()))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("cache", None)
        self.history, self.seen, self.recent, self.table = [], set(), deque(), {}
        self.counter = 0
        self.last = None
        self.fails_with = None

    def forward(self, x):
        self.calls += 1
        self.counter += 1
        self.cache = x.mean()
        self.last = x
        self.new_attribute = x
        self.history.append(x)
        self.recent.append(x)
        self.seen.add(self.counter)
        self.table["x"] = x
        x.mul_(2)
        y = self.ours(self.instance(self.norm(self.conv(x))))
        y = self.frozen(self.spectral(self.renorm(y)))
        if self.fails_with is not None:
            raise self.fails_with
        noise = torch.rand(()) + random.random() + np.random.rand()
        y = y + self.skip_gain * self.drop(torch.tanh(self.spectral(y))) + noise
        return self.lstm(y.mean((2, 3))[None])[0]


CONTAINERS = ("history", "seen", "recent", "table")


def flattened(model):
    """Everything of every module that a run could change, tensors by identity, version and value."""
    state = {}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            key = path, name
            if name in ("_parameters", "_buffers", "_modules"):
                for inner, t in value.items():
                    state[(*key, inner)] = tensor_state(t) if isinstance(t, torch.Tensor) else id(t)
            elif isinstance(value, torch.Tensor):
                state[key] = tensor_state(value)
            elif isinstance(value, (dict, list, set, deque)):
                items = value.items() if isinstance(value, dict) else value
                state[key] = (id(value), [id(i[1]) if isinstance(i, tuple) else id(i) for i in items])
            elif name == "policy":
                state[key] = (id(value), copy.deepcopy(vars(value)))
            else:
                state[key] = (id(value), value if isinstance(value, (int, float, bool, str)) else None)
    return state


def tensor_state(t):
    gradient = None if t.grad is None else (id(t.grad), t.grad._version, t.grad.clone().numpy().tobytes())
    return id(t), t._version, t.requires_grad, gradient, t.detach().clone().numpy().tobytes(), t.is_leaf


def process_state():
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": repr(np.random.get_state()),
        "python": random.getstate(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "cudnn": (torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "mha": torch.backends.mha.get_fastpath_enabled(),
        "modes": list(_get_current_function_mode_stack()),
        "global_hooks": len(nn.modules.module._global_forward_hooks) + len(nn.modules.module._global_forward_pre_hooks),
    }


def restless():
    """A model in a mixed state: modes, gradients, a hook of its own, statistics and banks."""
    model = Restless().train()
    model.norm.eval()
    model.drop.training = True
    model.conv.weight.requires_grad_(False)
    model.lstm.weight_ih_l0.grad = torch.randn_like(model.lstm.weight_ih_l0)
    model.norm.running_mean.normal_()
    model.conv.register_forward_hook(lambda module, args, output: None)
    return model


OPTIONS = {
    "default": {},
    "evaluation": {"batch_statistics": False},
    "everything": {"skip_gain": 1, "stochastic_depth": True, "histograms": True, "backward": True},
}


@pytest.mark.parametrize("options", OPTIONS)
def test_nothing_changes(options):
    model, batch = restless(), torch.randn(8, 3, 6, 6)
    before, process, data = flattened(model), process_state(), batch.clone()
    result = nw.trace(model, batch, **OPTIONS[options])
    assert flattened(model) == before
    assert process_state() == process
    assert torch.equal(batch, data)
    assert batch._version == 0
    assert batch.grad is None
    assert len(result.taps) > 8


@pytest.mark.parametrize("error", [RuntimeError("half-way"), KeyboardInterrupt()])
@pytest.mark.parametrize("options", OPTIONS)
def test_nothing_changes_on_errors(options, error):
    model, batch = restless(), torch.randn(8, 3, 6, 6)
    model.fails_with = error
    before, process = flattened(model), process_state()
    with pytest.raises(type(error)):
        nw.trace(model, batch, **OPTIONS[options])
    assert flattened(model) == before
    assert process_state() == process


def test_a_pending_backward_pass_still_runs():
    """Batch statistics without touching the buffers: a graph that has saved them stays valid."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nw.BatchNorm2d(4)).eval()
    batch = torch.randn(4, 3, 5, 5)
    loss = model(batch).square().sum()
    nw.trace(model, batch, backward=True)
    loss.backward()
    gradient = model[0].weight.grad.clone()
    model.zero_grad()
    model(batch).square().sum().backward()
    torch.testing.assert_close(model[0].weight.grad, gradient, rtol=0, atol=0)


def test_the_surroundings_do_not_matter():
    """Under no_grad, inference mode, a default device or a fixed seed the numbers are the same."""
    model = nets.ResNet()
    expected = nw.trace(model, (2, 3, 16, 16), backward=True).taps
    torch.manual_seed(5)
    with torch.no_grad():
        assert nw.trace(model, (2, 3, 16, 16), backward=True).taps == expected
    with torch.inference_mode():
        assert nw.trace(model, (2, 3, 16, 16), backward=True).taps == expected
        assert nw.trace(model, torch.ones(2, 3, 16, 16)).taps  # an inference tensor
    with torch.device("cpu"):
        assert nw.trace(model, (2, 3, 16, 16), backward=True).taps == expected


def test_autocast_is_the_callers():
    model = nn.Sequential(nn.Linear(4, 4))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = nw.trace(model, (64, 4))
        assert torch.is_autocast_enabled("cpu")
    assert mixed.taps != nw.trace(model, (64, 4)).taps
    assert mixed.layers[0].variance == pytest.approx(nw.trace(model, (64, 4)).layers[0].variance, rel=0.02)


def test_the_model_draws_seeded_numbers():
    class Noisy(nn.Module):
        def forward(self, x):
            return x + torch.randn_like(x)

    model = nn.Sequential(Noisy())
    first = nw.trace(model, (8, 4))
    torch.rand(3)
    assert nw.trace(model, (8, 4)).taps == first.taps
    assert nw.trace(model, (8, 4), seed=1).taps != first.taps


def test_a_train_method_of_its_own_is_not_called():
    class Merging(nn.Linear):
        def train(self, mode=True):
            raise AssertionError("called")

    model = Merging(3, 3)
    assert len(nw.trace(model, (4, 3)).layers) == 1
    assert model.training


def test_hooks_of_the_model_run_once():
    calls = []
    model = nets.UNet()
    model.up.register_forward_hook(lambda module, args, output: calls.append("up"))
    model.out.register_forward_pre_hook(lambda module, args: calls.append("out"))
    nw.trace(model, (2, 1, 8, 8))
    assert calls == ["up", "out"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("backward", [False, True])
def test_on_a_gpu(backward):
    model = Restless().cuda()
    state, modes = torch.cuda.get_rng_state(), [m.training for m in model.modules()]
    result = nw.trace(model, torch.randn(8, 3, 6, 6), backward=backward)
    assert result.layers[-1].name == "lstm[2]"
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert [m.training for m in model.modules()] == modes
    model = nets.ResNet().double()
    here, there = nw.trace(model, (4, 3, 32, 32)), nw.trace(copy.deepcopy(model).cuda(), (4, 3, 32, 32))
    for a, b in zip(here.taps, there.taps, strict=True):
        assert a.variance == pytest.approx(b.variance, rel=1e-9)
