"""SkipInit and Fixup against transcriptions of their papers, on the tensors alone."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normwise.nets import SkipGain, StochasticDepth, count_parameters, fixup_resnet, resnet, skipinit_resnet

BUILDERS = [skipinit_resnet, fixup_resnet]
# Depth, blocks per stage, convolutions per block.
SHAPES = [(14, (2, 2, 2), 2), (18, (2, 2, 2, 2), 2), (50, (3, 4, 6, 3), 3)]


def randomized(net: nn.Module) -> dict[str, torch.Tensor]:
    net.double().eval()
    state = {
        name: torch.randn_like(t) * (0.5 if t.dim() < 2 else t[0].numel() ** -0.5)
        for name, t in net.state_dict().items()
    }
    net.load_state_dict(state)
    return state


def convolution(state, name, x, stride=1):
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, state.get(f"{name}.bias"), stride, weight.shape[-1] // 2)


def strides(stage, block, convolutions):
    """Of the whole block, and of each of its convolutions."""
    whole = 2 if stage > 1 and block == 0 else 1
    return whole, [whole if i == (convolutions == 3) else 1 for i in range(convolutions)]


def skipinit(state, x, blocks, convolutions):
    x = convolution(state, "stem.conv", x)
    for stage, count in enumerate(blocks, start=1):
        for block in range(count):
            at = f"stages.stage{stage}.{block}"
            whole, each = strides(stage, block, convolutions)
            out = F.relu(x)
            shortcut = convolution(state, f"{at}.shortcut", out, whole) if f"{at}.shortcut.weight" in state else x
            for i, stride in enumerate(each, start=1):
                out = convolution(state, f"{at}.branch.conv{i}", out if i == 1 else F.relu(out), stride)
            x = out * state[f"{at}.skip_gain.gain"] + shortcut
    return F.linear(F.relu(x).mean((2, 3)), state["classifier.weight"], state["classifier.bias"])


def fixup(state, x, blocks, convolutions):
    bias = lambda name: state[f"{name}.bias"]  # noqa: E731
    x = F.relu(convolution(state, "stem.conv", x) + bias("stem.shift"))
    for stage, count in enumerate(blocks, start=1):
        for block in range(count):
            at = f"stages.stage{stage}.{block}"
            whole, each = strides(stage, block, convolutions)
            out = x + bias(f"{at}.shift")
            shortcut = convolution(state, f"{at}.shortcut", out, whole) if f"{at}.shortcut.weight" in state else x
            for i, stride in enumerate(each, start=1):
                if i > 1:
                    out = F.relu(out + bias(f"{at}.branch.shift{i - 1}b")) + bias(f"{at}.branch.shift{i}a")
                out = convolution(state, f"{at}.branch.conv{i}", out, stride)
            x = F.relu(out * state[f"{at}.scale.scale"] + bias(f"{at}.last_shift") + shortcut)
    return F.linear(x.mean((2, 3)) + bias("head.shift"), state["classifier.weight"], state["classifier.bias"])


@pytest.mark.parametrize(("build", "transcription"), [(skipinit_resnet, skipinit), (fixup_resnet, fixup)])
@pytest.mark.parametrize(("depth", "blocks", "convolutions"), SHAPES)
def test_forward_matches_the_transcription(build, transcription, depth, blocks, convolutions):
    net = build(depth, num_classes=5, in_channels=2, stem="small", width=8)
    state = randomized(net)
    x = torch.randn(2, 2, 19, 16, dtype=torch.float64)
    torch.testing.assert_close(net(x), transcription(state, x, blocks, convolutions))


def test_parameter_counts_of_depth_50():
    """BatchNorm's network without its normalizers, and what came instead of them."""
    with torch.device("meta"):
        plain = count_parameters(resnet(50, num_classes=1000)) - 53_120
        assert count_parameters(fixup_resnet(50)) == plain + 16 * 7 + 2
        inner = sum(count * (64 + 64 + 256) * 2**i for i, count in enumerate((3, 4, 6, 3)))
        assert count_parameters(skipinit_resnet(50)) == plain + inner + sum(256 * 2**i for i in range(4)) + 16


@pytest.mark.parametrize(("depth", "blocks", "convolutions"), SHAPES)
def test_fixup_initialization(depth, blocks, convolutions):
    net = fixup_resnet(depth)
    count = sum(blocks)
    for stage in net.stages:
        for block in stage:
            *inner, last = [m for m in block.branch if isinstance(m, nn.Conv2d)]
            assert not last.weight.any()
            for conv in inner:
                he = math.sqrt(2 / (conv.out_channels * conv.kernel_size[0] ** 2))
                std = he * count ** (-1 / (2 * convolutions - 2))
                assert conv.weight.std().item() == pytest.approx(std, rel=6 / conv.weight.numel() ** 0.5)
            if block.shortcut is not None:
                std = math.sqrt(2 / block.shortcut.out_channels)
                assert block.shortcut.weight.std().item() == pytest.approx(
                    std, rel=6 / block.shortcut.weight.numel() ** 0.5
                )


def test_skipinit_initialization():
    net = skipinit_resnet(18)
    for conv in (m for m in net.modules() if isinstance(m, nn.Conv2d)):
        std = math.sqrt(2 / conv.weight[0].numel())
        assert conv.weight.std().item() == pytest.approx(std, rel=6 / conv.weight.numel() ** 0.5)
        assert conv.bias is None or not conv.bias.any()
    assert all(m.gain == 0 for m in net.modules() if isinstance(m, SkipGain))


@pytest.mark.parametrize("build", BUILDERS)
def test_blocks_start_as_their_shortcut_and_the_classifier_at_zero(build):
    net = build(14)
    x = torch.rand(2, 16, 8, 8)
    assert torch.equal(net.stages.stage1[1](x), x)
    assert not net(torch.randn(2, 3, 8, 8)).any()


@pytest.mark.parametrize("build", BUILDERS)
def test_every_parameter_learns(build):
    """The classifier first, then what is behind it; after three steps nothing has stayed without a gradient."""
    net = build(8, num_classes=3, stochastic_depth=0.0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    x, seen = torch.randn(8, 3, 8, 8), set()
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(net(x), torch.arange(8) % 3).backward()
        seen |= {name for name, p in net.named_parameters() if p.grad.abs().sum() > 0}
        optimizer.step()
    assert seen == {name for name, _ in net.named_parameters()}


@pytest.mark.parametrize("build", BUILDERS)
def test_regularization(build):
    net = build(20, dropout=0.25, stochastic_depth=0.3)
    assert net.dropout.p == 0.25
    rates = [m.p for m in net.modules() if isinstance(m, StochasticDepth)]
    assert rates == pytest.approx([0.3 * i / 9 for i in range(9)])


@pytest.mark.parametrize("build", BUILDERS)
def test_bad_arguments(build):
    with pytest.raises(ValueError, match=rf"{build.__name__}\(depth=9\)"):
        build(9)
    with pytest.raises(ValueError, match="num_classes must be a positive integer"):
        build(8, num_classes=0)
    with pytest.raises(ValueError, match="the stem is 'small' or 'imagenet'"):
        build(8, stem="big")


@pytest.mark.parametrize("make", [skipinit_resnet, fixup_resnet])
def test_checkpoints_with_scalars_of_no_dimension_load(make):
    net, other = make(8, num_classes=3, in_channels=1), make(8, num_classes=3, in_channels=1)
    assert all(p.dim() for p in net.parameters())
    for p in net.parameters():
        torch.nn.init.normal_(p)
    old = {name: t.squeeze() if t.shape == (1,) else t for name, t in net.state_dict().items()}
    assert any(t.dim() == 0 for t in old.values())
    other.load_state_dict(old)
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(other.eval()(x), net.eval()(x))
