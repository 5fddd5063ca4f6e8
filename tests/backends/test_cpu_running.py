"""Running statistics moved by the library, against their recurrence in NumPy."""

import numpy as np
import pytest
import torch
from marks import needs_kernels

import normwise as nw
from normwise.backends import cpu
from normwise.core.running import RunningStatistics

pytestmark = needs_kernels

CHANNELS, COUNT, MOMENTUM = 37, 20, 0.3
ROUNDING = {torch.float64: 1e-15, torch.float32: 2e-7, torch.bfloat16: 2**-8, torch.float16: 2**-11}


def buffers(dtype, momentum=MOMENTUM):
    mean = torch.linspace(-2, 2, CHANNELS, dtype=torch.float64).to(dtype)
    return RunningStatistics(mean, mean.abs() + 0.5, torch.tensor(4), momentum)


def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, CHANNELS, generator=generator, dtype=torch.float64).abs() + 0.1


def moved(old, new):
    return (1 - MOMENTUM) * old.double().numpy() + MOMENTUM * new.numpy()


@pytest.mark.parametrize("apart", [False, True], ids=["table", "apart"])
@pytest.mark.parametrize("kept", [False, True], ids=["narrow", "wide"])
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_the_recurrence_in_every_type(dtype, kept, apart):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    running, table = buffers(wide if kept else dtype), batch()
    expected = moved(running.mean, table[0]), moved(running.var, table[1] * COUNT / (COUNT - 1))
    given = (table[0], table[1]) if apart else (table.view(2, 1, CHANNELS), None)
    assert cpu.remembers(dtype, running)
    assert cpu.remember(dtype, running, *given, COUNT)
    for got, want in zip(running[:2], expected, strict=True):
        np.testing.assert_allclose(got.double(), want, rtol=ROUNDING[got.dtype], atol=ROUNDING[got.dtype])
    assert running.batches.item() == 5


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("entry", [(0, 3), (1, 36)])
def test_what_is_not_finite_changes_nothing(bad, entry):
    running, table = buffers(torch.float32), batch()
    before = [t.clone() for t in running[:3]]
    table[entry] = bad
    assert not cpu.remember(torch.float32, running, table.view(2, 1, CHANNELS), None, COUNT)
    assert all(torch.equal(t, old) for t, old in zip(running[:3], before, strict=True))


def test_a_graph_that_saved_the_buffers_notices():
    running, weight = buffers(torch.float32), torch.ones(CHANNELS, requires_grad=True)
    y = (weight * running.mean).sum()
    assert cpu.remember(torch.float32, running, batch().view(2, 1, CHANNELS), None, COUNT)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


@pytest.mark.parametrize(
    "change",
    [
        {"momentum": None},
        {"var": torch.ones(CHANNELS, dtype=torch.bfloat16)},
        {"mean": torch.ones(2 * CHANNELS)[::2]},
        {"batches": torch.tensor(0.0)},
        {"mean": torch.ones(CHANNELS, device="meta")},
    ],
    ids=["average", "two types", "strided", "another counter", "another device"],
)
def test_other_buffers_are_left_to_torch(change):
    assert not cpu.remembers(torch.float32, buffers(torch.float32)._replace(**change))


def test_a_layer_in_inference_mode_and_one_made_there():
    x = torch.randn(4, 3, 5)
    with torch.inference_mode():
        made_there = nw.BatchNorm1d(3)
        made_there(x)
    layer, native = nw.BatchNorm1d(3), torch.nn.BatchNorm1d(3)
    with torch.inference_mode():
        layer(x), native(x)
    for found in (layer, made_there):
        for got, want in zip(found.buffers(), native.buffers(), strict=True):
            torch.testing.assert_close(got, want)
