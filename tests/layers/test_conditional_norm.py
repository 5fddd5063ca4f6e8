"""Conditional instance and batch normalization against the equations in NumPy and the plain layers."""

import copy

import pytest
import torch
from conditional_cases import BATCH, EVERY, INSTANCE, LABELS, PLAIN, SHAPES, WEIGHTS, C, K, both, by_the_paper, trained
from layer_cases import LAYOUTS, gradients
from torch import nn
from torch.testing import assert_close

import normwise as nw

# Values of size 1 to 10, pools of at most 60: some 30 roundings of fp32; narrower results are rounded once more.
TOLERANCE = {
    torch.float64: {"rtol": 1e-11, "atol": 1e-11},
    torch.float32: {"rtol": 1e-5, "atol": 3e-5},
    torch.bfloat16: {"rtol": 2**-8 * 1.01, "atol": 3e-5},
    torch.float16: {"rtol": 2**-11 * 1.01, "atol": 3e-5},
}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("condition", [LABELS, WEIGHTS], ids=["labels", "weights"])
@pytest.mark.parametrize(("cls", "shape"), EVERY)
def test_agrees_with_the_paper(cls, shape, condition, training, backend):
    layer, x = trained(cls).train(training), torch.randn(shape)
    expected = by_the_paper(layer, x, condition)
    with backend():
        assert_close(layer(x, condition).double(), expected, **TOLERANCE[torch.float32])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed"])
@both
def test_values_and_gradients_in_every_precision(cls, layout, dtype, backend):
    """The truth: the plain layer of torch in float64, and the affine map written out."""
    layer = trained(cls).to(dtype)
    x = LAYOUTS[layout](torch.randn(SHAPES[2]).to(dtype)).requires_grad_()
    cotangent = torch.randn(SHAPES[2]).to(dtype)
    with backend():
        y = layer(x, LABELS)
    found = gradients(y, [x, layer.weight, layer.bias], cotangent)

    leaves = [t.detach().double().requires_grad_() for t in (x, layer.weight, layer.bias)]
    plain = nn.functional.batch_norm if cls is nw.ConditionalBatchNorm2d else nn.functional.instance_norm
    normalized = plain(leaves[0], None, None, None, None, True)
    y_true = normalized * leaves[1][LABELS][..., None, None] + leaves[2][LABELS][..., None, None]
    assert y.dtype == dtype
    if layout != "transposed":
        assert y.stride() == x.stride()
    assert_close(y.double(), y_true, **TOLERANCE[dtype])
    for grad, expected in zip(found, gradients(y_true, leaves, cotangent), strict=True):
        assert grad.dtype == dtype
        assert_close(grad.double(), expected, **TOLERANCE[dtype])


@pytest.mark.parametrize(("cls", "shape"), EVERY)
def test_one_condition_is_the_plain_layer(cls, shape, backend):
    ours, theirs = cls(C, 1), PLAIN[cls](C)
    x, labels = torch.randn(shape), torch.zeros(4, dtype=torch.long)
    for training in (True, False):
        with backend():
            assert_close(ours.train(training)(x, labels), theirs.train(training)(x), rtol=1e-5, atol=1e-5)
    assert_close(dict(ours.named_buffers()), dict(theirs.named_buffers()))


@both
def test_labels_are_one_hot_weights(cls):
    layer, x = trained(cls), torch.randn(SHAPES[2])
    one_hot = nn.functional.one_hot(LABELS, K).float()
    assert_close(layer(x, LABELS), layer(x, one_hot))
    for kind in (torch.uint8, torch.int32):
        assert torch.equal(layer(x, LABELS.to(kind)), layer(x, LABELS))
    assert torch.equal(layer(x, one_hot.double()), layer(x, one_hot))


@both
def test_a_fresh_layer(cls):
    layer = cls(C, K)
    assert_close(layer.weight.detach(), torch.ones(K, C))
    assert_close(layer.bias.detach(), torch.zeros(K, C))
    with torch.no_grad():
        layer.weight.normal_()
    layer.reset_parameters()
    assert_close(layer.weight.detach(), torch.ones(K, C))
    assert layer.double().weight.dtype == torch.float64


@pytest.mark.parametrize("condition", [LABELS, WEIGHTS.double()], ids=["labels", "weights"])
@both
def test_derivatives_by_finite_differences(cls, condition):
    layer = trained(cls, activation="tanh").double()
    x, residual = (torch.randn(4, C, 2, 1, dtype=torch.float64, requires_grad=True) for _ in range(2))
    tables = [t.detach().clone().requires_grad_() for t in (layer.weight, layer.bias)]
    given = condition.clone().requires_grad_() if condition.is_floating_point() else condition

    def call(x, residual, weight, bias, *weights):
        state = {"weight": weight, "bias": bias}
        return torch.func.functional_call(copy.deepcopy(layer), state, (x, weights[0] if weights else given, residual))

    inputs = (x, residual, *tables, *([given] if given.is_floating_point() else []))
    assert torch.autograd.gradcheck(call, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)


@both
def test_residual_activation_and_mask(cls, backend):
    """What lies under the mask changes nothing else; statistics are those of the values that remain."""
    layer = trained(cls, activation="silu")
    plain = trained(cls)
    plain.load_state_dict(layer.state_dict())
    x, residual, mask = torch.randn(SHAPES[2]), torch.randn(SHAPES[2]), torch.rand(4, 3, 5) < 0.7
    with backend():
        assert_close(layer(x, LABELS, residual), nn.functional.silu(plain(x, LABELS) + residual))
        kept = mask.unsqueeze(1).expand_as(x)
        y = copy.deepcopy(plain)(torch.where(kept, x, torch.nan), LABELS, mask=mask)
    unbiased = nw.functional.batch_norm if cls is nw.ConditionalBatchNorm2d else nw.functional.instance_norm
    expected, _ = unbiased(x, None, plain.weight[LABELS], plain.bias[LABELS], mask=mask)
    assert_close(y[kept], expected[kept])


def test_lengths():
    for cls in (INSTANCE[1], BATCH[1]):
        layer, x = trained(cls), torch.randn(SHAPES[1])
        lengths = torch.tensor([7, 3, 5, 2])
        mask = torch.arange(7) < lengths.unsqueeze(1)
        assert_close(copy.deepcopy(layer)(x, LABELS, lengths=lengths), layer(x, LABELS, mask=mask))


@both
def test_empty_batch_and_far_data(cls, backend):
    layer = trained(cls)
    empty = torch.zeros(0, C, 3, 5, requires_grad=True)
    with backend():
        y = layer(empty, LABELS[:0])
        assert y.shape == empty.shape
        assert not gradients(y, [layer.weight], torch.zeros(y.shape))[0].any()
        x = torch.randn(SHAPES[2]) + 1e4
        expected = by_the_paper(layer, x, LABELS)
        assert_close(layer(x, LABELS).double(), expected, **TOLERANCE[torch.float32])


@both
@pytest.mark.parametrize(
    ("condition", "error", "message"),
    [
        (LABELS[:3], ValueError, r"labels must be \[N\] = \[4\], received \[3\]"),
        (LABELS.unsqueeze(1), ValueError, r"labels must be \[N\] = \[4\], received \[4, 1\]"),
        (
            WEIGHTS[:3],
            ValueError,
            r"weights must be \[N, conditions\] = \[4, 3\], received \[3, 3\]; labels are an int",
        ),
        (WEIGHTS[:, :2], ValueError, r"weights must be .* received \[4, 2\]"),
        (LABELS.float(), ValueError, r"weights must be .* received \[4\]; labels are an integer tensor"),
        (torch.tensor([0, 1, 2, 3]), ValueError, r"labels must be 0 to 2 \(3 conditions\), received 3"),
        (torch.tensor([0, 1, -1, 2]), ValueError, r"labels must be 0 to 2 \(3 conditions\), received -1"),
        (LABELS > 0, TypeError, r"integer tensor of labels or a floating tensor of weights, received torch\.bool"),
        (LABELS.to(torch.complex64), TypeError, r"received torch\.complex64"),
        ([0, 1, 2, 0], TypeError, "received list"),
        (None, TypeError, "received NoneType"),
    ],
)
def test_wrong_conditions(cls, condition, error, message):
    with pytest.raises(error, match=f"{cls.__name__}: .*{message}"):
        cls(C, K)(torch.randn(SHAPES[2]), condition)


@both
def test_other_errors(cls):
    with pytest.raises(ValueError, match=f"{cls.__name__}: num_conditions must be at least 1, received 0"):
        cls(C, 0)
    with pytest.raises(ValueError, match=r"expected 5 channels in dimension 1, got input \[4, 6, 3, 5\]"):
        cls(C, K)(torch.randn(4, 6, 3, 5), LABELS)
    with pytest.raises(ValueError, match=r"expected 4D input \[N, C, H, W\], got 3D"):
        cls(C, K)(torch.randn(4, C, 3), LABELS)
    with pytest.raises(ValueError, match="xpected more than 1 value"):
        cls(C, K)(torch.randn(1, C, 1, 1), LABELS[:1])
    with pytest.raises(ValueError, match=r"labels must be 0 to 2 .* received 7"):
        cls(C, K).fold(7)
    with pytest.raises(ValueError, match=r"weights must be \[N, conditions\] = \[1, 3\], received \[1, 2\]"):
        cls(C, K).fold(torch.ones(2))
    with pytest.raises(TypeError, match="unexpected keyword argument 'afine'"):
        cls(C, K, afine=True)


@pytest.mark.parametrize("name", ["conditional-instance", "conditional-batch", "adaptive-instance", "spade"])
def test_no_net_can_use_them_by_name(name):
    with pytest.raises(ValueError, match=rf"'{name}' takes (labels|style|segmentation) in forward besides x"):
        nw.make_norm(name, 8)
