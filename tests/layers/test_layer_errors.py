"""Bad input: a ValueError or TypeError that says what must hold, what came, and what to write instead."""

import pytest
import torch
from layer_cases import CASES, MAP_CASES, ONE_EACH, ids
from torch import nn

import normwise as nw
from normwise.backends import forced

FIXED_RANK = [case for case in CASES if case.family in ("BatchNorm", "InstanceNorm")]
ROW_CASES = [case for case in CASES if case not in MAP_CASES]


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (nw.BatchNorm1d(6), (6,), r"BatchNorm1d expected 2D or 3D input \[N, C\] or \[N, C, L\], got 1D input \[6\]"),
        (nw.BatchNorm1d(6), (2, 6, 3, 3), r"got 4D input \[2, 6, 3, 3\]; write BatchNorm2d"),
        (nw.BatchNorm2d(6), (2, 6), r"BatchNorm2d expected 4D input \[N, C, H, W\], got 2D input \[2, 6\]"),
        (nw.BatchNorm2d(6), (2, 6, 3), "got 3D input.*write BatchNorm1d for it"),
        (nw.BatchNorm2d(6), (2, 6, 3, 3, 3), "got 5D input.*write BatchNorm3d for it"),
        (nw.BatchNorm3d(6), (2, 6, 3, 3), r"expected 5D input \[N, C, D, H, W\].*write BatchNorm2d"),
        (nw.InstanceNorm1d(6), (6,), r"InstanceNorm1d expected 2D or 3D input \[C, L\] or \[N, C, L\]"),
        (nw.InstanceNorm2d(6), (2, 6), r"expected 3D or 4D input \[C, H, W\] or \[N, C, H, W\], got 2D"),
        (nw.InstanceNorm3d(6), (2, 6, 3), r"expected 4D or 5D input \[C, D, H, W\] or \[N, C, D, H, W\]"),
        (nw.GroupNorm(2, 6), (6,), r"GroupNorm expects \[N, C, \*space\], received 1-D \[6\]"),
        (
            nw.LayerNorm(6),
            (6, 5),
            r"expected input of shape \[\*, 6\], got \[6, 5\]; write LayerNorm\(\[5\]\), or move",
        ),
        (nw.LayerNorm((2, 6)), (6,), r"expected input of shape \[\*, 2, 6\], got \[6\]"),
        (nw.RMSNorm((2, 6)), (3, 6, 2), r"RMSNorm: expected input of shape \[\*, 2, 6\], got \[3, 6, 2\]"),
    ],
    ids=lambda v: None if isinstance(v, tuple) else str(v)[:40],
)
def test_wrong_rank_or_shape(layer, shape, message, backend):
    with backend(), pytest.raises(ValueError, match=message):
        layer(torch.randn(shape))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("case", MAP_CASES, ids=ids)
def test_wrong_number_of_channels(case, training, backend):
    """Without affine and running statistics, too, where torch only warns or takes it."""
    shape = (case.shape[0], 12, *case.shape[2:])
    layer = case.build().train(training)
    with (
        backend(),
        pytest.raises(ValueError, match=r"expected 6 channels in dimension 1, got input \[\d, 12.*write .*12"),
    ):
        layer(torch.randn(shape))


@pytest.mark.parametrize("case", [case for case in CASES if case.family == "InstanceNorm"], ids=ids)
def test_wrong_number_of_channels_of_an_unbatched_input(case):
    with pytest.raises(ValueError, match=r"expected 6 channels in dimension 0, got input \[5"):
        case.build()(torch.randn(5, *case.shape[2:]))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64])
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_not_floating(case, dtype, backend):
    x = torch.ones(case.shape).to(dtype)
    with (
        backend(),
        pytest.raises(TypeError, match=rf"{case.ours.__name__} expects a floating tensor, received {dtype}"),
    ):
        case.build()(x)


@pytest.mark.parametrize("case", ONE_EACH, ids=ids)
def test_not_a_tensor(case):
    with pytest.raises(TypeError, match=rf"{case.ours.__name__} expects a tensor, received list"):
        case.build()([1.0, 2.0])


@pytest.mark.parametrize("case", [case for case in CASES if case.family == "BatchNorm"], ids=ids)
def test_one_value_per_channel(case, backend):
    """In training, and in evaluation of a layer that remembers nothing; remembered statistics serve one value."""
    shape = (1, 6) + (1,) * case.rank
    layer = case.build()
    with backend():
        with pytest.raises(ValueError, match=r"Expected more than 1 value per channel when training.*larger batch"):
            layer(torch.randn(shape))
        if case.remembers:
            assert layer.num_batches_tracked == 0
            assert layer.eval()(torch.randn(shape)).shape == shape
        else:
            with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
                layer.eval()(torch.randn(shape))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("samples", [1, 8])
@pytest.mark.parametrize("case", [case for case in CASES if case.family == "InstanceNorm"], ids=ids)
def test_planes_of_one_value(case, samples, training, backend):
    x = torch.randn(samples, 6, *(1,) * case.rank)
    layer = case.build().train(training)
    with backend():
        if case.remembers and not training:
            assert layer(x).shape == x.shape
            return
        with pytest.raises(ValueError, match=r"InstanceNorm.*expected more than 1 value.*bias whatever the input is"):
            layer(x)


@pytest.mark.parametrize("samples", [1, 8])
@pytest.mark.parametrize("shape", [(6,), (6, 1, 1)])
def test_groups_of_one_value(samples, shape, backend):
    """torch.nn refuses it for a batch of one only, and returns the bias otherwise."""
    with (
        backend(),
        pytest.raises(ValueError, match=r"GroupNorm: expected more than 1 value in each group.*fewer groups"),
    ):
        nw.GroupNorm(6, 6)(torch.randn(samples, *shape))


@pytest.mark.parametrize(
    ("groups", "channels", "divisors"),
    [(5, 12, "1, 2, 3, 4, 6, 12"), (0, 4, "1, 2, 4"), (-1, 4, "1, 2, 4"), (8, 4, "4")],
)
def test_channels_not_divisible(groups, channels, divisors):
    message = rf"GroupNorm\(num_groups={groups}\): {channels} channels are not divisible.*of {channels}:.*{divisors}\."
    with pytest.raises(ValueError, match=message):
        nw.GroupNorm(groups, channels)


@pytest.mark.parametrize("case", ONE_EACH, ids=ids)
def test_activation_unknown(case):
    with pytest.raises(ValueError, match="Unknown activation 'swish'; the fused ones are: relu, relu6"):
        case.build(activation="swish")
    with pytest.raises(TypeError, match="activation must be None or a name such as 'relu', received ReLU"):
        case.build(activation=nn.ReLU())
    layer = case.build()
    layer.activation = "swish"
    with pytest.raises(ValueError, match="Unknown activation 'swish'"):
        layer(torch.randn(case.shape))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_residual_that_does_not_fit(case, masked, training, backend):
    """No broadcasting, no type but floating; and a refused batch is not remembered."""
    layer = case.build().train(training)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    x = torch.randn(case.shape)
    rows = case in ROW_CASES
    mask = torch.ones(case.shape if rows else (case.shape[0], *case.shape[2:])).bool() if masked else None
    with backend():
        for wrong in (x[:1], x[..., :1], x[None]):
            with pytest.raises(
                ValueError, match=r"residual must have the input's shape \[.*received \[.*expand it first"
            ):
                layer(x, wrong, mask)
        with pytest.raises(TypeError, match=r"residual expects a floating tensor, received torch\.int64"):
            layer(x, x.long(), mask)
        with pytest.raises(TypeError, match="residual expects a tensor, received float"):
            layer(x, 1.0, mask)
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("case", [case for case in CASES if case.family == "BatchNorm"], ids=ids)
def test_eps_not_positive(case, backend):
    layer = case.ours(*case.args)
    layer.eps = 0.0
    with backend(), pytest.raises(ValueError, match=r"eps must be positive in training, received 0\.0"):
        layer(torch.randn(case.shape))


@pytest.mark.parametrize("case", ONE_EACH, ids=ids)
def test_misspelt_arguments(case):
    with pytest.raises(TypeError, match="activaton"):
        case.ours(*case.args, activaton="relu")
    with pytest.raises(TypeError, match="residuals"):
        case.build()(torch.randn(case.shape), residuals=None)


def test_errors_leave_the_backend_choice_as_it_was():
    with (
        pytest.raises(ValueError, match=r"Unknown backend 'cuda'; the backends are: .*reference"),
        nw.use_backend("cuda"),
    ):
        pass
    with pytest.raises(ValueError, match="expected 6 channels"), nw.use_backend("reference"):
        nw.BatchNorm2d(6)(torch.randn(2, 3, 4, 4))
    x = torch.randn(2, 6, 4, 4)
    assert forced() is None
    nw.GroupNorm(2, 6)(x)
