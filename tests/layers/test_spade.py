"""SPADE against the equation in NumPy, convolutions included, and its authors' names."""

import copy

import numpy as np
import pytest
import torch
from layer_cases import LAYOUTS, gradients
from torch import nn
from torch.testing import assert_close

import normwise as nw

C, K, HIDDEN = 4, 3, 5
SHAPE, MAP = (2, C, 4, 6), (2, 8, 3)
INNER = ["instance", "batch"]
inner = pytest.mark.parametrize("norm", INNER)


def spade(norm="instance", **options):
    return nw.SPADE(C, K, norm, HIDDEN, **options)


def labels():
    return torch.randint(K, MAP)


def convolved(conv, x):
    """A convolution with zero padding, written out."""
    weight, bias = conv.weight.detach().double().numpy(), conv.bias.detach().double().numpy()
    size = weight.shape[-1]
    padded = np.pad(x, ((0, 0), (0, 0), (size // 2,) * 2, (size // 2,) * 2))
    y = np.empty((x.shape[0], weight.shape[0], *x.shape[2:]))
    for h, w in np.ndindex(x.shape[2:]):
        y[..., h, w] = np.einsum("nkij,okij->no", padded[..., h : h + size, w : w + size], weight) + bias
    return y


def by_the_paper(layer, x, segmentation):
    """norm(x)·(1 + γ(m)) + β(m), m resized by its nearest pixel, in float64."""
    values = x.detach().double().numpy()
    batch = isinstance(layer.param_free_norm, nn.BatchNorm2d)
    axes = (0, 2, 3) if batch else (2, 3)
    mean, var = values.mean(axes, keepdims=True), values.var(axes, keepdims=True)
    if batch and not layer.training:
        buffers = layer.param_free_norm.running_mean, layer.param_free_norm.running_var
        mean, var = (t.double().numpy()[:, None, None] for t in buffers)
    shares = np.eye(K)[segmentation.numpy()].transpose(0, 3, 1, 2)
    rows, columns = (
        np.arange(size) * source // size for size, source in zip(x.shape[2:], shares.shape[2:], strict=True)
    )
    shared = np.maximum(convolved(layer.mlp_shared[0], shares[:, :, rows][..., columns]), 0)
    gamma, beta = convolved(layer.mlp_gamma, shared), convolved(layer.mlp_beta, shared)
    return torch.from_numpy((values - mean) / np.sqrt(var + 1e-5) * (1 + gamma) + beta)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@inner
def test_agrees_with_the_paper(norm, kernel_size, training, backend):
    layer, x, m = spade(norm, kernel_size=kernel_size).train(training), torch.randn(SHAPE), labels()
    if norm == "batch":
        layer.param_free_norm.running_mean.normal_()
        layer.param_free_norm.running_var.uniform_(0.5, 1.5)
    expected = by_the_paper(layer, x, m)
    with backend():
        # Some 50 roundings of fp32 in the convolutions.
        assert_close(layer(x, m).double(), expected, rtol=1e-5, atol=1e-5)


def test_labels_are_one_hot_shares():
    layer, x, m = spade(), torch.randn(SHAPE), labels()
    one_hot = nn.functional.one_hot(m, K).movedim(-1, 1)
    assert_close(layer(x, m), layer(x, one_hot.float()))
    assert_close(layer(x, m.to(torch.uint8)), layer(x, one_hot.double()))


def test_without_prediction_it_is_the_inner_layer():
    for norm, plain in (("instance", nn.InstanceNorm2d(C)), ("batch", nn.BatchNorm2d(C, affine=False))):
        layer, x = spade(norm), torch.randn(SHAPE)
        for conv in (layer.mlp_gamma, layer.mlp_beta):
            nn.init.zeros_(conv.weight), nn.init.zeros_(conv.bias)
        assert_close(layer(x, labels()), plain(x))
        assert_close(dict(layer.param_free_norm.named_buffers()), dict(plain.named_buffers()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@inner
def test_dtype_and_layout(norm, layout, dtype):
    layer, x, m = spade(norm), LAYOUTS[layout](torch.randn(SHAPE)), labels()
    truth = copy.deepcopy(layer).double()(x.double(), m)
    y = layer.to(dtype)(x.to(dtype), m)
    assert y.dtype == dtype
    assert y.stride() == x.stride()
    # γ and β come from two convolutions in the narrow type: some roundings of its own each.
    assert_close(y.double(), truth, rtol=8 * torch.finfo(dtype).eps, atol=8 * torch.finfo(dtype).eps)


@inner
def test_derivatives_by_finite_differences(norm):
    layer = nw.SPADE(2, 2, norm, 2, activation="tanh").double()
    x, residual, shares = (torch.randn(2, 2, 3, 2, dtype=torch.float64, requires_grad=True) for _ in range(3))
    parameters = {name: p.detach().clone().requires_grad_() for name, p in layer.named_parameters()}

    def call(x, shares, residual, *tensors):
        state = dict(zip(parameters, tensors, strict=True))
        return torch.func.functional_call(copy.deepcopy(layer), state, (x, shares, residual))

    inputs = (x, shares, residual, *parameters.values())
    assert torch.autograd.gradcheck(call, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)


def test_residual_activation_and_mask(backend):
    layer, x, residual, m = spade(activation="silu"), torch.randn(SHAPE), torch.randn(SHAPE), labels()
    plain = spade()
    plain.load_state_dict(layer.state_dict())
    mask = torch.rand(2, 4, 6) < 0.7
    kept = mask.unsqueeze(1).expand_as(x)
    with backend():
        assert_close(layer(x, m, residual), nn.functional.silu(plain(x, m) + residual))
        y = layer(*(torch.where(kept, t, torch.nan) if t.shape == x.shape else t for t in (x, m, residual)), mask)
        zeros = layer(*(torch.where(kept, t, 0.0) if t.shape == x.shape else t for t in (x, m, residual)), mask)
    assert_close(y[kept], zeros[kept])
    cotangent = torch.where(kept, torch.randn(SHAPE), 0)
    for grad in gradients(y, list(layer.parameters()), cotangent):
        assert grad.isfinite().all()


def test_the_names_of_the_authors_checkpoints():
    names = {f"{part}.{kind}" for part in ("mlp_shared.0", "mlp_gamma", "mlp_beta") for kind in ("weight", "bias")}
    assert set(spade().state_dict()) == names
    buffers = {f"param_free_norm.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert set(spade("batch").state_dict()) == names | buffers
    assert isinstance(spade("sync").param_free_norm, nw.SyncBatchNorm)
    assert nw.SPADE(C, K).mlp_gamma.in_channels == 128


def test_its_memory_obeys_the_policies():
    layer, x, m = spade("batch"), torch.randn(SHAPE), labels()
    with nw.no_update(layer):
        layer(x, m)
    assert layer.param_free_norm.num_batches_tracked == 0
    nw.freeze(layer)
    assert_close(layer.train()(x, m), copy.deepcopy(layer).eval()(x, m))


def test_transforms():
    layer = spade("batch").double().eval()
    xs, maps = torch.randn(3, *SHAPE, dtype=torch.float64), torch.rand(3, 2, K, 8, 3, dtype=torch.float64)
    expected = torch.stack([layer(x, m) for x, m in zip(xs, maps, strict=True)])
    assert_close(torch.func.vmap(layer)(xs, maps), expected)
    m = labels()
    assert_close(torch.func.vmap(layer, in_dims=(0, None))(xs, m), torch.stack([layer(x, m) for x in xs]))


@pytest.mark.parametrize(
    ("segmentation", "error", "message"),
    [
        (torch.zeros(2, 8, 3).bool(), TypeError, r"labels or a floating tensor of weights, received torch\.bool"),
        (
            torch.zeros(2, 1, 8, 3).long(),
            ValueError,
            r"a label map must be \[N, h, w\], received \[2, 1, 8, 3\]; squeeze",
        ),
        (torch.full((2, 8, 3), 3), ValueError, r"labels must be 0 to 2 \(3 conditions\), received 3"),
        (
            torch.zeros(3, 8, 3).long(),
            ValueError,
            r"must be \[N, K, h, w\] = \[2, 3, h, w\] .*received .*\[3, 3, 8, 3\]",
        ),
        (torch.zeros(2, 4, 8, 3), ValueError, r"must be .*or labels \[2, h, w\], received .*\[2, 4, 8, 3\]"),
        (torch.zeros(2, 8, 3), ValueError, r"received a map \[N, K, h, w\] = \[2, 8, 3\]"),
    ],
)
def test_wrong_segmentations(segmentation, error, message):
    with pytest.raises(error, match=f"SPADE: .*{message}"):
        spade()(torch.randn(SHAPE), segmentation)


def test_other_errors():
    with pytest.raises(ValueError, match="SPADE: norm must be one of 'batch', 'sync', 'instance', received 'group'"):
        spade("group")
    with pytest.raises(ValueError, match="kernel_size must be odd to keep the map's size, received 4"):
        spade(kernel_size=4)
    with pytest.raises(ValueError, match=r"expected 4 channels in dimension 1, got input \[2, 5, 4, 6\]"):
        spade()(torch.randn(2, 5, 4, 6), labels())
    with pytest.raises(ValueError, match="residual must have the input's shape"):
        spade()(torch.randn(SHAPE), labels(), torch.randn(2, C, 1, 1))


@pytest.mark.parametrize("wrong", ["convolution", "residual", "segmentation"])
def test_a_call_that_fails_leaves_the_running_statistics(wrong):
    layer = nw.SPADE(4, 3, norm="batch")
    x, segmentation, residual = torch.randn(2, 4, 5, 5), torch.randn(2, 3, 5, 5), torch.randn(2, 4, 5, 5)
    if wrong == "convolution":
        layer.mlp_beta = torch.nn.Conv2d(7, 4, 3, padding=1)
    elif wrong == "residual":
        residual = residual[:1]
    else:
        segmentation = segmentation[:, :2]
    before = {name: t.clone() for name, t in layer.state_dict().items()}
    with pytest.raises((RuntimeError, ValueError)):
        layer(x, segmentation, residual=residual)
    assert all(torch.equal(t, before[name]) for name, t in layer.state_dict().items())
