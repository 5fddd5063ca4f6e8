"""Parameters and multiply-accumulates against published numbers and hand arithmetic, and that nothing changes."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normwise import nets
from normwise.nets import count_macs, count_parameters

# Parameters, billions of multiply-accumulates, side of the image: arithmetic on the official code; NFNet-F1 to F6 from
# its README.
PUBLISHED = {
    "nf_resnet50": (25_557_048, 4.089, 224),
    "nf_resnet101": (44_549_193, 7.801, 224),
    "nf_resnet152": (60_192_858, 11.514, 224),
    "nf_resnet200": (64_673_898, 15.007, 224),
    "nf_resnet288": (146_460_552, 21.558, 224),
    "nf_regnet_b0": (8_595_372, 0.444, 224),
    "nf_regnet_b1": (10_019_208, 0.734, 256),
    "nf_regnet_b2": (13_785_904, 1.145, 272),
    "nf_regnet_b3": (18_136_667, 1.999, 320),
    "nf_regnet_b4": (29_315_830, 4.467, 384),
    "nf_regnet_b5": (48_707_138, 11.098, 456),
    "nfnet_f0": (71_489_284, 12.38, 256),
    "nfnet_f1": (132.6e6, 35.54, 320),
    "nfnet_f2": (193.8e6, 62.59, 352),
    "nfnet_f3": (254.9e6, 114.76, 416),
    "nfnet_f4": (316.1e6, 215.24, 512),
    "nfnet_f5": (377.2e6, 289.76, 544),
    "nfnet_f6": (438.4e6, 377.28, 576),
    "nfnet_f7": (499_504_088, None, 608),
}


DEEP = {"nf_resnet152", "nf_resnet200", "nf_resnet288", "nf_regnet_b4", "nf_regnet_b5"}
DEEP |= {f"nfnet_f{i}" for i in range(2, 7)}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in DEEP)) for n in PUBLISHED])
def test_published_parameters(name):
    with torch.device("meta"):
        counted = count_parameters(getattr(nets, name)())
    parameters = PUBLISHED[name][0]
    # The README rounds to 0.1 million.
    assert counted == (parameters if isinstance(parameters, int) else pytest.approx(parameters, abs=5e4))


# One net of each family: the others have the same blocks, and how many and how wide, the parameters say.
FAMILIES = {"nf_resnet50", "nf_regnet_b0", "nfnet_f0"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in FAMILIES)) for n in PUBLISHED if PUBLISHED[n][1]]
)
def test_published_macs(name):
    _, macs, side = PUBLISHED[name]
    with torch.device("meta"):
        counted = count_macs(getattr(nets, name)(), (1, 3, side, side)) / 1e9
    assert counted == pytest.approx(macs, abs=0.0051 if name.startswith("nfnet") else 0.00051)


@pytest.mark.parametrize(("variant", "parameters"), [("b6", 70_045_805), ("b7", 101_743_204), ("b8", 142_314_441)])
def test_published_parameters_of_the_large_regnets(variant, parameters):
    with torch.device("meta"):
        assert count_parameters(nets.nf_regnet(variant)) == parameters


@pytest.mark.slow
def test_nf_resnet600_and_the_training_resolution_of_b5():
    with torch.device("meta"):
        assert count_parameters(nets.nf_resnet(600)) == 300_646_896
        assert count_macs(nets.nf_resnet(600), (1, 3, 224, 224)) == pytest.approx(44.269e9, abs=0.51e6)
        assert count_macs(nets.nf_regnet_b5(), (1, 3, 384, 384)) == pytest.approx(7.496e9, abs=0.51e6)


def test_a_parameter_with_two_names_counts_once():
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.BatchNorm1d(4))
    assert count_parameters(model) == 20 + 8
    shared.weight.requires_grad_(False)
    assert count_parameters(model) == 28
    assert count_parameters(model, trainable=True) == 12


class Attention(nn.Module):
    def forward(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v)


@pytest.mark.parametrize(
    ("model", "shape", "macs"),
    [
        (nn.Conv1d(4, 6, 5, stride=2), (2, 4, 21), 2 * 9 * 6 * 20),
        (nn.Conv2d(4, 6, 3, groups=2, padding=1), (1, 4, 7, 5), 35 * 6 * 18),
        (nn.Conv3d(2, 3, 3, dilation=2), (1, 2, 9, 9, 9), 125 * 3 * 54),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (1, 4, 5, 5), 25 * 4 * 24),
        (nn.Linear(3, 5), (2, 7, 3), 14 * 15),
        (nn.LSTM(4, 5, num_layers=2, bidirectional=True), (3, 2, 4), 2 * 6 * 20 * (9 + 15)),
        (nn.GRU(4, 5), (3, 2, 4), 6 * 15 * 9),
        (
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
            (2, 5, 8),
            10 * (8 * 32 + 2 * 8 * 16) + 2 * 2 * 25 * 8,
        ),
        (nets.SqueezeExcite(8, 4), (2, 8, 9, 9), 2 * 64),
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2)), (1, 3, 8, 8), 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_macs_by_hand(model, shape, macs):
    assert count_macs(model, shape) == macs


def test_macs_of_attention():
    q, kv = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8)
    assert count_macs(Attention(), q, kv, kv) == 2 * 2 * 3 * 5 * 7 * 8


@pytest.mark.parametrize("norm", ["batch", "switchable", "group", "none"])
def test_normalizers_count_nothing(norm):
    assert count_macs(nets.resnet(8, norm), (2, 3, 16, 16)) == count_macs(nets.resnet(8), (2, 3, 16, 16))


def test_nothing_changes():
    model = nn.Sequential(nets.resnet(8), nn.Dropout(0.5), nn.BatchNorm1d(10), nn.MultiheadAttention(10, 2)).train()
    model[0].stages.stage2.eval()
    model = nn.Sequential(*model[:3])
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    modes = [m.training for m in model.modules()]
    tensors = {name: (value, value.clone(), value._version) for name, value in model.state_dict(keep_vars=True).items()}
    hooks = [dict(m._forward_hooks) for m in model.modules()]
    flags = (torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled, torch.backends.mha.get_fastpath_enabled())
    random = torch.get_rng_state()
    count_macs(model, x)
    assert [m.training for m in model.modules()] == modes
    for name, value in model.state_dict(keep_vars=True).items():
        kept, clone, version = tensors[name]
        assert value is kept, name
        assert torch.equal(value, clone), name
        assert value._version == version, name
    assert [dict(m._forward_hooks) for m in model.modules()] == hooks
    assert torch.equal(torch.get_rng_state(), random)
    assert x.grad is None
    assert all(p.grad is None for p in model.parameters())
    assert torch.is_grad_enabled()
    now = (torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled, torch.backends.mha.get_fastpath_enabled())
    assert now == flags


class Failing(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        self.norm(x)
        raise RuntimeError("half-way")


def test_nothing_changes_on_errors_either():
    model, flags = Failing(), torch.backends.mkldnn.enabled
    with pytest.raises(RuntimeError, match="half-way"):
        count_macs(model, (2, 3, 4, 4))
    assert model.training
    assert model.norm.training
    assert model.norm.num_batches_tracked == 0
    assert torch.backends.mkldnn.enabled == flags


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_errors():
    with pytest.raises(TypeError, match="count_macs expects a module, received int"):
        count_macs(3)
    with pytest.raises(ValueError, match="lazy modules have no shape yet"):
        count_parameters(nn.LazyLinear(3))
    with pytest.raises(ValueError, match="lazy modules have no shape yet"):
        count_macs(nn.LazyConv2d(3, 3), (1, 2, 8, 8))
    with pytest.raises(ValueError, match="the forward of Branching asks for a value"):
        count_macs(Branching(), (2, 3))


def test_half_precision_models_get_half_precision_inputs():
    assert count_macs(nn.Conv2d(3, 4, 1).bfloat16(), (1, 3, 5, 5)) == 300
