"""`nets.resnet`: the orders of normalizer and ReLU, the initialization, the depths of the normalizer-free papers."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normwise.nets import count_macs, count_parameters, resnet


def relu_norm_conv(state, x, blocks, convolutions):
    """Pre-activation blocks whose normalizer (GroupNorm with 4 groups) stands behind the ReLU."""

    def norm(name, x):
        return F.group_norm(F.relu(x), 4, state[f"{name}.weight"], state[f"{name}.bias"])

    def conv(name, x, stride=1):
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    x = conv("stem.conv", x)
    for stage, count in enumerate(blocks, start=1):
        for block in range(count):
            at, whole = f"stages.stage{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = norm(f"{at}.norm1", x)
            shortcut = conv(f"{at}.shortcut", y, whole) if f"{at}.shortcut.weight" in state else x
            for i in range(1, convolutions + 1):
                y = y if i == 1 else norm(f"{at}.branch.norm{i}", y)
                y = conv(f"{at}.branch.conv{i}", y, whole if i == (2 if convolutions == 3 else 1) else 1)
            x = y + shortcut
    return F.linear(norm("head.norm", x).mean((2, 3)), state["classifier.weight"], state["classifier.bias"])


@pytest.mark.parametrize(("depth", "blocks", "convolutions"), [(14, (2, 2, 2), 2), (50, (3, 4, 6, 3), 3)])
def test_norm_after_relu_matches_a_transcription(depth, blocks, convolutions):
    options = {"preactivation": True, "norm_after_relu": True, "stem": "small", "width": 8}
    net = resnet(depth, "group:4", num_classes=5, **options).double()
    state = {name: nn.init.normal_(torch.empty_like(t), std=0.1) for name, t in net.state_dict().items()}
    net.load_state_dict(state)
    x = torch.randn(2, 3, 19, 16, dtype=torch.float64)
    torch.testing.assert_close(net(x), relu_norm_conv(state, x, blocks, convolutions))


def test_the_order_changes_nothing_else():
    torch.manual_seed(0)
    usual = resnet(8, preactivation=True)
    torch.manual_seed(0)
    other = resnet(8, preactivation=True, norm_after_relu=True)
    assert usual.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(usual.state_dict().values(), other.state_dict().values(), strict=True))


def test_norm_after_relu_is_for_preactivation():
    with pytest.raises(ValueError, match="add preactivation=True"):
        resnet(8, norm_after_relu=True)


@pytest.mark.parametrize("preactivation", [False, True])
@pytest.mark.parametrize("fan", ["fan_in", "fan_out"])
def test_he_initialization_over_the_fan(fan, preactivation):
    net = resnet(50, "none", preactivation=preactivation, fan=fan, num_classes=2)
    for conv in (m for m in net.modules() if isinstance(m, nn.Conv2d)):
        size = conv.in_channels if fan == "fan_in" else conv.out_channels
        std = (2 / (size * conv.kernel_size[0] ** 2)) ** 0.5
        assert conv.weight.std().item() == pytest.approx(std, rel=6 / conv.weight.numel() ** 0.5)


def test_unknown_fan():
    with pytest.raises(ValueError, match="the fan is 'fan_in' or 'fan_out'"):
        resnet(8, fan="in")


def test_without_normalizers_he_initialization_doubles_the_signal_with_every_block():
    """The second moment, since the plain network also moves the mean: x + branch, each of the same size."""
    net = resnet(50, "none", preactivation=True, fan="fan_in").double().eval()
    moments = []
    for stage in net.stages:
        for block in stage:
            block.register_forward_hook(lambda module, inputs, output: moments.append(output.square().mean().item()))
    with torch.no_grad():
        net(torch.randn(2, 3, 96, 96, dtype=torch.float64))
    assert 2**8 < moments[-1] / moments[0] < 2**20


# The published sizes of the NF-ResNets: a gain and a bias instead of BatchNorm's, and one more gain in each block.
@pytest.mark.parametrize(
    ("depth", "parameters", "blocks"), [(200, 64_673_898, 66), (288, 146_460_552, 96), (600, 300_646_896, 200)]
)
def test_depths_of_the_normalizer_free_papers(depth, parameters, blocks):
    with torch.device("meta"):
        assert count_parameters(resnet(depth, num_classes=1000)) == parameters - blocks


def test_macs_of_resnet50_are_the_published_ones():
    with torch.device("meta"):
        assert count_macs(resnet(50, num_classes=1000), (1, 3, 224, 224)) == pytest.approx(4.09e9, abs=5e6)
