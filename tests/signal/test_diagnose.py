"""Each finding provoked in a net built for it, and none of them in healthy nets."""

import copy
import math

import pytest
import torch
from torch import nn

from normwise import nets
from normwise.signal import Finding, Findings, diagnose


def conv_net(depth, scale=1.0, norm=None):
    """3x3 convolutions without a mean and ReLU; the variance changes by `scale` at each."""
    layers = []
    for i in range(depth):
        conv = nn.Conv2d(3 if i == 0 else 32, 32, 3, padding=1, padding_mode="circular", bias=False)
        nn.init.normal_(conv.weight, std=math.sqrt(2 / (1 - 1 / math.pi) * scale / conv.weight[0].numel()))
        with torch.no_grad():
            conv.weight -= conv.weight.mean((1, 2, 3), keepdim=True)
        layers += [conv, *([norm(32)] if norm else []), nn.ReLU()]
    return nn.Sequential(*layers)


def trained(net, batches):
    """With running statistics of the data."""
    with torch.no_grad():
        for _ in range(40):
            for batch in batches:
                net.train()(batch)
    return net.eval()


def loader(batches=4, samples=32, shift=0.0):
    return [torch.randn(samples, 3, 8, 8) * 2 + shift for _ in range(batches)]


class Loader:
    """Batches to iterate over, and no list."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def trained_with_batch_norm():
    batches = loader()
    return trained(conv_net(4, norm=nn.BatchNorm2d), batches), Loader(batches)


#: Each makes a net and its data, in the test that asks for them.
HEALTHY = {
    "pre-activation ResNet": lambda: (nets.resnet(20, preactivation=True), (16, 3, 32, 32)),
    "post-activation ResNet": lambda: (nets.resnet(50), (8, 3, 64, 64)),
    "ResNet with GroupNorm": lambda: (nets.resnet(20, norm="group"), (16, 3, 32, 32)),
    "NF-ResNet": lambda: (nets.nf_resnet26(stem="small"), (16, 3, 32, 32)),
    "plain net with standardized weights": lambda: (conv_net(8), (16, 3, 16, 16)),
    "trained with BatchNorm": trained_with_batch_norm,
    "tokens with LayerNorm": lambda: (
        nn.Sequential(nn.Linear(32, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 10)),
        (4, 16, 32),
    ),
}


@pytest.mark.parametrize("make", HEALTHY.values(), ids=HEALTHY)
def test_nothing_is_found_in_a_healthy_net(make):
    net, data = make()
    findings = diagnose(net, data)
    assert list(findings) == []
    assert not findings
    assert str(findings) == f"{type(net).__name__}: nothing found."


def only(findings, rule):
    assert {finding.rule for finding in findings} == {rule}, str(findings)
    return findings[0]


def test_variance_that_doubles_from_block_to_block():
    finding = diagnose(nets.resnet(50, norm="none", preactivation=True, fan="fan_in"), (4, 3, 64, 64)).of(
        "growing variance"
    )[0]
    assert finding.module.startswith("stages.stage")
    assert finding.value > 1.6
    assert "grows by a factor of" in finding.what
    assert "nf_resnet" in finding.remedy


def test_variance_in_plain_nets():
    grows, dies = (
        only(diagnose(conv_net(6, scale), (8, 3, 16, 16)), rule)
        for scale, rule in ((2.0, "growing variance"), (0.5, "vanishing variance"))
    )
    assert grows.value == pytest.approx(2, rel=0.25)
    assert dies.value == pytest.approx(0.5, rel=0.25)
    assert dies.module == "10"


def test_exploding_and_vanishing_gradients():
    deep = nn.Sequential(*[layer for _ in range(30) for layer in (nn.Linear(64, 64), nn.Sigmoid())])
    vanishing = diagnose(deep, (64, 64)).of("vanishing gradient")[0]
    assert vanishing.severity == "error"
    assert vanishing.module == "0"
    assert "shrinks by a factor of" in vanishing.what
    steep = nn.Sequential(*[layer for _ in range(20) for layer in (nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64))])
    exploding = only(
        diagnose(nn.Sequential(*[m for i in range(40) for m in (conv_step(), nn.Hardtanh())]), (64, 64)),
        "exploding gradient",
    )
    assert exploding.value > 1e4
    assert not diagnose(steep, (64, 64)).of("exploding gradient")


def conv_step():
    """Big weights in front of a clipping: the signal stays, the gradient grows."""
    linear = nn.Linear(64, 64, bias=False)
    nn.init.normal_(linear.weight, std=2.0 / 8)
    return linear


def test_mean_shift_without_normalizers_and_not_with_them():
    net = nets.resnet(50, norm="none", preactivation=True, fan="fan_out")
    finding = diagnose(net, (4, 3, 64, 64)).of("mean shift")[0]
    assert finding.value > 1
    assert "the same for every input" in finding.what
    assert "ScaledWSConv2d" in finding.remedy


def test_dead_layer_is_the_first_one():
    net = conv_net(3)
    net[2].bias = nn.Parameter(torch.full((32,), -100.0))
    finding = diagnose(net, (16, 3, 8, 8)).of("dead layer")[0]
    assert (finding.module, finding.value, finding.severity) == ("3", 1.0, "error")
    assert "100% of its 32 channels" in finding.what
    with torch.no_grad():
        net[2].bias[:10] = 0.0
    half = diagnose(net, (16, 3, 8, 8)).of("dead layer")[0]
    assert (half.module, half.severity, half.value) == ("3", "warning", pytest.approx(22 / 32))


def test_a_branch_that_starts_at_zero_is_not_dead():
    assert not diagnose(nets.resnet(8), (16, 3, 16, 16)).of("dead layer")
    assert not diagnose(nets.nf_resnet26(stem="small"), (16, 3, 16, 16)).of("dead layer")


def test_values_that_are_not_finite():
    class Log(nn.Module):
        def forward(self, x):
            return torch.log(x)

    net = nn.Sequential(nn.Linear(8, 8), Log(), nn.Linear(8, 2))
    finding = diagnose(net, (16, 8))[0]
    assert (finding.rule, finding.module, finding.severity) == ("not finite", "1", "error")
    assert finding.value > 10


def test_poisoned_statistics():
    net = trained(conv_net(2, norm=nn.BatchNorm2d), loader())
    bad = loader()[0]
    bad[0, 0, 0, 0] = float("inf")
    net.train()(bad)
    findings = diagnose(net.eval(), (32, 3, 8, 8))
    assert [(f.rule, f.module) for f in findings.errors] == [("poisoned statistics", "1"), ("poisoned statistics", "4")]
    assert findings.errors[0].value == 64
    assert "reset_running_stats" in findings.errors[0].remedy


def test_stale_statistics_and_the_gap_they_make():
    batches = loader(shift=torch.tensor([6.0, 0.0, -6.0]).view(3, 1, 1))
    net = trained(conv_net(3, norm=nn.BatchNorm2d), loader())
    findings = diagnose(net, Loader(batches))
    assert {f.rule for f in findings} == {"stale statistics", "train-eval gap"}
    assert findings.of("stale statistics")[0].module == "1"
    assert findings.of("stale statistics")[0].value > 1
    assert findings.of("train-eval gap")[0].value > 0.5
    assert not diagnose(trained(net, batches), Loader(batches))


def test_a_wrong_scale_is_stale_too():
    net = trained(conv_net(2, norm=nn.BatchNorm2d), loader())
    net[4].running_var.mul_(9)
    finding = diagnose(net, Loader(loader())).of("stale statistics")[0]
    assert finding.module == "4"
    assert "the running variance 9" in finding.what


def test_statistics_that_were_never_updated():
    """In a net that was trained; of a fresh one nobody expects them."""
    net = conv_net(2, norm=nn.BatchNorm2d)
    assert str(diagnose(net, loader()[0])) == "Sequential: nothing found."
    with torch.no_grad():
        net[1].weight.mul_(torch.linspace(0.5, 1.5, 32))
    moved, other = diagnose(net, loader()[0]).of("stale statistics")
    assert (moved.module, moved.severity, other.module, other.severity) == ("1", "warning", "4", "note")
    assert "never updated" in moved.what
    assert not diagnose(conv_net(2, norm=nn.BatchNorm2d), (32, 3, 8, 8))  # noise says nothing about the data


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, lambda c: nn.InstanceNorm2d(c)], ids=["batch", "instance"])
def test_one_value_per_channel(norm):
    net = nn.Sequential(nn.Conv2d(3, 8, 8, bias=False), norm(8), nn.ReLU())
    findings = diagnose(net, (1, 3, 8, 8))
    assert [(f.rule, f.module, f.severity) for f in findings] == [("one value per channel", "1", "error")]
    assert "[1, 8, 1, 1]" in findings[0].what
    assert findings.notes[0].startswith("The signal was not measured: Expected more than 1")
    assert findings.notes[0] in str(findings)


def test_batch_too_small_for_batchnorm_alone():
    finding = only(diagnose(conv_net(2, norm=nn.BatchNorm2d), (2, 3, 32, 32)), "small batch")
    assert (finding.module, finding.value) == ("1", 2.0)
    assert "1, 4 normalize over batches of 2" in finding.what
    assert not diagnose(conv_net(2, norm=lambda c: nn.GroupNorm(4, c)), (2, 3, 32, 32))


@pytest.mark.parametrize(("norm", "found"), [(nn.BatchNorm2d, True), (lambda c: nn.GroupNorm(4, c), False)])
def test_a_bias_in_front_of_a_normalizer(norm, found):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), norm(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), norm(8))
    findings = diagnose(net, (16, 3, 16, 16))
    assert bool(findings) is found
    if found:
        finding = only(findings, "useless bias")
        assert (finding.module, finding.severity, finding.value) == ("0", "note", 1.0)


def test_order_and_text_of_findings():
    net = conv_net(2, norm=nn.BatchNorm2d)
    net[1].running_mean.fill_(float("nan"))
    net[3].bias = nn.Parameter(torch.zeros(32))
    findings = diagnose(net, (2, 3, 16, 16))
    assert [f.severity for f in findings] == ["error", "warning", "note"]
    text = str(findings)
    assert text.startswith("Sequential: 1 error, 1 warning, 1 note\nerror: 1: poisoned statistics\n")
    assert max(map(len, text.splitlines())) <= 80
    assert isinstance(findings, Findings)
    assert isinstance(findings[0], Finding)


def test_a_rule_that_finds_much_is_shown_in_part():
    found = [Finding("warning", "dead layer", f"layer{i}", "It is dead.", "Revive it.", 1.0) for i in range(6)]
    text = str(Findings("Net", found))
    assert text.startswith("Net: 6 warnings\n")
    assert text.count("It is dead.") == 3
    assert text.endswith("warning: dead layer in 3 more modules")
    assert len(Findings("Net", found)) == 6
    assert str(Findings("Net", found[:4])).count("It is dead.") == 4


def test_the_model_is_left_as_it_was():
    net = trained(conv_net(2, norm=nn.BatchNorm2d), loader()).train()
    state = copy.deepcopy(net.state_dict())
    diagnose(net, Loader(loader()))
    torch.testing.assert_close(net.state_dict(), state, rtol=0, atol=0)
    assert all(m.training for m in net.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert all(p.grad is None for p in net.parameters())
    with pytest.raises(RuntimeError):
        diagnose(net, (2, 5, 8, 8))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_a_loader_that_is_read_once_is_enough():
    batches = loader()
    net = trained(conv_net(2, norm=nn.BatchNorm2d), batches)
    assert not diagnose(net, iter(batches))
