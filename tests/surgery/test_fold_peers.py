"""Where torch's own tools fold wrongly, or not at all: each defect shown there, and right here.

The yardstick is the untouched model in fp64.
"""

import copy
import warnings

import pytest
import torch
from surgery_nets import SharedConv, Twice, error, in_fp64, outcomes, trained
from torch import nn
from torch.nn.utils import fusion, parametrizations

import normwise as nw

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own import is deprecated
    import torch.fx.experimental.optimization as fx

IMAGES = (2, 3, 8, 8)
FINE = 1e-5
WRONG = 1e-2


def hooked():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    net[0].register_forward_hook(lambda module, args, output: output + 1)
    return net


def right(net, x, **options):
    result = nw.fold(net, x, **options)
    with torch.no_grad():
        assert error(result.model(x), in_fp64(net, x)) < FINE
    return result


@pytest.mark.parametrize(
    ("make", "shape", "kept"),
    [
        (lambda: nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)), (4, 8, 8), "1"),
        (SharedConv, IMAGES, "bn1"),
        (Twice, (2, 4, 8, 8), "bn"),
        (hooked, IMAGES, "1"),
    ],
    ids=["linear-over-another-dimension", "two-normalizers", "called-twice", "hook"],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fx_fuse_is_silently_wrong(make, shape, kept):
    torch.manual_seed(0)
    net = trained(make())
    x = torch.randn(shape)
    expected = in_fp64(net, x)
    with torch.no_grad():
        assert error(fx.fuse(copy.deepcopy(net))(x), expected) > WRONG
    assert outcomes(right(net, x))[kept] == "kept"


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 3), nn.BatchNorm2d(4)), IMAGES),
        (lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1)), IMAGES),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True, track_running_stats=True)),
            IMAGES,
        ),
        (lambda: nn.Sequential(parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)), IMAGES),
        (lambda: nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)), IMAGES),
    ],
    ids=["transposed", "behind", "tracked-instance", "spectral", "weight"],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fx_fuse_skips_what_can_be_folded(make, shape):
    torch.manual_seed(0)
    net = trained(make())
    norms = (nn.BatchNorm2d, nn.InstanceNorm2d)
    assert any(isinstance(module, norms) for module in fx.fuse(copy.deepcopy(net)).modules())
    x = torch.randn(shape)
    result = right(net, x)
    assert set(outcomes(result).values()) == {"folded"}
    assert not any(isinstance(module, norms) for module in result.model.modules())


def test_fuse_conv_bn_eval_fails_on_a_grouped_transposed_convolution():
    torch.manual_seed(0)
    net = trained(nn.Sequential(nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), nn.BatchNorm2d(6)))
    x = torch.randn(2, 4, 5, 5)
    with pytest.raises(RuntimeError):
        fusion.fuse_conv_bn_eval(net[0], net[1], transpose=True)
    assert outcomes(right(net, x)) == {"1": "folded"}


def test_fuse_conv_bn_eval_is_wrong_where_transpose_is_forgotten():
    torch.manual_seed(0)
    net = trained(nn.Sequential(nn.ConvTranspose2d(4, 4, 3), nn.BatchNorm2d(4)))
    x = torch.randn(2, 4, 5, 5)
    with torch.no_grad():
        assert error(fusion.fuse_conv_bn_eval(net[0], net[1])(x), in_fp64(net, x)) > WRONG
    assert outcomes(right(net, x)) == {"1": "folded"}


def test_fuse_conv_bn_eval_drops_an_activation():
    torch.manual_seed(0)
    net = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nw.BatchNorm2d(4, activation="relu")))
    x = torch.randn(IMAGES)
    result = right(net, x)
    assert outcomes(result) == {"1": "folded"}
    assert isinstance(result.model[1], nn.ReLU)
