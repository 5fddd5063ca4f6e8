"""What fold folds: every layer, every normalizer, before and after, in chains, and the report of it."""

import copy
import json

import pytest
import torch
from libraries import timm, torchvision
from surgery_nets import error, in_fp64, outcomes, reasons, trained
from torch import nn
from torch.nn.utils import parametrizations

import normwise as nw

FINE = 1e-5


def folded(net, *args, **options):
    """Fold a copy, compare with the untouched model in fp64, and leave that untouched."""
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    example = args[0] if len(args) == 1 else args
    result = nw.fold(net, example, **options)
    with torch.no_grad():
        assert error(result.model(*args), in_fp64(net, *args)) < FINE
    torch.testing.assert_close(dict(net.state_dict()), before, rtol=0, atol=0)
    return result


LAYERS = {
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=1), nn.BatchNorm1d, (2, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, padding="same", bias=False), nn.BatchNorm2d, (2, 4, 7, 5)),
    "conv3d": (lambda: nn.Conv3d(4, 6, 3, stride=2), nn.BatchNorm3d, (2, 4, 5, 5, 5)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding_mode="reflect", padding=1), nn.BatchNorm2d, (2, 4, 7, 5)),
    "depthwise": (lambda: nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d, (2, 6, 7, 5)),
    "transposed1d": (lambda: nn.ConvTranspose1d(4, 6, 3, groups=2), nn.BatchNorm1d, (2, 4, 9)),
    "transposed2d": (lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2), nn.BatchNorm2d, (2, 4, 5, 4)),
    "transposed3d": (lambda: nn.ConvTranspose3d(4, 6, 2, bias=False), nn.BatchNorm3d, (2, 4, 3, 3, 3)),
    "linear": (lambda: nn.Linear(4, 6), nn.BatchNorm1d, (5, 4)),
}


@pytest.mark.parametrize("case", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_a_normalizer_goes_into_the_layer_in_front(case, dtype):
    layer, norm, shape = LAYERS[case]
    net = trained(nn.Sequential(layer(), norm(6), nn.Tanh())).to(dtype)
    result = folded(net, torch.randn(shape, dtype=dtype))
    assert result.rows == [nw.FoldRow("1", "0", "folded", "", result.rows[0].max_error)]
    assert isinstance(result.model[1], nn.Identity)
    assert type(result.model[0]) is type(net[0])
    assert result.model[0].weight.dtype is dtype
    assert result.max_error < (1e-4 if dtype is torch.float32 else 1e-12)


@pytest.mark.parametrize("case", [case for case in LAYERS if "transposed" not in case])
def test_a_normalizer_goes_into_the_layer_behind(case):
    layer, norm, shape = LAYERS[case]
    net = trained(nn.Sequential(nn.Tanh(), norm(shape[1]), layer()))
    result = folded(net, torch.randn(shape))
    assert [(row.into, row.outcome) for row in result.rows] == [("2", "folded")]
    assert not any(isinstance(m, norm) for m in result.model.modules())


@pytest.mark.parametrize(
    ("padding", "mode", "pads"),
    [
        (0, "zeros", False),
        (1, "zeros", True),
        ("same", "zeros", True),
        ("valid", "zeros", False),
        (1, "circular", False),
    ],
)
def test_padding_of_a_layer_behind_is_exact(padding, mode, pads):
    conv = nn.Conv2d(4, 6, (3, 4), padding=padding, padding_mode=mode)
    net = trained(nn.Sequential(nn.BatchNorm2d(4), conv))
    result = folded(net, 3 + torch.randn(2, 4, 6, 7))
    assert outcomes(result) == {"0": "folded"}
    assert isinstance(result.model[0], nn.Identity) == (not pads)


def test_padding_with_zeros_behind_a_shift_of_zero_stays_in_its_layer():
    net = trained(nn.Sequential(nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 6, 3, padding=1)))
    net[0].running_mean.zero_()
    result = folded(net, torch.randn(2, 4, 6, 7))
    assert isinstance(result.model[0], nn.Identity)
    assert result.model[1].padding == (1, 1)


def test_what_padding_cannot_express_is_refused():
    net = trained(nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1)))
    with torch.no_grad():
        net[0].weight[2] = 0
    assert "γ = 0" in reasons(folded(net, torch.randn(2, 4, 6, 7)))["0"]
    net[1].padding, net[1]._reversed_padding_repeated_twice = (0, 0), [0] * 4
    assert outcomes(folded(net, torch.randn(2, 4, 6, 7))) == {"0": "folded"}
    net = trained(nn.Sequential(nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 6, 3)))
    assert "spreads a shift unevenly" in reasons(folded(net, torch.randn(2, 4, 6, 7)))["0"]


def test_chains_on_both_sides_go_into_one_layer():
    parts = [nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)]
    net = trained(nn.Sequential(*parts, nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3)))
    result = folded(net, torch.randn(2, 3, 8, 8))
    assert [row.into for row in result.rows] == ["2", "2", "2", "2", "7"]
    only = folded(net, torch.randn(2, 3, 8, 8), into="before")
    assert [row.into for row in only.rows] == [None, None, "2", "2", None]
    assert [row.into for row in folded(net, torch.randn(2, 3, 8, 8), into=["after"]).rows] == [
        "2",
        "2",
        None,
        None,
        "7",
    ]


def test_a_lone_normalizer_stays_or_becomes_a_scale_and_shift():
    net = trained(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3), nn.ReLU(inplace=True)))
    x = torch.randn(2, 3, 4, 4)
    assert "its input comes from relu" in reasons(folded(net, x))["1"]
    result = folded(net, x, standalone="affine")
    assert [(row.outcome, row.into) for row in result.rows] == [("folded", "affine")]
    assert sorted(result.model.state_dict()) == ["1.bias", "1.weight"]
    alone = trained(nn.BatchNorm2d(3))
    assert not isinstance(folded(alone, x, standalone="affine").model, nn.BatchNorm2d)


def conditional():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nw.ConditionalBatchNorm2d(4, 3, activation="silu")
            self.register_buffer("label", torch.tensor([2, 2]))

        def forward(self, x):
            return self.norm(self.conv(x), self.label)

    return Net()


def switched():
    layer = nw.SwitchableNorm2d(4)
    with torch.no_grad():
        for logits in (layer.mean_weight, layer.var_weight):
            logits.copy_(torch.tensor([-40.0, -60.0, 0.0]))
    return layer


NORMS = {
    "ours": lambda: nw.BatchNorm2d(4, activation="gelu_tanh"),
    "no-bias": lambda: nw.BatchNorm2d(4, bias=False),
    "no-affine": lambda: nn.BatchNorm2d(4, affine=False),
    "sync": lambda: nn.SyncBatchNorm(4),
    "our-sync": lambda: nw.SyncBatchNorm(4),
    "ghost": lambda: nw.GhostBatchNorm2d(4, ghost_size=2),
    "renorm": lambda: nw.BatchRenorm2d(4, activation="relu"),
    "instance": lambda: nn.InstanceNorm2d(4, track_running_stats=True, affine=True),
    "our-instance": lambda: nw.InstanceNorm2d(4, track_running_stats=True, affine=True, activation="tanh"),
    "switchable": switched,
    "batch-instance": lambda: nw.BatchInstanceNorm2d(4),
}


@pytest.mark.parametrize("name", NORMS)
def test_every_normalizer_that_is_fixed_in_evaluation(name):
    net = trained(nn.Sequential(nn.Conv2d(3, 4, 3), NORMS[name]()))
    assert outcomes(folded(net, torch.randn(2, 3, 8, 8))) == {"1": "folded"}


@pytest.mark.parametrize("activation", nw.ACTIVATIONS)
def test_a_fused_activation_stays_behind(activation):
    net = trained(nn.Sequential(nn.Linear(3, 4), nw.BatchNorm1d(4, activation=activation)))
    assert outcomes(folded(net, torch.randn(6, 3))) == {"1": "folded"}


def test_a_fixed_condition_a_residual_and_a_mask():
    net = trained(conditional())
    with torch.no_grad():
        nn.init.normal_(net.norm.weight), nn.init.normal_(net.norm.bias)
    assert outcomes(folded(net, torch.randn(2, 3, 6, 6))) == {"norm": "folded"}

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nw.BatchNorm2d(4, activation="relu")

        def forward(self, x, mask):
            return self.norm(self.conv(x), x, mask=mask)

    net, mask = trained(Residual()), torch.rand(2, 6, 6) > 0.3
    result = folded(net, torch.randn(2, 4, 6, 6), mask)
    assert outcomes(result) == {"norm": "folded"}
    assert "residual" in repr(result.model.norm)


def test_timms_and_torchvisions_layers():
    vision, models = torchvision(), timm()
    frozen = vision.ops.FrozenBatchNorm2d(4)
    net = trained(nn.Sequential(nn.Conv2d(3, 4, 3), frozen, nn.Conv2d(4, 4, 3), models.layers.BatchNormAct2d(4)))
    net.append(nn.Conv2d(4, 4, 1)).append(models.layers.FrozenBatchNormAct2d(4, act_layer=nn.PReLU)).train()
    net[3].eval()
    trained(net[5])
    result = nw.fold(net, torch.randn(2, 3, 8, 8))
    assert set(outcomes(result).values()) == {"folded"}
    assert "5.act.weight" in result.model.state_dict()
    x = torch.randn(2, 3, 8, 8)
    assert error(result.model(x), in_fp64(net, x)) < FINE


def test_normalized_weights_are_written_out_first():
    net = nn.Sequential(
        nw.WSConv2d(3, 4, 3), nn.BatchNorm2d(4), nw.spectral_norm(nn.Conv2d(4, 4, 3)), nn.BatchNorm2d(4)
    )
    net.extend([parametrizations.weight_norm(nn.Conv2d(4, 4, 3)), nn.BatchNorm2d(4)])
    x = torch.randn(2, 3, 9, 9)
    result = folded(trained(net), x)
    assert set(outcomes(result).values()) == {"folded"}
    assert len(result.baked) == 3
    assert "weight norm" in str(result)
    kept = reasons(folded(net, x, bake=False))
    assert "standardizes its weight" in kept["1"]
    assert "parametrized" in kept["3"]
    assert type(net[0]) is nw.WSConv2d


class Outer(nn.Module):
    """A body with room for other names of its parts."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def __getitem__(self, index):
        return self.body[index]

    def forward(self, x):
        return self.body(x)


def test_in_place_the_same_modules_and_parameters_of_others_stay():
    net = trained(Outer(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3))))
    net.alias, net.plain = net[1], [net[1]]
    modules, weight = [*net.body], net[2].weight
    net[0].weight.requires_grad_(False)
    net[0].qconfig = "mine"
    x = torch.randn(2, 3, 8, 8)
    expected = in_fp64(net, x)
    result = nw.fold(net, x, inplace=True)
    assert result.model is net
    assert net[0] is modules[0]
    assert net[2].weight is weight
    assert net[0].qconfig == "mine"
    assert net[1] is net.alias is net.plain[0]
    assert isinstance(net[1], nn.Identity)
    assert not net[0].weight.requires_grad
    assert error(net(x), expected) < FINE


def test_the_report(tmp_path):
    net = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4)))
    result = nw.fold(net, torch.randn(2, 3, 8, 8), check=torch.randn(1, 3, 12, 12))
    text = str(result)
    assert text.startswith("fold: 1 of 2 normalizers folded, largest error ")
    assert "Distance from fp64 in bf16" in text
    rows = json.loads(result.to_json(tmp_path / "r.json"))["rows"]
    assert [row["outcome"] for row in rows] == ["folded", "kept"]
    result.html(tmp_path / "r.html")
    assert "folded" in (tmp_path / "r.html").read_text()
    assert result.max_error == result.own_error < 1e-5
    assert max(result.bf16) < 0.1


def test_a_model_in_bf16():
    net = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).to(torch.bfloat16)
    x = torch.randn(2, 3, 8, 8, dtype=torch.bfloat16)
    result = nw.fold(net, x)
    assert outcomes(result) == {"1": "folded"}
    assert result.model[0].weight.dtype is torch.bfloat16
    assert result.max_error < 1e-5 < result.own_error
    assert error(result.model(x), in_fp64(net, x)) < 0.02


def test_dict_and_tuple_examples_and_several_outputs():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)

        def forward(self, x, scale=1.0, *, flip=False):
            y = self.norm(self.conv(x)) * scale
            return {"y": y.flip(-1) if flip else y, "most": y.argmax(1)}

    net, x = trained(Net()), torch.randn(2, 3, 9)
    for example in (x, (x, torch.tensor(2.0)), {"x": x, "flip": True}):
        assert outcomes(nw.fold(net, example)) == {"norm": "folded"}
    torch.testing.assert_close(nw.fold(net, x).model(x)["y"], net(x)["y"])


def test_a_folded_copy_takes_the_folded_state():
    net = trained(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)))
    x = torch.randn(2, 3, 8, 8)
    state = nw.fold(net, x).model.state_dict()
    other = trained(copy.deepcopy(net), seed=1)
    fresh = nw.fold(other, x).model
    fresh.load_state_dict(state)
    assert error(fresh(x), in_fp64(net, x)) < FINE


class Between(nn.Module):
    """What passes a signal on, or asks only for its shape, is no reader of it; an output size goes along."""

    def __init__(self):
        super().__init__()
        self.conv, self.drop, self.norm = nn.Conv2d(3, 4, 3, stride=2), nn.Identity(), nn.BatchNorm2d(4)
        self.grow, self.last = nn.ConvTranspose2d(4, 4, 3, stride=2), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.conv(x)
        size = y.shape
        y = self.norm(self.drop(y)).view(size)
        return self.last(self.grow(y, output_size=x.shape[2:]))


def test_an_identity_between_a_shape_and_an_output_size():
    net = trained(Between())
    for size in (8, 9):
        assert outcomes(folded(net, torch.randn(2, 3, size, size))) == {"norm": "folded", "last": "folded"}


def test_memory_layout_gradients_and_inference_mode():
    net = trained(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)))
    net.to(memory_format=torch.channels_last)
    net[1].weight.requires_grad_(False)
    with torch.inference_mode():
        model = nw.fold(net, torch.randn(2, 3, 8, 8)).model
    assert model[1].weight.is_contiguous(memory_format=torch.channels_last)
    assert not model[1].weight.requires_grad
    assert not any(p.is_inference() for p in model.parameters())
    model(torch.randn(2, 3, 8, 8, requires_grad=True)).sum().backward()
