"""swap on whole architectures, without special code: how many normalizers are swapped, and t = 0 is the old net."""

import pytest
import torch
from libraries import timm, torchvision
from surgery_nets import trained
from test_fold_architectures import PointNet, UNet, generator
from torch import nn

import normwise as nw

SMALL = {
    "U-Net": (UNet, (2, 3, 16, 16), 4),
    "generator": (generator, (2, 8, 1, 1), 2),
    "PointNet": (PointNet, (4, 3, 30), 3),
}
#: Swapped, and all that swap is about.
LIBRARIES = {
    "torchvision": {
        "resnet18": (20, 20),
        "resnet50": (53, 53),
        "regnet_y_400mf": (53, 53),
        "efficientnet_b0": (49, 49),
        "mobilenet_v3_small": (34, 34),
        "densenet121": (121, 121),
        "inception_v3": (96, 96),
    },
    "timm": {
        "regnety_002": (44, 44),
        "tf_efficientnet_b0": (49, 49),
        "resnetv2_50": (49, 49),
        "densenet121": (121, 121),
    },
}
QUICK = ("resnet18", "mobilenet_v3_small", "regnety_002")
NAMED = [
    pytest.param(library, name, marks=() if name in QUICK else pytest.mark.slow)
    for library, names in LIBRARIES.items()
    for name in names
]


def check(net, x, swapped, total):
    with torch.no_grad():
        before = net(x)
        change = nw.swap(net, "group")
        assert (sum(row.outcome == "swapped" for row in change.rows), len(change.rows)) == (swapped, total)
        torch.testing.assert_close(net(x), before, rtol=0, atol=0)
        change.advance(1.0)
        assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in change.finish().modules())
        assert net(x).isfinite().all()
        change.undo()
        torch.testing.assert_close(net(x), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", SMALL)
def test_small_nets(name):
    make, shape, count = SMALL[name]
    torch.manual_seed(0)
    check(trained(make()), torch.randn(shape), count, count)


@pytest.mark.parametrize(("library", "name"), NAMED)
def test_nets_of_libraries(library, name):
    torch.manual_seed(0)
    options = {"init_weights": False} if name == "inception_v3" else {}  # theirs takes long
    make = timm().create_model if library == "timm" else torchvision().models.get_model
    size = 96 if name == "inception_v3" else 64
    check(trained(make(name, **options)), torch.randn(2, 3, size, size), *LIBRARIES[library][name])


def test_a_layernorm_net_has_nothing_to_swap():
    with pytest.raises(ValueError, match="ConvNeXt has no BatchNorm, InstanceNorm or GroupNorm layer"):
        nw.swap(torchvision().models.convnext_tiny(), "group")
