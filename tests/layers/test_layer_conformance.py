"""Every layer against torch.nn in float64, and against the papers' equations in NumPy."""

import pytest
import torch
from layer_cases import (
    CASES,
    LAYOUTS,
    MAP_CASES,
    by_the_paper,
    gradients,
    ids,
    in_double,
    layouts_of,
    memory_format,
    twins,
)
from torch import nn
from torch.testing import assert_close

import normwise as nw
from normwise import NORMALIZERS, use_backend

# The truth is torch.nn in float64 on the same (already rounded) inputs and parameters. Values are of size 1 to
# 10, so fp32 arithmetic with pools of at most 105 values stays within some 30 roundings of 6e-8 (2e-6 each for
# values of size 10, more in the sums of the gradients). Results narrower than fp32 are computed in fp32 and
# rounded once: half a unit in the last place, 2^-8 for bf16 (8 bits) and 2^-11 for fp16 (11 bits), on top.
# Sums of a gradient may cancel, so an absolute part is needed for each dtype.
TOLERANCE = {
    torch.float64: {"rtol": 1e-12, "atol": 1e-11},
    torch.float32: {"rtol": 1e-5, "atol": 4e-5},
    torch.bfloat16: {"rtol": 2**-8 * 1.01, "atol": 4e-5},
    torch.float16: {"rtol": 2**-11 * 1.01, "atol": 4e-5},
}
#: Input and parameter dtypes; narrow inputs also with fp32 parameters, as under autocast.
PRECISIONS = {
    "fp64": (torch.float64, torch.float64),
    "fp32": (torch.float32, torch.float32),
    "bf16": (torch.bfloat16, torch.bfloat16),
    "fp16": (torch.float16, torch.float16),
    "bf16-fp32": (torch.bfloat16, torch.float32),
    "fp16-fp32": (torch.float16, torch.float32),
}
GRID = [pytest.param(case, layout, id=f"{case.id}-{layout}") for case in CASES for layout in layouts_of(case)]


def close(actual, truth, **more):
    assert_close(actual.double(), truth, **{**TOLERANCE[actual.dtype], **more})


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("case", "layout"), GRID)
def test_agrees_with_torch(case, layout, training, precision, backend):
    """Outputs, gradients, buffers, dtype and layout, with a fixed random cotangent."""
    dtype, parameter_dtype = PRECISIONS[precision]
    ours, theirs = (layer.to(parameter_dtype) for layer in twins(case))
    oracle = in_double(theirs).train(training)
    oracle.load_state_dict(ours.state_dict())  # the running statistics were not narrowed
    ours.train(training)
    x = LAYOUTS[layout](torch.randn(case.shape).to(dtype)).requires_grad_()
    truth = x.detach().double().requires_grad_()
    cotangent = torch.randn(case.shape).to(dtype)

    with backend():
        y = ours(x)
    y_true = oracle(truth)
    inputs, inputs_true = [x, *ours.parameters()], [truth, *oracle.parameters()]
    grads = gradients(y, inputs, cotangent)
    grads_true = gradients(y_true, inputs_true, cotangent)

    assert y.dtype == dtype
    close(y, y_true)
    for tensor, grad, grad_true in zip(inputs, grads, grads_true, strict=True):
        assert grad.dtype == tensor.dtype
        close(grad, grad_true)
    for (name, buffer), expected in zip(ours.named_buffers(), oracle.buffers(), strict=True):
        if name == "num_batches_tracked":
            assert buffer == int(training)
        else:
            close(buffer, expected)
    if layout == "contiguous" or (layout.startswith("channels_last") and case in MAP_CASES):
        assert y.is_contiguous(memory_format=memory_format(layout))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_agrees_with_the_paper(case, dtype, backend):
    """The equation as printed, written out a second time with loops over the pools."""
    ours, _ = twins(case)
    ours.to(dtype)
    x = torch.randn(case.shape, dtype=dtype)
    with backend():
        close(ours(x), torch.from_numpy(by_the_paper(case, ours, x)))


@pytest.mark.parametrize("case", [case for case in CASES if case.remembers], ids=ids)
def test_evaluation_agrees_with_the_paper(case, backend):
    """Remembered statistics are constants: an affine map per channel."""
    ours, _ = twins(case)
    x = torch.randn(case.shape)
    mean, var, weight, bias = (
        t.detach().double().reshape((-1,) + (1,) * case.rank)
        for t in (ours.running_mean, ours.running_var, ours.weight, ours.bias)
    )
    with backend():
        close(ours.eval()(x), (x.double() - mean) / (var + ours.eps).sqrt() * weight + bias)


def test_every_public_layer_is_in_the_table_and_in_the_grid():
    modules = {v for v in vars(nw).values() if isinstance(v, type) and issubclass(v, nn.Module)}
    public = {v for v in modules if not issubclass(v, nn.modules.conv._ConvNd)}  # those normalize their weights
    public -= {nw.MomentShortcut}  # which puts back what another layer took away
    in_table = {cls for row in NORMALIZERS.values() for cls in row.layers.values()} - {nn.Identity}
    assert public == in_table
    # SyncBatchNorm needs several processes: its tests are elsewhere.
    with_twin = {cls for cls in public if hasattr(nn, cls.__name__)} - {getattr(nw, "SyncBatchNorm", None)}
    assert with_twin == {case.ours for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_is_a_subclass_of_torchs(case):
    """isinstance checks of the ecosystem (update_bn, parameter groups, freezing) keep working."""
    assert issubclass(case.ours, case.theirs)
    assert case.ours.__name__ == case.theirs.__name__


# One value along a dimension, a batch of one, primes: where strides and counts degenerate. In float64, because
# pools of two values make ill-conditioned gradients, and an index slip shows all the same.
ODD_SPACES = {1: [(1,), (13,)], 2: [(3, 2), (1, 1), (1, 11), (7, 1)], 3: [(2, 1, 3), (1, 1, 1), (1, 5, 1)]}


def _odd_cases():
    for case in MAP_CASES:
        for shape in [(n, 6, *space) for n in (1, 5) for space in ODD_SPACES.get(case.rank, [])]:
            for layout in [*{2: ["channels_last"], 3: ["channels_last_3d"]}.get(case.rank, []), "contiguous"]:
                if _smallest_pool(case, shape) > 1:
                    name = f"{case.id}-{'x'.join(map(str, shape))}-{layout}"
                    yield pytest.param(case._replace(shape=shape), layout, id=name)


def _smallest_pool(case, shape):
    positions = torch.Size(shape[2:]).numel()
    if case.family == "BatchNorm":
        return shape[0] * positions
    return positions * (shape[1] // case.args[0] if case.family == "GroupNorm" else 1)


@pytest.mark.parametrize(("case", "layout"), list(_odd_cases()))
def test_odd_shapes(case, layout, backend):
    ours, theirs = (layer.double() for layer in twins(case))
    x = LAYOUTS[layout](torch.randn(case.shape, dtype=torch.float64)).requires_grad_()
    cotangent = torch.randn(case.shape, dtype=torch.float64)
    with backend():
        y = ours(x)
    y_true = theirs(x)
    close(y, y_true, atol=1e-10)
    close(gradients(y, [x], cotangent)[0], gradients(y_true, [x], cotangent)[0], rtol=1e-8, atol=1e-8)
    for buffer, expected in zip(_statistics(ours), _statistics(theirs), strict=True):
        close(buffer, expected)
    assert y.is_contiguous(memory_format=memory_format(layout))


def _statistics(layer):
    return [buffer for name, buffer in layer.named_buffers() if name != "num_batches_tracked"]


@pytest.mark.parametrize("case", [case for case in MAP_CASES if case.rank in (2, 3)], ids=ids)
def test_gradients_lie_as_the_input_does(case):
    """Whatever lies upstream is channels_last, too, and would pay for a conversion."""
    layout = "channels_last" if case.rank == 2 else "channels_last_3d"
    x = LAYOUTS[layout](torch.randn(case.shape)).requires_grad_()
    with use_backend("reference"):
        y = case.build()(x)
    grad = gradients(y, [x], torch.randn(case.shape))[0]
    assert grad.is_contiguous(memory_format=memory_format(layout))
