import random

import numpy as np
import pytest
import torch
from torch import nn

from normwise.comparison.isolation import isolated, listening, untouched


def draws():
    return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()


def seed_all():
    torch.manual_seed(11)
    np.random.seed(11)
    random.seed(11)


def test_inside_the_seed_decides_and_outside_nothing_has_happened():
    seed_all()
    expected = draws()
    seed_all()
    with isolated(3, "cpu"):
        first = draws()
    assert draws() == expected
    with isolated(3, "cpu"):
        assert draws() == first


def test_modes_are_fixed_inside_and_restored_on_errors():
    torch.set_default_dtype(torch.float64)
    threads = torch.get_num_threads()
    try:
        with torch.no_grad(), pytest.raises(RuntimeError, match="inside"):  # noqa: PT012
            with isolated(0, "cpu", threads=threads + 1):
                assert torch.get_default_dtype() is torch.float32
                assert torch.is_grad_enabled()
                assert torch.get_num_threads() == threads + 1
                assert torch.backends.cudnn.deterministic
                raise RuntimeError("inside")
            assert not torch.is_grad_enabled()
        assert torch.get_default_dtype() is torch.float64
        assert torch.get_num_threads() == threads
        assert not torch.backends.cudnn.deterministic
        with torch.inference_mode(), isolated(0, "cpu"):
            assert not torch.is_inference_mode_enabled()
    finally:
        torch.set_default_dtype(torch.float32)


class Counter(nn.Module):
    """Replaces its buffer by a new object, as some running statistics do."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x):
        self.count = self.count + 1
        return x


def test_untouched_restores_modes_and_buffers():
    model = nn.Sequential(nn.BatchNorm1d(2), Counter(), nn.Dropout())
    model[2].eval()
    modes = [m.training for m in model.modules()]
    held, values = dict(model.named_buffers()), {k: v.clone() for k, v in model.named_buffers()}
    with pytest.raises(ValueError, match="in the middle"), untouched(model):  # noqa: PT012
        model.train()
        model(torch.randn(8, 2) + 5)
        assert model[0].running_mean.abs().max() > 0
        raise ValueError("in the middle")
    assert [m.training for m in model.modules()] == modes
    for name, buffer in model.named_buffers():
        assert buffer is held[name]
        assert torch.equal(buffer, values[name])


def test_listening_hears_inputs_and_leaves_no_hook():
    model, heard = nn.Sequential(nn.Identity(), nn.ReLU()), []
    x = torch.randn(2, 2)
    with listening({"relu": model[1]}, lambda name, signal: heard.append((name, signal))):
        model(x)
    model(x)
    assert heard == [("relu", x)]
    assert not model[1]._forward_pre_hooks
