"""torch's own test data of its modules, on our classes: the same numbers, or a documented difference."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import normwise as nw

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # torch's own, of its deprecated corners
]
KINDS = [f"{family}Norm{rank}d" for family in ("Batch", "Instance") for rank in (1, 2, 3)]
KINDS += ["GroupNorm", "LayerNorm", "RMSNorm"]
DTYPES = [torch.float32, torch.float64]

#: What differs from torch where torch's data show it, and why. One that they do not show any more fails.
COUNTER, EMPTY = "InstanceNorm counts its batches", "BatchNorm does not count an empty batch"
DIFFERENCES = {
    COUNTER: "torch's num_batches_tracked stays 0, so that momentum=None would never learn anything",
    EMPTY: "it has no statistics, and would skew torch's cumulative average",
}


def samples(kind, dtype, training):
    """Those that call the module."""
    common_modules = pytest.importorskip("torch.testing._internal.common_modules")
    info = next(info for info in common_modules.module_db if info.module_cls is getattr(nn, kind))
    found = info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=training)
    return [sample for sample in found if sample.forward_input is not None]


def twins(kind, sample, dtype, training):
    arguments, options = sample.constructor_input.args, sample.constructor_input.kwargs
    theirs, ours = (
        getattr(home, kind)(*copy.deepcopy(arguments), **options).to(dtype).train(training) for home in (nn, nw)
    )
    for p in theirs.parameters():
        nn.init.uniform_(p, 0.5, 1.5)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def results_of(layer, sample):
    """Output, gradients of the input and the parameters, once and twice, and buffers."""
    given = [t.detach().clone().requires_grad_() for t in sample.forward_input.args]
    y = layer(*given, **sample.forward_input.kwargs)
    torch.manual_seed(0)
    leaves = [*given, *layer.parameters()]
    first = torch.autograd.grad(y, leaves, torch.randn_like(y), create_graph=True)
    again = [g.square().sum() for g in first if g.requires_grad]
    second = torch.autograd.grad(again, leaves, allow_unused=True)
    zero = torch.zeros((), dtype=y.dtype)
    return y, first, [zero.expand_as(t) if g is None else g for g, t in zip(second, leaves, strict=True)], layer


def differences(ours, theirs, x):
    """The documented ones between two layers behind the same calls on ``x``."""
    counts = [getattr(layer, "num_batches_tracked", None) for layer in (ours, theirs)]
    if counts[0] is None or torch.equal(*counts):
        return set()
    if isinstance(ours, nn.modules.instancenorm._InstanceNorm):
        return {COUNTER}
    assert x.numel() == 0
    return {EMPTY}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_derivatives(kind, dtype, training):
    """In fp32 both round the sums of second derivatives."""
    found = samples(kind, dtype, training)
    assert found
    tolerance = {"rtol": 1e-9, "atol": 1e-9} if dtype is torch.float64 else {"rtol": 1e-3, "atol": 1e-3}
    for sample in found:
        (*mine, ours), (*other, theirs) = (results_of(layer, sample) for layer in twins(kind, sample, dtype, training))
        assert_close(mine[:2], other[:2], **tolerance)
        if dtype is torch.float64:
            assert_close(mine[2], other[2], rtol=1e-7, atol=1e-7)
        differences(ours, theirs, sample.forward_input.args[0])
        for name in ("running_mean", "running_var"):
            assert_close(getattr(ours, name, None), getattr(theirs, name, None), **tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_torchs_derivative_checks(kind):
    for training in (True, False):
        for sample in samples(kind, torch.float64, training):
            ours, _ = twins(kind, sample, torch.float64, training)
            arguments = [t.detach().clone().requires_grad_() for t in sample.forward_input.args]

            def call(*given, ours=ours):
                return copy.deepcopy(ours)(*given)

            assert torch.autograd.gradcheck(call, arguments, fast_mode=True, check_batched_grad=True)
            assert torch.autograd.gradgradcheck(call, arguments, fast_mode=True, check_batched_grad=True)


def test_every_documented_difference_is_one():
    matched = set()
    for kind in KINDS:
        for training in (True, False):
            for sample in samples(kind, torch.float32, training):
                layers = twins(kind, sample, torch.float32, training)
                for layer in layers:
                    layer(*sample.forward_input.args, **sample.forward_input.kwargs)
                matched |= differences(*layers, sample.forward_input.args[0])
    assert matched == set(DIFFERENCES)
