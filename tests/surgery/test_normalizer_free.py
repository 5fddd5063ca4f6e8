"""`normalizer_free`: no normalizer is left, the signal is as predicted, and what is refused is named."""

import copy
import sys

import libraries
import pytest
import torch
import torch.nn.functional as F
from surgery_nets import trained
from torch import nn

import normwise as nw
from normwise.nets.residual import SkipGain
from normwise.signal.diagnosis.sites import NORMALIZER_CLASSES


class Residual(nn.Module):
    """A block of a net that somebody wrote: functional activations, an addition in place."""

    def __init__(self, channels, norm=nn.BatchNorm2d):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.norm1, self.norm2 = norm(channels), norm(channels)

    def forward(self, x):
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        y += x
        return F.relu(y)


class PreActivation(nn.Module):
    """The normalizer in front of an activation in place, whose input the shortcut still needs."""

    def __init__(self, channels):
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))

    def forward(self, x):
        y = self.conv1(F.relu(self.norm1(x), inplace=True))
        return x + self.conv2(F.relu(self.norm2(y), inplace=True))


class Fused(nn.Module):
    """This package's layers: activation and residual inside of them."""

    def __init__(self, channels):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.norm1 = nw.BatchNorm2d(channels, activation="silu")
        self.norm2 = nw.BatchNorm2d(channels, activation="silu")

    def forward(self, x):
        return self.norm2(self.conv2(self.norm1(self.conv1(x))), residual=x)


class Dense(nn.Module):
    """A residual block of linear layers."""

    def __init__(self, features):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(features, 2 * features, bias=False),
            nn.BatchNorm1d(2 * features),
            nn.GELU(),
            nn.Linear(2 * features, features, bias=False),
            nn.BatchNorm1d(features),
        )

    def forward(self, x):
        return x + self.body(x)


def image_net(block, channels=16, blocks=3, **options):
    stem = [nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
    body = [block(channels, **options) for _ in range(blocks)]
    return nn.Sequential(*stem, *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5))


def mlp():
    return nn.Sequential(nn.Linear(20, 64), nn.BatchNorm1d(64), nn.GELU(), *(Dense(64) for _ in range(3)))


def images(samples=16, size=16):
    return torch.randn(samples, 3, size, size, generator=torch.Generator().manual_seed(5))


NETS = {
    "post-activation": (lambda: image_net(Residual), images()),
    "pre-activation": (lambda: image_net(PreActivation), images()),
    "fused": (lambda: image_net(Fused), images()),
    "GroupNorm": (lambda: image_net(Residual, norm=lambda c: nn.GroupNorm(4, c)), images()),
    "linear": (mlp, torch.randn(256, 20, generator=torch.Generator().manual_seed(5))),
    "nets.resnet": (lambda: nw.nets.resnet(8), images()),
    "nets.resnet, preactivation": (lambda: nw.nets.resnet(8, preactivation=True), images()),
}


def left(model):
    return [name for name, module in model.named_modules() if isinstance(module, NORMALIZER_CLASSES)]


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_state(model, before):
    after = model.state_dict()
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name


@pytest.mark.parametrize("name", NETS)
def test_nothing_normalizes_and_the_variance_is_as_predicted(name):
    make, x = NETS[name]
    torch.manual_seed(0)
    model = make()
    before = state(model)
    free = nw.normalizer_free(model, x)
    assert left(free.model) == []
    assert free.rows
    assert all(0.5 < row.ratio < 2 for row in free.rows), str(free)
    assert [row.name for row in free.rows] == [tap.name for tap in free.after.blocks]
    assert len(free.before.blocks) == len(free.after.blocks)
    assert_same_state(model, before)
    # At skip gain 0 every block is its shortcut, and the net trains.
    free.model.train()(x).square().sum().backward()
    gains = [m.gain for m in free.model.modules() if isinstance(m, SkipGain)]
    assert len(gains) == len(free.rows)
    assert all(gain.grad is not None for gain in gains)


@pytest.mark.parametrize("name", ["post-activation", "pre-activation", "linear"])
def test_a_branch_adds_alpha_squared(name):
    """Measured at the ends of the branches, in a net that was not told the numbers: branch times α has variance α²."""
    make, x = NETS[name]
    torch.manual_seed(1)
    free = nw.normalizer_free(make(), x, alpha=0.3, skip_gain=1.0)
    seen = []
    for module in free.model.modules():
        if isinstance(module, SkipGain):
            module.register_forward_hook(lambda m, a, y: seen.append(y.transpose(0, 1).flatten(1).var(1).mean().item()))
    with torch.no_grad():
        free.model.eval()(x)
    assert len(seen) == len(free.rows)
    assert all(0.6 * 0.09 < variance < 1.6 * 0.09 for variance in seen)


def test_the_gains_of_inner_layers_are_those_of_their_activations():
    torch.manual_seed(0)
    free = nw.normalizer_free(image_net(Residual, channels=64), images(), skip_gain=1.0)
    block = free.model[3]
    assert block.conv2.gamma == pytest.approx(
        (2 / (1 - 1 / torch.pi)) ** 0.5, rel=1e-6
    )  # He's, centered: arXiv 2101.08692
    # 16x16 maps lose a few percent at their borders, which the gain makes good.
    assert block.conv2.gain.mean().item() == pytest.approx(1.0, abs=0.12)


def test_the_start_from_statistics_computes_what_the_old_net_did_where_weights_have_no_mean():
    """Oracle: the untouched model. Scaled weight standardization takes only the mean of the weights away."""
    torch.manual_seed(0)
    model = trained(image_net(Residual))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.weight -= module.weight.mean((1, 2, 3), keepdim=True)
    x = images()
    free = nw.normalizer_free(model, x)
    assert free.start == "folded"
    torch.testing.assert_close(free.model(x), model(x), rtol=1e-4, atol=1e-4)
    assert free.drift < 1e-5
    assert free.agreement == 1.0
    assert "fine-tuned" in str(free)


def test_a_pre_activation_net_keeps_its_scales_and_shifts():
    torch.manual_seed(0)
    model = trained(image_net(PreActivation))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.weight -= module.weight.mean((1, 2, 3), keepdim=True)
    free = nw.normalizer_free(model, images())
    assert free.drift < 1e-5
    assert {r.now for r in free.replaced if r.name == "3.norm1"} == {"scale and shift"}


def test_what_the_mean_of_the_weights_contributed_goes_into_the_bias():
    """A constant image through one layer is all mean: its output survives, for whatever weights."""
    torch.manual_seed(0)
    model = trained(nn.Sequential(nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), nn.ReLU(), Residual(16)))
    x = torch.ones(4, 3, 8, 8)
    stem = nw.normalizer_free(model, x).model[:2]
    torch.testing.assert_close(stem(x), model[:2](x), rtol=1e-4, atol=1e-5)


def test_the_state_fits_a_net_that_was_converted_again():
    make, x = NETS["nets.resnet, preactivation"]
    torch.manual_seed(0)
    first = nw.normalizer_free(make(), x, skip_gain=1.0).model.eval()
    second = nw.normalizer_free(make(), x + 1).model.eval()
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(second(x), first(x), rtol=0, atol=0)


def test_names_in_the_state():
    free = nw.normalizer_free(nn.Sequential(Residual(8), PreActivation(8)), torch.randn(4, 8, 8, 8))
    assert set(free.model.state_dict()) == {
        *(f"0.conv{i}.{name}" for i in (1, 2) for name in ("weight", "bias", "gain")),
        *("0.norm2.gain", "0.norm2.alpha", "1.norm1.weight", "1.norm1.bias"),
        *(f"1.conv1.{name}" for name in ("weight", "bias", "gain")),
        *(f"1.conv2.layer.{name}" for name in ("weight", "bias", "gain")),
        *("1.conv2.skip.gain", "1.conv2.skip.alpha"),
    }


def test_in_place_it_is_the_same_model_and_the_same_weights():
    model = image_net(Residual)
    weight = model[3].conv1.weight
    free = nw.normalizer_free(model, images(), inplace=True)
    assert free.model is model
    assert model[3].conv1.weight is weight


def test_hooks_modes_and_frozen_parameters_stay():
    model = image_net(Residual)
    model[3].conv1.weight.requires_grad_(False)
    model[3].norm1.eval()
    heard = []
    model[3].conv1.register_forward_hook(lambda *_: heard.append(1))
    free = nw.normalizer_free(model, images())
    assert not free.model[3].conv1.weight.requires_grad
    assert not free.model[3].norm1.training
    assert free.model[3].conv1.training
    heard.clear()
    free.model(images())
    assert heard == [1]


class Unfollowed(Residual):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else x


class Functional(Residual):
    def forward(self, x):
        return super().forward(F.layer_norm(x, x.shape[1:]))


class OwnNorm(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) * 2


class EndsInNothing(Residual):
    """The branch ends in an operation, of no module."""

    def forward(self, x):
        return x + F.relu(self.norm1(self.conv1(x))) * torch.sigmoid(self.norm2(self.conv2(x)))


def depthwise(channels):
    block = Residual(channels)
    block.conv1 = nn.Conv2d(channels, channels, 1, groups=channels)
    return block


def parametrized(channels):
    block = Residual(channels)
    nn.utils.parametrizations.spectral_norm(block.conv1)
    return block


REFUSED = {
    "no residual": (
        lambda: image_net(lambda c: nn.Sequential(nn.Conv2d(c, c, 3), nn.BatchNorm2d(c))),
        "no residual.* 1 ",
    ),
    "no normalizer": (lambda: nw.nets.nf_resnet(8), "no normalizer to remove"),
    "not followed": (lambda: image_net(Unfollowed), "predict cannot follow Sequential.forward at 3"),
    "functional": (lambda: image_net(Functional), r"3 normalizes by layer_norm\(\)"),
    "forward of its own": (lambda: image_net(Residual, norm=OwnNorm), r"3.norm1 \(OwnNorm\) OwnNorm has a forward"),
    "own activation": (
        lambda: image_net(Residual, norm=nw.FilterResponseNorm2d),
        "3.norm1 .FilterResponse.* own activation",
    ),
    "no end": (lambda: image_net(EndsInNothing), "residual branch of 3 must end in a module"),
    "fan-in 1": (lambda: image_net(depthwise), r"3.conv1 \(Conv2d\) has a single weight"),
    "parametrized": (lambda: image_net(parametrized), r"3.conv1 .*parametrized weight; write it out first, nw.bake"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("inplace", [False, True])
def test_what_is_refused_names_the_module_and_changes_nothing(name, inplace):
    make, message = REFUSED[name]
    torch.manual_seed(0)
    model = make()
    before, modules, numbers = state(model), list(model.modules()), torch.get_rng_state()
    with pytest.raises(ValueError, match=f"^normalizer_free.*{message}"):
        nw.normalizer_free(model, images(), inplace=inplace)
    assert_same_state(model, before)
    assert list(model.modules()) == modules
    assert torch.equal(torch.get_rng_state(), numbers)


def test_statistics_that_are_not_finite_are_named():
    model = trained(image_net(Residual))
    model[3].norm2.running_var[1] = torch.nan
    with pytest.raises(ValueError, match=r"normalizer_free: .*3.norm2 \(BatchNorm2d\) are not finite.*recalibrate"):
        nw.normalizer_free(model, images())


def test_an_example_that_does_not_fit():
    with pytest.raises(ValueError, match="normalizer_free: Sequential does not take the example"):
        nw.normalizer_free(image_net(Residual), torch.randn(2, 4, 8, 8))


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan")])
def test_alpha_is_positive(alpha):
    with pytest.raises(ValueError, match="normalizer_free: alpha must be at least"):
        nw.normalizer_free(image_net(Residual), images(), alpha=alpha)


def test_an_interruption_leaves_the_model_as_it_was(monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    model = image_net(Residual)
    before, modules = state(model), list(model.modules())
    monkeypatch.setattr(sys.modules["normwise.surgery.normalizer_free"], "predict", interrupt)
    with pytest.raises(KeyboardInterrupt):
        nw.normalizer_free(model, images(), inplace=True)
    assert_same_state(model, before)
    assert list(model.modules()) == modules


def test_a_short_training_learns():
    """On real data it comes as far as the net with BatchNorm; the docs have the numbers of several seeds."""
    datasets = pytest.importorskip("sklearn.datasets")
    values, labels = datasets.load_digits(return_X_y=True)
    x, y = torch.tensor(values).float().view(-1, 1, 8, 8)[:800] / 6 - 1, torch.tensor(labels)[:800]
    torch.manual_seed(0)
    net = nw.nets.resnet(8, num_classes=10, in_channels=1)
    net = nw.normalizer_free(net, x[:64], skip_gain=1.0).model.train()
    optimizer = torch.optim.SGD(nw.param_groups(net, weight_decay=5e-4), 0.1, momentum=0.9)
    optimizer = nw.AdaptiveGradientClipping(optimizer, net, clip=0.08)
    for _ in range(3):
        for part in torch.randperm(600).split(50):
            optimizer.zero_grad()
            F.cross_entropy(net(x[part]), y[part]).backward()
            optimizer.step()
    assert (net.eval()(x[600:]).argmax(1) == y[600:]).float().mean() > 0.8


@pytest.mark.parametrize("library", ["torchvision", "timm"])
@pytest.mark.parametrize("name", ["resnet18", pytest.param("resnet50", marks=pytest.mark.slow)])
def test_resnets_of_libraries(library, name):
    torch.manual_seed(0)
    if library == "timm":
        model = libraries.timm().create_model(name)
    else:
        model = getattr(libraries.torchvision().models, name)()
    free = nw.normalizer_free(model, torch.randn(4, 3, 64, 64))
    assert left(free.model) == []
    assert len(free.rows) == {"resnet18": 8, "resnet50": 16}[name]
    assert all(0.5 < row.ratio < 2 for row in free.rows), str(free)


@pytest.mark.parametrize("name", ["seresnet50", "resnetv2_50", "regnety_004", "mobilenetv2_100", "convnext_atto"])
@pytest.mark.slow
def test_other_residual_nets(name):
    """Squeeze-and-excitation, pre-activation, groups, depthwise convolutions, LayerNorm."""
    torch.manual_seed(0)
    free = nw.normalizer_free(libraries.timm().create_model(name), torch.randn(8, 3, 96, 96))
    assert left(free.model) == []
    assert all(0.5 < row.ratio < 2 for row in free.rows), str(free)


@pytest.mark.slow
def test_squeeze_and_excitation_is_made_up_for():
    """Its gate starts around a half, which the published nets double: α over the deviation of the branch does that."""
    torch.manual_seed(0)
    free = nw.normalizer_free(libraries.timm().create_model("seresnet50"), torch.randn(4, 3, 64, 64))
    assert all(row.alpha == pytest.approx(0.4, rel=0.15) for row in free.rows)
    assert free.model.layer1[0].se.layer is not None


def test_densenets_are_refused():
    model = libraries.torchvision().models.densenet121()
    with pytest.raises(ValueError, match=r"DenseNet has no residual addition .*features.norm0 and 120 more"):
        nw.normalizer_free(model, torch.randn(2, 3, 64, 64))


def test_a_wide_model_and_bfloat16():
    model = image_net(Residual).to(torch.bfloat16)
    free = nw.normalizer_free(model, images().to(torch.bfloat16))
    assert {p.dtype for p in free.model.parameters()} == {torch.bfloat16}
    assert copy.deepcopy(free.model)(images().to(torch.bfloat16)).dtype is torch.bfloat16
    wide = nw.normalizer_free(image_net(Residual).double(), images().double()).model
    assert wide(images().double()).dtype is torch.float64


def test_an_activation_in_place_behind_a_shared_layer_spares_the_shortcut():
    """The stem feeds a normalizer and the shortcut; without the normalizer `relu_` would overwrite what both read."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), PreActivation(8))
    free = nw.normalizer_free(model, images())
    assert {r.now for r in free.replaced if r.name == "1.norm1"} == {"scale and shift"}
    stem = free.model[0](images())
    torch.testing.assert_close(free.model(images()), stem)  # at skip gain 0 the block is its shortcut


class EndsInTanh(Residual):
    def __init__(self, channels):
        super().__init__(channels)
        self.end = nn.Tanh()

    def forward(self, x):
        return x + self.end(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


def test_a_branch_that_ends_smaller_is_scaled_up():
    """tanh of a standard normal has variance 1 / 1.5939² (the gain of arXiv:2101.08692's table)."""
    torch.manual_seed(0)
    free = nw.normalizer_free(image_net(EndsInTanh), images())
    assert [row.alpha for row in free.rows] == [pytest.approx(0.2 * 1.5939, rel=0.1)] * 3
