"""`nets.resnet` against published sizes, an independent transcription, and torchvision where it is installed."""

import pytest
import torch
from libraries import torchvision
from torch import nn
from torch.nn import functional as F

from normwise.layers import NORMALIZERS, FilterResponseNorm2d, GroupNorm
from normwise.nets import resnet
from normwise.nets.resnet import PostActivationBlock

# "sync" needs a process group.
MAP_NORMS = [name for name, row in NORMALIZERS.items() if row.for_channels and name != "sync"]


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


# torchvision's published counts at 1000 classes; 50 with pre-activation: the BatchNorm v2 net of 2101.08692.
@pytest.mark.parametrize(
    ("depth", "preactivation", "count"),
    [
        (18, False, 11_689_512),
        (34, False, 21_797_672),
        (50, False, 25_557_032),
        (101, False, 44_549_160),
        (152, False, 60_192_808),
        (50, True, 25_549_352),
    ],
)
def test_published_parameter_counts(depth, preactivation, count):
    with torch.device("meta"):
        assert parameters(resnet(depth, num_classes=1000, preactivation=preactivation)) == count


@pytest.mark.parametrize("depth", [8, 14, 20, 32, 44, 56, 110])
def test_parameter_count_of_the_small_form(depth):
    n, expected, inputs = (depth - 2) // 6, 3 * 16 * 9 + 2 * 16, 16
    for width in (16, 32, 64):
        convolutions = 9 * inputs * width + (2 * n - 1) * 9 * width * width
        projection = inputs * width + 2 * width if inputs != width else 0
        expected += convolutions + 2 * n * 2 * width + projection
        inputs = width
    with torch.device("meta"):
        assert parameters(resnet(depth)) == expected + 65 * 10


def test_resnet20_has_the_papers_size():
    assert parameters(resnet(20)) == pytest.approx(0.27e6, rel=0.02)


def group_norm(state, name, x, groups):
    return F.group_norm(x, groups(x.shape[1]), state[f"{name}.weight"], state[f"{name}.bias"])


def transcription(state, x, depth_blocks, convolutions, preactivation, groups):
    """The forward pass from the papers' figures, on the tensors alone."""

    def conv(name, x, stride=1):
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def norm(name, x):
        return group_norm(state, name, x, groups)

    x = conv("stem.conv", x)
    x = x if preactivation else F.relu(norm("stem.norm", x))
    for stage, blocks in enumerate(depth_blocks, start=1):
        for block in range(blocks):
            at = f"stages.stage{stage}.{block}"
            strides = [2 if stage > 1 and block == 0 and i == (convolutions == 3) else 1 for i in range(convolutions)]
            shrink = 2 if 2 in strides else 1
            if preactivation:
                first = F.relu(norm(f"{at}.norm1", x))
                skip = conv(f"{at}.shortcut", first, shrink) if f"{at}.shortcut.weight" in state else x
                y = conv(f"{at}.branch.conv1", first, strides[0])
                for i in range(2, convolutions + 1):
                    y = conv(f"{at}.branch.conv{i}", F.relu(norm(f"{at}.branch.norm{i}", y)), strides[i - 1])
                x = y + skip
            else:
                skip = x
                if f"{at}.shortcut.conv.weight" in state:
                    skip = norm(f"{at}.shortcut.norm", conv(f"{at}.shortcut.conv", x, shrink))
                y = x
                for i in range(1, convolutions + 1):
                    y = norm(f"{at}.branch.norm{i}", conv(f"{at}.branch.conv{i}", y, strides[i - 1]))
                    y = F.relu(y) if i < convolutions else y
                x = F.relu(y + skip)
    if preactivation:
        x = F.relu(norm("head.norm", x))
    return F.linear(x.mean(dim=(2, 3)), state["classifier.weight"], state["classifier.bias"])


@pytest.mark.parametrize("preactivation", [False, True])
@pytest.mark.parametrize(
    ("depth", "blocks", "convolutions"), [(14, (2, 2, 2), 2), (18, (2, 2, 2, 2), 2), (50, (3, 4, 6, 3), 3)]
)
def test_forward_matches_an_independent_transcription(depth, blocks, convolutions, preactivation):
    net = resnet(depth, "group:4", num_classes=5, stem="small", preactivation=preactivation, width=8).double()
    state = {name: nn.init.normal_(torch.empty_like(t), std=0.1) for name, t in net.state_dict().items()}
    net.load_state_dict(state)
    x = torch.randn(2, 3, 19, 16, dtype=torch.float64)
    expected = transcription(state, x, blocks, convolutions, preactivation, groups=lambda channels: 4)
    torch.testing.assert_close(net(x), expected)


@pytest.mark.parametrize("depth", [18, 50])
def test_forward_matches_torchvision(depth):
    theirs = torchvision().models.get_model(f"resnet{depth}", weights=None).eval()
    ours = resnet(depth, num_classes=1000).eval()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x = torch.randn(2, 3, 97, 65)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("preactivation", [False, True])
@pytest.mark.parametrize("norm", MAP_NORMS)
def test_every_normalizer_starts_from_the_same_weights_and_gets_gradients(norm, preactivation):
    def built(name):
        torch.manual_seed(3)
        return resnet(8, name, in_channels=1, preactivation=preactivation)

    net, other = built(norm), built("group").state_dict()
    shared = [name for name in net.state_dict() if "norm" not in name and not name.endswith("conv.bias")]
    weights = [name for name in shared if name.endswith("weight")]
    assert len(weights) == 10  # 7 convolutions of the path, 2 projections, the classifier
    for name in weights:
        assert torch.equal(net.state_dict()[name], other[name]), name
    F.cross_entropy(net(torch.randn(4, 1, 8, 8)), torch.arange(4)).backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


ACTIVATING = {
    "evo-b0": "evo-b0",
    "evo-s0": "evo-s0",
    "frn with its threshold": FilterResponseNorm2d,
    "fused relu": lambda channels: GroupNorm(2, channels, activation="relu"),
}


@pytest.mark.parametrize("preactivation", [False, True])
@pytest.mark.parametrize("norm", ACTIVATING.values(), ids=ACTIVATING)
def test_no_relu_behind_a_normalizer_that_activates(norm, preactivation):
    net = resnet(8, norm, in_channels=1, preactivation=preactivation)
    assert not any(isinstance(module, nn.ReLU) for module in net.modules())
    assert any(isinstance(module, nn.ReLU) for module in resnet(8, "filter-response", in_channels=1).modules())


@pytest.mark.parametrize("preactivation", [False, True])
def test_a_fused_relu_is_the_relu_it_replaces(preactivation):
    def fused(channels):
        return GroupNorm(2, channels, activation="relu")

    state = resnet(8, "group:2", in_channels=1, preactivation=preactivation).state_dict()
    net, plain = (resnet(8, norm, in_channels=1, preactivation=preactivation) for norm in (fused, "group:2"))
    net.load_state_dict(state)
    plain.load_state_dict(state)
    if not preactivation:  # the last normalizer of a branch and of a shortcut has no ReLU behind it
        for module in net.modules():
            if isinstance(module, PostActivationBlock):
                module.branch.norm2.activation = None
                if not isinstance(module.shortcut, nn.Identity):
                    module.shortcut.norm.activation = None
    x = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(net(x), plain(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("preactivation", [False, True])
def test_only_nets_without_a_normalizer_have_convolution_biases(preactivation):
    for norm, has_bias in (("batch", False), ("none", True), (lambda c: nn.Identity(), True)):
        net = resnet(14, norm, preactivation=preactivation)
        biases = [m.bias for m in net.modules() if isinstance(m, nn.Conv2d)]
        assert all((bias is not None) == has_bias for bias in biases)
        assert not any(bias.any() for bias in biases if bias is not None)


def test_post_activation_blocks_start_as_their_shortcut():
    net = resnet(14, "instance").eval()
    block = net.stages.stage1[1]
    x = torch.rand(2, 16, 8, 8)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("preactivation", [False, True])
def test_every_branch_is_alive_after_one_step(preactivation):
    """A zero weight in front of a ReLU would leave a branch without gradient for ever."""
    net = resnet(8, "group", preactivation=preactivation)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    x, y = torch.randn(8, 3, 8, 8), torch.arange(8)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    convolutions = [m.weight for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert all(weight.grad.abs().max() > 0 for weight in convolutions)


def test_convolutions_have_he_variance():
    weight = resnet(18, num_classes=2).stages.stage4[0].branch.conv2.weight
    assert weight.var().item() == pytest.approx(2 / (512 * 9), rel=0.01)


@pytest.mark.parametrize("stem", ["small", "imagenet"])
@pytest.mark.parametrize("size", [(32, 32), (33, 47)])
def test_stem_and_input_size(stem, size):
    net = resnet(8, "group", stem=stem).eval()
    features = net.stem(torch.zeros(1, 3, *size))
    reduction = {"small": 1, "imagenet": 4}[stem]
    assert features.shape == (1, 16, *(-(-side // reduction) for side in size))
    assert net(torch.zeros(1, 3, *size)).shape == (1, 10)


def test_width_is_the_channels_of_the_first_stage():
    net = resnet(8, "layer", width=24)
    assert [s[0].branch.conv1.out_channels for s in net.stages] == [24, 48, 96]


@pytest.mark.parametrize(
    "norm", ["none", pytest.param("batch", marks=pytest.mark.slow), pytest.param("group", marks=pytest.mark.slow)]
)
def test_compiles_whole(norm):
    net = resnet(8, norm)
    x = torch.randn(4, 3, 8, 8)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), net(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("depth", [7, 9, 19, 2, -1, "50", 8.0, None])
def test_bad_depth(depth):
    with pytest.raises(ValueError, match=r"the depth must be 18, 26, 34, 50, 101, 152, 200, 288, 600 or 6n\+2"):
        resnet(depth)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stem": "large"}, "the stem is 'small' or 'imagenet'"),
        ({"in_channels": 0}, "in_channels must be a positive integer"),
        ({"num_classes": -1}, "num_classes must be a positive integer"),
        ({"width": 2.5}, "width must be a positive integer"),
        ({"norm": "bacth"}, "did you mean 'batch'"),
        ({"norm": "group:5"}, "16 channels are not divisible by 5 groups"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        resnet(8, **arguments)
