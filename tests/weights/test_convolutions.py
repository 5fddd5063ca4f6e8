"""The convolution classes against torch's with weights standardized in NumPy."""

import copy
import io

import pytest
import torch
from standardized_by_the_paper import per_unit, scaled_by_the_paper, ws_by_the_paper
from torch import nn
from torch.testing import assert_close

from normwise.core.activations import gain as activation_gain
from normwise.weights import (
    ScaledWSConv1d,
    ScaledWSConv2d,
    ScaledWSConv3d,
    WSConv1d,
    WSConv2d,
    WSConv3d,
    scaled_weight_standardization,
    weight_standardization,
)

CONVS = [WSConv1d, WSConv2d, WSConv3d, ScaledWSConv1d, ScaledWSConv2d, ScaledWSConv3d]
PLAIN = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
every_conv = pytest.mark.parametrize("conv", CONVS, ids=lambda c: c.__name__)


def rank_of(conv):
    return int(conv.__name__[-2])


def build(conv, *args, **options):
    """A convolution with a bias and a gain that are not the initial ones."""
    layer = conv(*args, **options)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name in ("bias", "gain"):
                parameter.copy_(torch.rand_like(parameter) + 0.5)
    return layer


@every_conv
@pytest.mark.parametrize("options", [{}, {"groups": 2}, {"stride": 2, "padding": 1, "dilation": 2}], ids=str)
@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect"])
def test_convolution_classes_are_torchs_with_another_weight(conv, options, mode):
    rank = rank_of(conv)
    layer = build(conv, 4, 6, 3, **options, padding_mode=mode)
    x = torch.randn(2, 4, *(7, 6, 5)[:rank])
    rule = scaled_by_the_paper(layer.gain.detach().double().numpy()) if hasattr(layer, "gain") else ws_by_the_paper
    plain = PLAIN[rank](4, 6, 3, **options, padding_mode=mode).double()
    with torch.no_grad():
        plain.weight.copy_(torch.from_numpy(per_unit(layer.weight, layer, rule)))
        plain.bias.copy_(layer.bias)
    assert_close(layer(x).double(), plain(x.double()), rtol=1e-5, atol=1e-5)
    assert isinstance(layer, PLAIN[rank])


@every_conv
def test_classes_and_parametrizations_agree(conv):
    rank = rank_of(conv)
    layer = build(conv, 4, 6, 3, padding=1)
    plain = PLAIN[rank](4, 6, 3, padding=1)
    with torch.no_grad():
        plain.weight.copy_(layer.weight)
        plain.bias.copy_(layer.bias)
    parametrize = scaled_weight_standardization if hasattr(layer, "gain") else weight_standardization
    parametrized = parametrize(plain)
    if hasattr(layer, "gain"):
        parametrized.parametrizations.weight[0].gain.data.copy_(layer.gain)
    x = torch.randn(2, 4, *(5, 6, 5)[:rank])
    assert_close(layer(x), parametrized(x), rtol=0, atol=0)


@pytest.mark.parametrize("conv", CONVS[:3], ids=lambda c: c.__name__)
def test_ws_convolutions_start_and_save_as_torchs(conv):
    rank = rank_of(conv)
    torch.manual_seed(3)
    ours = conv(4, 6, 3, bias=False)
    torch.manual_seed(3)
    theirs = PLAIN[rank](4, 6, 3, bias=False)
    assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    ours.load_state_dict(theirs.state_dict())
    assert ours.bias is None
    assert repr(ours) == repr(theirs).replace("Conv", "WSConv")[:-1] + ", eps=1e-05)"


@pytest.mark.parametrize("conv", CONVS[3:], ids=lambda c: c.__name__)
def test_scaled_convolutions_start_as_the_official_code(conv):
    layer = conv(64, 48, 3, groups=2, bias=False)
    assert list(layer.state_dict()) == ["weight", "bias", "gain"]
    assert_close(layer.bias.detach(), torch.zeros(48), rtol=0, atol=0)
    assert_close(layer.gain.detach(), torch.ones(48), rtol=0, atol=0)
    fan_in = layer.weight[0].numel()
    assert layer.weight.std().item() == pytest.approx(fan_in**-0.5, rel=0.05)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(3.0)
    layer.reset_parameters()
    assert layer.gain.unique().tolist() == [1.0]
    assert layer.bias.unique().tolist() == [0.0]
    assert "bias=False" not in repr(layer)
    assert "gamma=1, eps=0.0001" in repr(layer)
    assert conv(4, 4, 3, gamma="silu").gamma == activation_gain("silu")


def test_scaled_ws_preserves_variance_and_removes_the_mean():
    layer = ScaledWSConv2d(64, 256, 3, gamma="relu")
    x = torch.randn(4, 64, 20, 20).relu()
    y = layer(x)
    assert y.var().item() == pytest.approx(1.0, rel=0.05)
    assert y.mean().abs() < 0.02
    # The same He-initialized: the mean of a ReLU leaks into every channel (the mean shift of the paper).
    plain = nn.Conv2d(64, 256, 3)
    nn.init.kaiming_normal_(plain.weight)
    assert (plain(x).mean((0, 2, 3)) ** 2).mean() > 10 * (y.mean((0, 2, 3)) ** 2).mean()


@every_conv
def test_autocast_standardizes_in_fp32(conv):
    layer = build(conv, 4, 6, 3)
    expected = layer.standardized(layer.weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(layer.standardized(layer.weight), expected, rtol=0, atol=0)
        assert layer(torch.randn(2, 4, *(5,) * rank_of(conv))).dtype == torch.bfloat16


@every_conv
def test_unbatched_channels_last_copies_and_pickles(conv):
    rank = rank_of(conv)
    layer = build(conv, 4, 6, 3)
    x = torch.randn(2, 4, *(5, 6, 5)[:rank])
    y = layer(x)
    assert_close(layer(x[0]), y[0], rtol=1e-5, atol=1e-5)
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(layer), torch.load(buffer, weights_only=False)):
        assert_close(twin(x), y, rtol=0, atol=0)
    if rank > 1:
        layout = torch.channels_last if rank == 2 else torch.channels_last_3d
        last = layer.to(memory_format=layout)(x.to(memory_format=layout))
        assert last.is_contiguous(memory_format=layout)
        assert_close(last, y, rtol=1e-5, atol=1e-5)


@every_conv
def test_meta_device_and_dtype_arguments(conv):
    layer = conv(4, 6, 3, device="meta", dtype=torch.float64)
    assert {p.device.type for p in layer.parameters()} == {"meta"}
    assert {p.dtype for p in layer.parameters()} == {torch.float64}
