import random

import numpy as np
import pytest
import torch
from torch import nn

from normwise.comparison.isolation import isolated, listening


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


def test_listening_hears_inputs_and_leaves_no_hook():
    model, heard = nn.Sequential(nn.Identity(), nn.ReLU()), []
    x = torch.randn(2, 2)
    with listening({"relu": model[1]}, lambda name, signal: heard.append((name, signal))):
        model(x)
    model(x)
    assert heard == [("relu", x)]
    assert not model[1]._forward_pre_hooks
