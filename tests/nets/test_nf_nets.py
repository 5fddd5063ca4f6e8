"""The normalizer-free networks against an independent NumPy transcription, and their promises."""

import copy

import pytest
import torch
from official import Official
from torch import nn
from torch.nn import functional as F

from normwise import bake, nets


def randomized(net: nn.Module, std: float = 0.3) -> nn.Module:
    """Gains, biases and the classifier away from their initial values, in float64 and evaluation."""
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith(("gain", "bias")):
                parameter.copy_(std * torch.randn_like(parameter) + name.endswith("gain"))
            elif name.startswith("classifier"):
                parameter.normal_()
    return net.double().eval()


def channels_last_numpy(x):
    return x.permute(0, 2, 3, 1).numpy()


# Sides that are even, odd, and 1 at the end, where "same" padding differs from symmetric padding.
@pytest.mark.parametrize("size", [(8, 8), (7, 12)])
@pytest.mark.parametrize("depth", [8, 14])
def test_small_nf_resnet(depth, size):
    net = randomized(nets.nf_resnet(depth, num_classes=5, in_channels=2, width=4))
    x = torch.randn(2, 2, *size, dtype=torch.float64)
    expected = Official(net.state_dict(), "relu").resnet(channels_last_numpy(x), [(depth - 2) // 6] * 3, kind="basic")
    torch.testing.assert_close(net(x), torch.from_numpy(expected), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [(32, 32), (33, 50)])
@pytest.mark.parametrize("squeeze_excite", [False, True])
def test_bottleneck_nf_resnet(size, squeeze_excite):
    net = randomized(nets.nf_resnet50(4, width=4, squeeze_excite=squeeze_excite))
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = Official(net.state_dict(), "relu").resnet(channels_last_numpy(x), [3, 4, 6, 3], imagenet_stem=True)
    torch.testing.assert_close(net(x), torch.from_numpy(expected), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [(64, 64), (47, 70)])
def test_nf_regnet(size):
    net = randomized(nets.nf_regnet_b0(4))
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    expected = Official(net.state_dict(), "silu").regnet(channels_last_numpy(x), [1, 3, 6, 6])
    # The gain of silu in the table of the transcription has eight digits.
    torch.testing.assert_close(net(x), torch.from_numpy(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", [(32, 32), pytest.param((47, 70), marks=pytest.mark.slow)])
def test_nfnet(size):
    net = randomized(nets.nfnet_f0(4))
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    expected = Official(net.state_dict(), "gelu_tanh").nfnet(channels_last_numpy(x), [1, 2, 6, 3])
    torch.testing.assert_close(net(x), torch.from_numpy(expected), rtol=1e-6, atol=1e-6)


def test_expected_variances_of_depth_50():
    """The paper's sequence: a stage's first block sees what the one before has accumulated, then 1.04 again."""
    with torch.device("meta"):
        net = nets.nf_resnet50()
    variances = [[round(block.beta**-2, 2) for block in stage] for stage in net.stages]
    assert variances == [
        [1.0, 1.04, 1.08],
        [1.12, 1.04, 1.08, 1.12],
        [1.16, 1.04, 1.08, 1.12, 1.16, 1.2],
        [1.24, 1.04, 1.08],
    ]


def test_signal_of_depth_50_keeps_the_predicted_variances():
    net = nets.nf_resnet50(skip_gain=1.0, stochastic_depth=0.0).eval()
    measured = []

    def measure(module, inputs, output):
        mean = output.mean((0, 2, 3))
        measured.append(((output - mean[:, None, None]).square().mean().item(), mean.square().mean().item()))

    for stage in net.stages:
        for block in stage:
            block.register_forward_hook(measure)
    with torch.no_grad():
        net(torch.randn(8, 3, 128, 128))
    predicted = [1 + 0.04 * (k + 1) for depth in (3, 4, 6, 3) for k in range(depth)]
    assert [variance for variance, _ in measured] == pytest.approx(predicted, rel=0.1)
    assert max(mean for _, mean in measured) < 0.05


def test_without_standardization_the_mean_drifts():
    net = nets.nf_resnet50(skip_gain=1.0, stochastic_depth=0.0, standardize=False).eval()
    assert not any(isinstance(m, type(nets.nf_resnet(8).stem.conv1)) for m in net.modules())
    with torch.no_grad():
        features = net.stages(net.stem(torch.randn(2, 3, 128, 128)))
    assert features.mean((0, 2, 3)).square().mean() > 1


def test_without_standardization_blocks_start_from_he_times_beta():
    net = nets.nf_resnet(8, standardize=False, width=64)
    conv = net.stages.stage3[0].branch.conv1
    assert type(conv) is nn.Conv2d
    assert conv.weight.std().item() == pytest.approx((2 / conv.weight[0].numel() / 1.04) ** 0.5, rel=0.02)
    assert not conv.bias.any()
    assert net.gamma == 1


SMALL = {
    "nf_resnet": lambda **options: nets.nf_resnet(8, num_classes=3, in_channels=2, **options),
    "nf_regnet": lambda **options: nets.nf_regnet("b0", num_classes=3, in_channels=2, stem="small", **options),
    "nfnet": lambda **options: nets.nfnet("f0", num_classes=3, in_channels=2, stem="small", **options),
}
# The smallest NFNet has 70 million parameters.
NAMES = ["nf_resnet", "nf_regnet", pytest.param("nfnet", marks=pytest.mark.slow)]


@pytest.mark.parametrize("name", NAMES)
def test_blocks_start_as_their_shortcut(name):
    net = SMALL[name]().eval()
    block = net.stages[-1][-1]
    x = torch.randn(2, block.branch.conv1.in_channels, 3, 3)
    assert torch.equal(block(x), x if block.shortcut is None else block.shortcut(block.activation(x)))


@pytest.mark.parametrize(
    ("name", "rate", "dropout", "std"),
    [
        ("nf_resnet", 0.1, 0, 0.01),
        ("nf_regnet", 0.1, 0.2, 0),
        pytest.param("nfnet", 0.25, 0.2, 0.01, marks=pytest.mark.slow),
    ],
)
def test_default_regularization_and_classifier(name, rate, dropout, std):
    net = SMALL[name]()
    rates = [m.p for m in net.modules() if isinstance(m, nets.StochasticDepth)]
    assert rates == pytest.approx([rate * i / len(rates) for i in range(len(rates))])
    assert not any(m.rescale for m in net.modules() if isinstance(m, nets.StochasticDepth))
    assert net.dropout.p == dropout
    assert net.classifier.weight.std().item() == pytest.approx(std, rel=0.2, abs=1e-9)
    assert not net.classifier.bias.any()
    net = SMALL[name](dropout=0.7, stochastic_depth=0.0)
    assert net.dropout.p == 0.7
    assert not any(m.p for m in net.modules() if isinstance(m, nets.StochasticDepth))


@pytest.mark.parametrize("name", ["nf_resnet", pytest.param("nf_regnet", marks=pytest.mark.slow)])
def test_every_parameter_gets_a_gradient(name):
    net = SMALL[name](skip_gain=0.5, stochastic_depth=0.0)
    nn.init.normal_(net.classifier.weight)
    F.cross_entropy(net(torch.randn(4, 2, 16, 16)), torch.arange(4) % 3).backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key


def test_stochastic_depth_drops_the_branches_of_samples():
    net = nets.nf_resnet(8, skip_gain=1.0, stochastic_depth=0.9)
    block = net.stages.stage3[0]
    assert block.stochastic_depth.p == pytest.approx(0.6)
    x = torch.randn(64, 32, 4, 4)
    shortcut, whole, dropped = block.shortcut(block.activation(x)), block.eval()(x), block.train()(x)
    kept = (dropped - shortcut).flatten(1).abs().amax(1) > 1e-5
    assert 5 < kept.sum() < 50
    torch.testing.assert_close(dropped[kept], whole[kept])


FACTORIES = [
    *("nf_resnet26", "nf_regnet_b0", "nfnet_f0"),
    *(pytest.param(f"nf_resnet{depth}", marks=pytest.mark.slow) for depth in (50, 101, 152, 200, 288)),
    *(pytest.param(f"nf_regnet_b{i}", marks=pytest.mark.slow) for i in range(1, 6)),
    *(pytest.param(f"nfnet_f{i}", marks=pytest.mark.slow) for i in range(1, 8)),
]


@pytest.mark.parametrize("name", FACTORIES)
def test_every_net_runs_forward_and_backward(name):
    """On the meta device: the shapes of everything, of 70 to 500 million parameters too."""
    with torch.device("meta"):
        net = getattr(nets, name)(num_classes=7, in_channels=4)
        for mode in (True, False):
            logits = net.train(mode)(torch.zeros(2, 4, 96, 80))
            assert logits.shape == (2, 7)
        logits.sum().backward()
    assert all(parameter.grad.shape == parameter.shape for parameter in net.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_round_trip(name):
    net, other = randomized(SMALL[name]()), SMALL[name]().double().eval()
    other.load_state_dict(copy.deepcopy(net.state_dict()))
    x = torch.randn(1, 2, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(net(x), other(x))


@pytest.mark.parametrize("name", NAMES)
def test_baked_nets_give_the_same_outputs(name):
    net = randomized(SMALL[name]()).float()
    x = torch.randn(1, 2, 16, 16)
    with torch.no_grad():
        before = net(x)
        report = bake(net)
        assert torch.equal(net(x), before)
    assert {kind for _, kind in report} == {"scaled weight standardization"}
    assert all(type(m) is nn.Conv2d for m in net.modules() if isinstance(m, nn.Conv2d))


# Nothing in it asks for the mode: neither dropout nor stochastic depth is on.
@pytest.mark.parametrize("training", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_compiles_whole(training):
    net = nets.nf_resnet(8, width=4, skip_gain=1.0, stochastic_depth=0.0).train(training)
    x = torch.randn(2, 3, 9, 8)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), net(x), rtol=1e-4, atol=1e-5)


def test_mixed_precision_and_memory_layout():
    net = randomized(nets.nf_resnet(8, skip_gain=1.0)).float()
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = net(x)
        last = net.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
        torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(net(x).float(), expected, rtol=0.1, atol=0.1)
