"""`mask=` of LayerNorm and RMSNorm: statistics of each row over its valid features."""

import pytest
import torch
from layer_cases import CASES, gradients, ids, randomize
from torch.testing import assert_close

ROWS = [case for case in CASES if case.family in ("LayerNorm", "RMSNorm")]
PADDING = pytest.mark.parametrize("padding", [0.0, 1e30, torch.inf, torch.nan], ids=str)


@PADDING
@pytest.mark.parametrize("case", ROWS, ids=ids)
def test_rows_with_missing_features(case, padding, backend):
    """The mask has the input's shape: statistics of each row over its valid features."""
    layer = randomize(case.build()).double()
    mask = torch.rand(case.shape) < 0.6
    mask[..., :2] = True
    x = torch.randn(case.shape, dtype=torch.float64)
    x = x.masked_fill(~mask, padding).requires_grad_()
    with backend():
        y = layer(x, mask=mask)
    dims = tuple(range(-len(layer.normalized_shape), 0))
    values, count = x.masked_fill(~mask, 0), mask.sum(dims, keepdim=True)
    if case.family == "LayerNorm":
        values = (values - values.sum(dims, keepdim=True) / count).masked_fill(~mask, 0)
    eps = torch.finfo(torch.float64).eps if layer.eps is None else layer.eps
    truth = values / (values.square().sum(dims, keepdim=True) / count + eps).sqrt()
    truth = truth if layer.weight is None else truth * layer.weight
    truth = truth if getattr(layer, "bias", None) is None else truth + layer.bias
    assert_close(y.masked_fill(~mask, 0), truth.masked_fill(~mask, 0), rtol=1e-10, atol=1e-10)
    cotangent = torch.randn(case.shape, dtype=torch.float64) * mask
    inputs = [x, *layer.parameters()]
    assert_close(gradients(y, inputs, cotangent), gradients(truth, inputs, cotangent), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", ROWS, ids=ids)
def test_rows_of_padding_alone(case, backend):
    """Whole tokens are masked: the others are as ever, the padding's result is finite."""
    layer = randomize(case.build())
    x = torch.randn(case.shape, requires_grad=True)
    mask = torch.ones(*case.shape[: -len(layer.normalized_shape)], *[1] * len(layer.normalized_shape)).bool()
    mask[-1] = False
    with backend():
        y = layer(x, mask=mask)
        assert_close(y[:-1], layer(x)[:-1])
    assert torch.isfinite(y).all()
    assert torch.isfinite(gradients(y, [x], torch.randn(case.shape))[0]).all()


@pytest.mark.parametrize("case", ROWS, ids=ids)
def test_rows_refuse_a_mask_that_does_not_fit(case):
    x = torch.randn(case.shape)
    with pytest.raises(TypeError, match=r"mask must be a boolean tensor.*received torch\.float32"):
        case.build()(x, mask=torch.ones(case.shape))
    with pytest.raises(TypeError, match=r"mask must be a boolean tensor.*received list"):
        case.build()(x, mask=[True])
    for shape in ((2, *case.shape), (*case.shape[:-1], 3), (case.shape[-1] + 1,)):
        with pytest.raises(ValueError, match=r"mask must broadcast against the input \[.*received \["):
            case.build()(x, mask=torch.ones(shape, dtype=torch.bool))


@pytest.mark.parametrize("activation", ["gelu", "softplus"])
@pytest.mark.parametrize("case", ROWS, ids=ids)
def test_nothing_leaks_through_the_residual_and_the_activation(case, activation, backend):
    layer = randomize(case.build(activation=activation)).double()
    mask = torch.rand(case.shape) < 0.6
    mask[..., :2] = True
    x, residual, cotangent = torch.randn(3, *case.shape, dtype=torch.float64)
    results = []
    for padding in (0.0, torch.nan):
        inputs = [t.masked_fill(~mask, padding).requires_grad_() for t in (x, residual)]
        with backend():
            y = layer(*inputs, mask)
        grads = gradients(y, [*inputs, *layer.parameters()], cotangent * mask)
        results.append([y.masked_fill(~mask, 0), *grads])
    assert_close(results[1], results[0])
