"""LayerNorm2d and RMSNorm2d against the equations in NumPy, and against torch's layers on the permuted tensor."""

import copy

import numpy as np
import pytest
import torch
from layer_cases import LAYOUTS, gradients, randomize
from pixel_cases import SHAPES, TWIN, C, both
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import normwise as nw

# Values of size 1 to 10, pools of 6: some 20 roundings of fp32 (6e-8), more in the sums of gradients. Narrower
# results are computed in fp32 and rounded once, by half a unit in the last place.
TOLERANCE = {
    torch.float64: {"rtol": 1e-11, "atol": 1e-11},
    torch.float32: {"rtol": 1e-5, "atol": 2e-5},
    torch.bfloat16: {"rtol": 2**-8 * 1.01, "atol": 2e-5},
    torch.float16: {"rtol": 2**-11 * 1.01, "atol": 2e-5},
}
PRECISIONS = {
    "fp64": (torch.float64, torch.float64),
    "fp32": (torch.float32, torch.float32),
    "bf16": (torch.bfloat16, torch.bfloat16),
    "fp16": (torch.float16, torch.float16),
    "bf16-fp32": (torch.bfloat16, torch.float32),
}
GRID = [
    pytest.param(rank, layout, id=f"{rank}-{layout}")
    for rank, shape in SHAPES.items()
    for layout in LAYOUTS
    if {"channels_last": 4, "channels_last_3d": 5}.get(layout, len(shape)) == len(shape)
    and (rank, layout) != ("0d", "expanded")  # equal channels: the variance would be zero
]


def by_the_paper(layer, x):
    """Loops over the pixels in float64."""
    values = x.detach().double().numpy()
    weight = layer.weight.detach().double().numpy()
    bias = getattr(layer, "bias", None)
    bias = 0.0 if bias is None else bias.detach().double().numpy()
    y = np.empty_like(values)
    for n in range(values.shape[0]):
        for position in np.ndindex(values.shape[2:]):
            pixel = values[(n, slice(None), *position)]
            if isinstance(layer, nw.LayerNorm2d):
                pixel = pixel - pixel.sum() / C
            y[(n, slice(None), *position)] = weight * pixel / np.sqrt((pixel**2).sum() / C + layer.eps) + bias
    return torch.from_numpy(y)


def in_rows(layer, x):
    """torch's layer over the last dimension, in float64."""
    twin = TWIN[type(layer)](C, eps=layer.eps).double()
    twin.load_state_dict(layer.state_dict())
    return twin, twin(x.movedim(1, -1)).movedim(-1, 1)


@both
@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
@pytest.mark.parametrize(("rank", "layout"), GRID)
def test_agrees_with_the_paper(cls, rank, layout, grad, backend):
    layer = randomize(cls(C))
    x = LAYOUTS[layout](torch.randn(SHAPES[rank]))
    with backend(), torch.set_grad_enabled(grad):
        assert_close(layer(x).double(), by_the_paper(layer, x), **TOLERANCE[torch.float32])


@both
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("rank", "layout"), GRID)
def test_is_the_row_layer_on_the_permuted_tensor(cls, rank, layout, precision, backend):
    """Outputs, gradients, dtype and layout; the truth is torch.nn in float64 on the same rounded values."""
    dtype, parameter_dtype = PRECISIONS[precision]
    layer = randomize(cls(C)).to(parameter_dtype)
    x = LAYOUTS[layout](torch.randn(SHAPES[rank]).to(dtype)).requires_grad_()
    truth = x.detach().double().requires_grad_()
    cotangent = torch.randn(SHAPES[rank]).to(dtype)
    with backend():
        y = layer(x)
    twin, y_true = in_rows(layer, truth)
    grads = gradients(y, [x, *layer.parameters()], cotangent)
    grads_true = gradients(y_true, [truth, *twin.parameters()], cotangent)

    assert y.dtype == dtype
    assert_close(y.double(), y_true, **TOLERANCE[dtype])
    for tensor, grad, grad_true in zip([x, *layer.parameters()], grads, grads_true, strict=True):
        assert grad.dtype == tensor.dtype
        assert_close(grad.double(), grad_true, **TOLERANCE[grad.dtype])
    if layout in ("contiguous", "channels_last", "channels_last_3d"):
        assert y.stride() == x.stride()


class Operators(TorchDispatchMode):
    """The operators that run inside, by name."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.names.append(operator.name())
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
def test_channels_last_is_not_copied(grad):
    layer, x = nw.LayerNorm2d(C), LAYOUTS["channels_last"](torch.randn(SHAPES["2d"])).requires_grad_(grad)
    cotangent = LAYOUTS["channels_last"](torch.randn(SHAPES["2d"]))
    layer(x.detach())  # the first call compiles and checks the kernels
    with torch.set_grad_enabled(grad), Operators() as ran:
        y = layer(x)
        if grad:
            y.backward(cotangent)
    assert ran.names
    assert not {"aten::clone", "aten::copy_", "aten::_to_copy"} & set(ran.names)


@both
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_derivatives_by_finite_differences(cls, layout, backend):
    layer = randomize(cls(C, activation="tanh")).double()
    x = LAYOUTS[layout](torch.randn(2, C, 2, 1, dtype=torch.float64)).requires_grad_()
    residual = torch.randn(x.shape, dtype=torch.float64, requires_grad=True)
    parameters = {name: p.detach().clone().requires_grad_() for name, p in layer.named_parameters()}

    def call(x, residual, *tensors):
        return torch.func.functional_call(layer, dict(zip(parameters, tensors, strict=True)), (x, residual))

    with backend():
        assert torch.autograd.gradcheck(call, (x, residual, *parameters.values()))
        assert torch.autograd.gradgradcheck(call, (x, residual, *parameters.values()))


@both
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
def test_residual_and_activation(cls, layout, activation, backend):
    layer, plain = randomize(cls(C, activation=activation)), cls(C)
    plain.load_state_dict(layer.state_dict())
    x, residual = (LAYOUTS[layout](torch.randn(SHAPES["2d"])) for _ in range(2))
    with backend():
        y, z = layer(x, residual), plain(x) + residual
    assert y.stride() == x.stride()
    assert_close(y, z if activation is None else getattr(nn.functional, activation)(z))


@both
def test_padding_reaches_neither_statistics_nor_gradients(cls, backend):
    """Pixels do not see each other: what a mask or lengths exclude may even be NaN."""
    layer = randomize(cls(C))
    x, cotangent, lengths = torch.randn(3, C, 7), torch.randn(3, C, 7), torch.tensor([7, 2, 0])
    mask = torch.arange(7) < lengths.unsqueeze(1)
    kept = mask.unsqueeze(1).expand_as(x)
    padded = torch.where(kept, x, torch.nan)
    with backend():
        expected = layer(x)
        grads = gradients(expected, list(layer.parameters()), torch.where(kept, cotangent, 0))
        for given in ({"mask": mask}, {"lengths": lengths}):
            y = layer(padded, **given)
            assert_close(y[kept], expected[kept])
            assert_close(gradients(y, list(layer.parameters()), torch.where(kept, cotangent, 0)), grads)


@both
@pytest.mark.parametrize("offset", [1e3, 1e4])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
def test_data_far_from_zero_is_as_accurate_as_torchs(cls, offset, layout, grad, backend):
    layer = cls(64)
    x = LAYOUTS[layout](torch.randn(4, 64, 9, 9) + offset)
    truth = copy.deepcopy(layer).double()(x.double())
    theirs = TWIN[cls](64, eps=layer.eps)(x.movedim(1, -1)).movedim(-1, 1)
    with backend(), torch.set_grad_enabled(grad):
        error, their_error = ((t.double() - truth).square().mean().sqrt() for t in (layer(x), theirs))
    # Both round the mean to fp32 (and the quotient once more); the order of the sums differs.
    assert error <= 1.25 * their_error + 1e-7


@both
@pytest.mark.parametrize(
    ("shape", "layout"),
    [((0, C), "contiguous"), ((1, C, 1), "contiguous")]
    + [((*s[:1], C, *s[1:]), way) for s in [(1, 1, 1), (1, 3, 1), (0, 4, 4), (2, 0, 4)] for way in list(LAYOUTS)[:2]],
)
def test_odd_shapes(cls, shape, layout, backend):
    layer = randomize(cls(C))
    x = LAYOUTS[layout](torch.randn(shape)).requires_grad_()
    with backend():
        y = layer(x)
    assert y.shape == shape
    assert_close(y.double(), by_the_paper(layer, x), **TOLERANCE[torch.float32])
    inputs = [x, *layer.parameters()]
    for tensor, grad in zip(inputs, gradients(y, inputs, torch.ones(shape)), strict=True):
        assert grad.shape == tensor.shape
        assert x.numel() > 0 or not grad.any()


@both
def test_constant_pixels_and_zeros(cls, backend):
    """Variance 0: LayerNorm gives the bias; power 0: RMSNorm gives 0; nothing is infinite."""
    layer = randomize(cls(C))
    x = torch.full((2, C, 3), 3.7 if cls is nw.LayerNorm2d else 0.0, requires_grad=True)
    with backend():
        y = layer(x)
    expected = layer.bias if cls is nw.LayerNorm2d else torch.zeros(C)
    assert_close(y, expected.view(-1, 1).expand_as(y), rtol=0.0, atol=1e-3)
    assert gradients(y, [x], torch.randn(2, C, 3))[0].isfinite().all()


def test_one_channel():
    assert_close(nw.RMSNorm2d(1)(torch.tensor([[[-3.0, 2.0]]])), torch.tensor([[[-1.0, 1.0]]]))
    with pytest.raises(ValueError, match=r"LayerNorm2d\(1\): a single channel is its own mean.*GroupNorm\(1, 1\)"):
        nw.LayerNorm2d(1)
