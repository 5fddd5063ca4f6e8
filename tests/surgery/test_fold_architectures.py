"""fold on whole architectures, without special code: how many normalizers fold, and the error beside fp64."""

import pytest
import torch
from libraries import timm, torchvision
from surgery_nets import error, in_fp64, outcomes, reasons, trained
from torch import nn

import normwise as nw

#: Folded, and all. What stays has an activation, a sum or a concatenation in front of it.
TORCHVISION = {
    "resnet18": (20, 20),
    "mobilenet_v3_small": (34, 34),
    "densenet121": (59, 121),
    "resnet50": (53, 53),
    "regnet_y_400mf": (53, 53),
    "efficientnet_b0": (49, 49),
    "mobilenet_v2": (52, 52),
    "inception_v3": (94, 96),
    "googlenet": (57, 59),
    "shufflenet_v2_x0_5": (56, 56),
    "convnext_tiny": (0, 0),
}
TIMM = {
    "regnety_002": (44, 44),
    "tf_efficientnet_b0": (49, 49),
    "resnetv2_50": (32, 49),
    "repvgg_a0": (44, 61),
    "ghostnet_050": (80, 80),
    "mixnet_s": (15, 49),
    "hrnet_w18_small": (91, 91),
    "xception41p": (28, 40),
    "nf_resnet26": (0, 0),
}
QUICK = ("resnet18", "mobilenet_v3_small", "regnety_002", "resnetv2_50")


def named(names):
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in names]


def check(net, x, folded, total):
    result = nw.fold(net, x)
    states = list(outcomes(result).values())
    assert (states.count("folded"), len(states)) == (folded, total), reasons(result)
    assert all(reasons(result).values())
    with torch.no_grad():
        expected = in_fp64(net, x)
        assert error(result.model(x), expected) < 8 * error(net(x), expected) + 1e-6
    return result


@pytest.mark.parametrize("name", named(TORCHVISION))
def test_torchvision(name):
    torch.manual_seed(0)
    net = trained(
        torchvision().models.get_model(name, weights=None, **({"init_weights": False} if "n_v3" in name else {}))
    )
    size = 96 if name == "inception_v3" else 64
    check(net, torch.randn(2, 3, size, size), *TORCHVISION[name])


@pytest.mark.parametrize("name", named(TIMM))
def test_timm(name):
    torch.manual_seed(0)
    check(trained(timm().create_model(name)), torch.randn(2, 3, 64, 64), *TIMM[name])


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        block = lambda c, d: nn.Sequential(nn.Conv2d(c, d, 3, padding=1), nn.BatchNorm2d(d), nn.ReLU(inplace=True))  # noqa: E731
        self.down, self.middle, self.up = block(3, 8), block(8, 16), block(16, 8)
        self.grow = nn.Sequential(nn.ConvTranspose2d(16, 8, 2, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        skip = self.down(x)
        y = self.grow(self.middle(nn.functional.max_pool2d(skip, 2)))
        return self.head(self.up(torch.cat([y, skip], 1)))


class PointNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.points = nn.Sequential(
            nn.Conv1d(3, 16, 1), nn.BatchNorm1d(16), nn.ReLU(), nn.Conv1d(16, 32, 1), nn.BatchNorm1d(32)
        )
        self.head = nn.Sequential(nn.Linear(32, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x):
        return self.head(self.points(x).amax(-1))


def generator():
    parts = [nn.ConvTranspose2d(8, 16, 4), nn.BatchNorm2d(16), nn.ReLU(True)]
    parts += [nn.ConvTranspose2d(16, 8, 4, 2, 1, groups=4), nn.BatchNorm2d(8), nn.ReLU(True)]
    return nn.Sequential(*parts, nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Tanh())


class Recurrent(nn.Module):
    """As text recognizers are: an LSTM keeps a second list of its parameters."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.lstm = nn.LSTM(4, 5, bidirectional=True, batch_first=True)

    def forward(self, x):
        return self.lstm(self.features(x).mean(2).transpose(1, 2))[0]


@pytest.mark.parametrize(
    ("make", "shape", "total"),
    [(UNet, (2, 3, 16, 16), 4), (generator, (2, 8, 1, 1), 2), (PointNet, (4, 3, 30), 3), (Recurrent, (2, 1, 8, 9), 1)],
)
def test_small_nets_of_other_kinds(make, shape, total):
    torch.manual_seed(0)
    result = check(trained(make()), torch.randn(shape), total, total)
    assert result.bf16 is not None


def test_our_resnets_and_a_traced_model():
    torch.manual_seed(0)
    net, x = trained(nw.nets.resnet(18, "batch", 3, 10, "small")), torch.randn(2, 3, 32, 32)
    check(net, x, 20, 20)
    plain = trained(torchvision().models.resnet18(weights=None))
    check(torch.fx.symbolic_trace(plain), x, 20, 20)
