"""A model and random numbers on loan."""

from contextlib import contextmanager

import pytest
import torch
from torch import nn

from normwise.signal.protection import as_it_was, random_numbers_kept


class Counter(nn.Module):
    """Replaces its buffer by a new object, as some running statistics do."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x):
        self.count = self.count + 1
        return x


def test_as_it_was_restores_modes_and_buffers():
    model = nn.Sequential(nn.BatchNorm1d(2), Counter(), nn.Dropout())
    model[2].eval()
    modes = [m.training for m in model.modules()]
    held, values = dict(model.named_buffers()), {k: v.clone() for k, v in model.named_buffers()}
    with pytest.raises(ValueError, match="in the middle"), as_it_was(model):  # noqa: PT012
        model.train()
        model(torch.randn(8, 2) + 5)
        assert model[0].running_mean.abs().max() > 0
        raise ValueError("in the middle")
    assert [m.training for m in model.modules()] == modes
    for name, buffer in model.named_buffers():
        assert buffer is held[name]
        assert torch.equal(buffer, values[name])


class Accelerator:
    """The random numbers of two devices, as torch's modules of devices have them; the second is the current one."""

    def __init__(self):
        self.states, self.current = [5, 6], 1

    @contextmanager
    def device_index(self, index):
        before, self.current = self.current, index
        yield
        self.current = before

    def current_device_index(self):
        return self.current

    def manual_seed(self, seed):
        self.states[self.current] = seed

    def get_rng_state(self, index):
        return self.states[index]

    def set_rng_state(self, state, index):
        self.states[index] = state


@pytest.mark.parametrize(
    ("devices", "inside"),
    [
        (["cuda"], [5, 3]),
        (["cuda:1"], [5, 3]),
        (["cuda:0"], [3, 6]),
        (["cuda", "cuda:0"], [3, 3]),
        (["cuda", "cuda:1", "cpu"], [5, 3]),
    ],
)
def test_a_device_without_an_index_is_the_current_one(devices, inside, monkeypatch):
    fake = Accelerator()
    monkeypatch.setattr(torch, "get_device_module", lambda kind: fake)
    monkeypatch.setattr(torch.accelerator, "device_index", fake.device_index)
    monkeypatch.setattr(torch.accelerator, "current_device_index", fake.current_device_index)
    with random_numbers_kept(set(map(torch.device, devices)), seed=3):
        assert fake.states == inside
        assert fake.current == 1
    assert fake.states == [5, 6]
