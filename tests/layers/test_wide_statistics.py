"""Running statistics stay in fp32 (fp64 under fp64) whatever becomes of the layer's dtype."""

import copy
import io
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

import normwise as nw
from normwise import use_backend

#: Every layer with a memory, for [N, 3, L].
LAYERS = {
    "batch": lambda **o: nw.BatchNorm1d(3, **o),
    "ghost": lambda **o: nw.GhostBatchNorm1d(3, ghost_size=2, **o),
    "renorm": lambda **o: nw.BatchRenorm1d(3, **o),
    "sync": lambda **o: nw.SyncBatchNorm(3, **o),
    "instance": lambda **o: nw.InstanceNorm1d(3, affine=True, track_running_stats=True, **o),
    "switchable": lambda **o: nw.SwitchableNorm1d(3, **o),
    "batch-instance": lambda **o: nw.BatchInstanceNorm1d(3, **o),
    "evo": lambda **o: nw.EvoNormB0(3, **o),
    "conditional": lambda **o: nw.ConditionalBatchNorm1d(3, 2, **o),
}
NARROW = [torch.bfloat16, torch.float16]
NAMES = ("running_mean", "running_var")


def statistics(layer):
    return {name: t for name, t in layer.named_buffers() if name.endswith(NAMES)}


def remembering(layer):
    """The layer with a memory of numbers that no narrow type holds."""
    with torch.no_grad():
        for k, t in enumerate(statistics(layer).values()):
            t.copy_(torch.tensor([1 / 3, 100 / 7, 1e6 / 3]) + k)
    return layer


def in_narrow(layer):
    return all(p.dtype in NARROW for p in layer.parameters())


CASTS = {
    "half": lambda layer: layer.half(),
    "bfloat16": lambda layer: layer.bfloat16(),
    "to dtype": lambda layer: layer.to(torch.bfloat16),
    "to device and dtype": lambda layer: layer.to("cpu", torch.float16),
    "twice": lambda layer: layer.half().bfloat16(),
    "in a model": lambda layer: nn.Sequential(layer).half()[0],
    "of a copy": lambda layer: copy.deepcopy(layer).half(),
    "copied": lambda layer: copy.deepcopy(layer.half()),
    "pickled": lambda layer: torch.load(_saved(layer.half()), weights_only=False),
}


def _saved(thing):
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return file


@pytest.mark.parametrize("cast", CASTS)
@pytest.mark.parametrize("name", LAYERS)
def test_a_cast_leaves_every_digit(name, cast):
    layer = remembering(LAYERS[name]())
    before = {k: t.clone() for k, t in statistics(layer).items()}
    layer = CASTS[cast](layer)
    assert in_narrow(layer)
    assert_close(statistics(layer), before, rtol=0, atol=0)
    assert layer.num_batches_tracked.dtype == torch.int64


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_made_narrow_remembers_in_fp32(name, dtype):
    layer = LAYERS[name](dtype=dtype)
    assert in_narrow(layer)
    assert {t.dtype for t in statistics(layer).values()} == {torch.float32}
    assert_close(layer.running_var, torch.ones(3))


@pytest.mark.parametrize("name", LAYERS)
def test_fp64_is_followed_up_and_down(name):
    layer = LAYERS[name](dtype=torch.float64)
    assert {t.dtype for t in statistics(layer).values()} == {torch.float64}
    for cast, expected in (("half", torch.float32), ("double", torch.float64), ("float", torch.float32)):
        getattr(layer, cast)()
        assert {t.dtype for t in statistics(layer).values()} == {expected}


@pytest.mark.parametrize("assign", [False, True], ids=["copied", "assigned"])
def test_a_narrow_checkpoint_is_loaded_wide(assign):
    checkpoint = nn.BatchNorm1d(3).bfloat16().state_dict()
    checkpoint["running_mean"].fill_(1.5)
    layer = nw.BatchNorm1d(3).bfloat16()
    layer.load_state_dict(checkpoint, assign=assign)
    assert in_narrow(layer)
    assert_close(layer.running_mean, torch.full((3,), 1.5))
    theirs = nn.BatchNorm1d(3).bfloat16()
    theirs.load_state_dict(remembering(layer).state_dict())
    assert_close(theirs.running_var, layer.running_var.bfloat16())


def test_state_dicts_keep_the_digits_and_load_again():
    layer = remembering(nw.BatchNorm1d(3).half())
    state = torch.load(_saved(layer.state_dict()))
    assert {state[name].dtype for name in NAMES} == {torch.float32}
    again = nw.BatchNorm1d(3).half()
    again.load_state_dict(state)
    assert_close(statistics(again), statistics(layer), rtol=0, atol=0)


def test_meta_layers_and_their_memory():
    layer = nw.BatchNorm1d(3, device="meta", dtype=torch.float16)
    assert {t.dtype for t in statistics(layer).values()} == {torch.float32}
    layer = layer.bfloat16().to_empty(device="cpu")
    assert {(t.dtype, t.device.type) for t in statistics(layer).values()} == {(torch.float32, "cpu")}
    layer.reset_running_stats()
    assert_close(layer.running_var, torch.ones(3))
    # A cast that leaves meta finds no digits to keep.
    layer = nw.BatchNorm1d(3, device="meta")
    layer._apply(lambda t: torch.zeros_like(t, device="cpu", dtype=torch.float16 if t.is_floating_point() else t.dtype))
    assert_close(layer.running_var, torch.zeros(3))


def test_banks_are_wide_too():
    layer = nw.BatchNorm1d(3).half()
    with nw.statistics_bank(layer, "night"):
        layer(torch.randn(8, 3).half())
    layer.bfloat16()
    assert {t.dtype for t in statistics(layer).values()} == {torch.float32}
    assert set(statistics(layer)) == {*NAMES, *(f"banks.night.{name}" for name in NAMES)}


def test_what_is_assigned_or_converted_is_widened():
    layer = nw.BatchNorm1d(3).half()
    layer.running_mean = torch.ones(3).half()
    assert layer.running_mean.dtype == torch.float32
    model = nn.Sequential(nn.BatchNorm1d(3).half())
    nw.SyncBatchNorm.convert_sync_batchnorm(model)
    assert {t.dtype for t in statistics(model).values()} == {torch.float32}


@pytest.mark.parametrize("way", ["automatic", "reference"])
@pytest.mark.parametrize("name", [name for name in LAYERS if name not in ("sync", "conditional")])
def test_a_variance_that_fp16_does_not_hold(name, way):
    """Of values ±600 the variance is 360,000, and fp16 ends at 65,504."""
    layer = LAYERS[name](momentum=1.0).half()
    x = torch.tensor([-600.0, 600.0]).repeat(8, 3, 3).half()
    with torch.no_grad(), use_backend(way) if way == "reference" else torch.no_grad():
        layer(x)
    values = x.double().numpy()
    axes = 2 if name == "instance" else (0, 2)
    np.testing.assert_allclose(layer.running_var, values.var(axes, ddof=1).reshape(-1, 3).mean(0), rtol=1e-6)
    assert layer.num_batches_tracked.item() == 1
    layer.eval()
    assert layer(x if name != "evo" else x[:1]).isfinite().all()


@pytest.mark.parametrize("momentum", [1.0, 0.1, None])
@pytest.mark.parametrize("name", ["batch", "instance", "ghost"])
@pytest.mark.parametrize("dtype", ["input", "fp32"])
def test_what_would_be_stored_is_judged(name, momentum, dtype):
    """A call brings narrow buffers along: what they cannot hold is counted and left out, not stored as inf."""
    layer = LAYERS[name](momentum=momentum)
    own = {n: t.half() if n in NAMES else t.clone() for n, t in layer.named_buffers()}
    kind = torch.float16 if dtype == "input" else torch.float32
    x = torch.tensor([-1e3, 1e3]).repeat(8, 3, 3).to(kind)
    with pytest.warns(RuntimeWarning, match="non-finite"):
        torch.func.functional_call(layer.to(kind), own, (x,))
    assert_close([own[n] for n in NAMES], [torch.zeros(3).half(), torch.ones(3).half()])
    assert own["num_batches_tracked"].item() == 0
    assert layer.policy.skipped == 1
    torch.func.functional_call(layer, own, (x / 10,))
    assert own["num_batches_tracked"].item() == 1
    assert (own["running_var"] > 1).all()
    assert own["running_var"].isfinite().all()


def test_large_finite_statistics_are_no_overflow_of_their_sum():
    """The quick look adds mean and variance; that this sum overflows is asked again."""
    layer = nw.BatchNorm1d(1, momentum=None)
    own = {"running_mean": torch.zeros(1).half(), "running_var": torch.ones(1).half()}
    own["num_batches_tracked"] = torch.tensor(0)
    x = torch.tensor([[4e4 - 150], [4e4 + 150]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.func.functional_call(layer, own, (x,))
    assert_close(own["running_mean"], torch.tensor([4e4]).half())
    assert_close(own["running_var"], torch.tensor([4.5e4]).half())


def test_training_in_bf16_forgets_nothing_to_rounding():
    """A bf16 memory of 100 stands still at momentum 0.01: the step is less than half a unit of its last place."""
    layer, x = nw.BatchNorm1d(3, momentum=0.01).bfloat16(), (torch.randn(64, 3) + 100.7).bfloat16()
    for _ in range(1500):
        layer(x)
    # In fp32, too, a step stops that is less than half a unit: within half a unit over the momentum.
    np.testing.assert_allclose(layer.running_mean, x.double().mean(0), rtol=2.0**-23 / 0.01)
