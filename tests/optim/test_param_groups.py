"""Every parameter once, and weight decay on weights only."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrizations import spectral_norm

import normwise as nw
from normwise.layers import NORMALIZERS, gates
from normwise.optim import param_groups

DECAY = 0.01


def decayed(model, **options):
    """Names of the parameters in the group with weight decay."""
    ids = {id(p) for group in param_groups(model, DECAY, **options) if group["weight_decay"] for p in group["params"]}
    return {name for name, p in model.named_parameters() if id(p) in ids}


def assert_each_once(model, groups):
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    assert all(group["params"] for group in groups)


@pytest.mark.parametrize("name", [name for name, row in NORMALIZERS.items() if row.for_channels and name != "sync"])
def test_nets_with_any_normalizer_decay_convolutions_and_the_classifier(name):
    net = nw.nets.resnet(8, name, in_channels=1)
    assert_each_once(net, param_groups(net, DECAY, gate_lr=1.0))
    weights = {n for n, m in net.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    assert decayed(net) == {f"{n}.weight" for n in weights}


@pytest.mark.parametrize("row", NORMALIZERS.values(), ids=NORMALIZERS)
def test_no_normalizer_of_the_table_decays(row):
    for rank in (1, 2, 3):
        if row.name == "spade" and rank != 2:
            continue
        layer = row.make(4, rank, None)
        if next(layer.parameters(), None) is None:
            continue
        # Those inside SPADE and the adaptive norms; and what decays to the identity.
        weights = {f"{n}.weight" for n, m in layer.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
        assert decayed(layer) == (weights | ({"weight"} if row.name.endswith("-zero") else set()))
        assert_each_once(layer, param_groups(layer, DECAY))


@pytest.mark.parametrize(
    "layer",
    [
        nn.LayerNorm((3, 4)),
        nn.RMSNorm((3, 4)),
        nn.BatchNorm1d(3),
        nn.SyncBatchNorm(3),
        nn.InstanceNorm3d(3, affine=True),
        nn.GroupNorm(1, 3),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_torchs_normalizers_do_not_decay(layer):
    assert decayed(layer) == set()


class Everything(nn.Module):
    """One of each kind of parameter."""

    def __init__(self):
        super().__init__()
        self.scaled = nw.ScaledWSConv2d(1, 4, 3)
        self.parametrized = nw.scaled_weight_standardization(nn.Conv2d(4, 4, 3))
        self.spectral = spectral_norm(nn.Linear(5, 1))
        self.normed = parametrizations.weight_norm(nn.ConvTranspose2d(4, 4, 2))
        self.depthwise = nn.Conv2d(4, 4, 1, groups=4, bias=False)
        self.skip_gain = nn.Parameter(torch.zeros(()))
        self.layer_scale = nn.Parameter(torch.ones(4, 1, 1))
        self.position = nn.Parameter(torch.zeros(1, 7, 4))
        self.attention = nn.MultiheadAttention(4, 2)
        self.rnn = nn.LSTM(1, 3)
        self.embedding = nn.Embedding(9, 3)
        self.gate = nw.BatchInstanceNorm2d(4)
        self.mixture = nw.SwitchableNorm2d(4)
        self.head = nn.Linear(4, 1)


EXPECTED = {
    *("scaled.weight", "parametrized.parametrizations.weight.original", "spectral.parametrizations.weight.original"),
    *("normed.parametrizations.weight.original1", "depthwise.weight", "position", "attention.in_proj_weight"),
    *("attention.out_proj.weight", "rnn.weight_ih_l0", "rnn.weight_hh_l0", "embedding.weight", "head.weight"),
}


def test_one_of_each_kind():
    model = Everything()
    assert decayed(model) == EXPECTED
    assert_each_once(model, param_groups(model, DECAY))


def test_the_gain_of_the_older_weight_norm_does_not_decay():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        layer = nn.utils.weight_norm(nn.Linear(3, 2))
    assert decayed(layer) == {"weight_v"}


def test_an_optimizer_decays_exactly_these():
    model = Everything()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
    torch.optim.SGD(param_groups(model, DECAY, lr=0.5)).step()
    for name, parameter in model.named_parameters():
        factor = 1 - 0.5 * DECAY if name in EXPECTED else 1.0
        torch.testing.assert_close(parameter.detach(), factor * before[name], rtol=1e-6, atol=0)


def test_gates_get_a_rate_of_their_own():
    model = Everything()
    groups = param_groups(model, DECAY, lr=0.1, gate_lr=1.0)
    assert [group["lr"] for group in groups] == [0.1, 0.1, 1.0]
    assert [group["weight_decay"] for group in groups] == [DECAY, 0.0, 0.0]
    mixture = model.mixture
    expected = [*gates(model), mixture.mean_weight, mixture.var_weight]
    assert {id(p) for p in groups[2]["params"]} == {id(p) for p in expected}
    assert_each_once(model, groups)
    without = param_groups(model, DECAY)
    assert len(without) == 2
    assert all("lr" not in group for group in without)


def test_shared_parameters_are_in_one_group_once():
    model = nn.ModuleList([nn.Embedding(7, 4), nn.Linear(4, 7), nn.LayerNorm(4), nw.LayerNorm(4)])
    model[1].weight = model[0].weight
    model[3].weight = model[2].weight
    assert_each_once(model, param_groups(model, DECAY))
    assert decayed(model) == {"0.weight"}


def test_frozen_parameters_stay_in_their_group_and_are_not_moved():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    model[0].requires_grad_(False)
    frozen = model[0].weight.clone()
    optimizer = torch.optim.SGD(param_groups(model, DECAY, lr=0.1))
    assert_each_once(model, optimizer.param_groups)
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    assert torch.equal(model[0].weight, frozen)
    model[0].requires_grad_(True)
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    assert not torch.equal(model[0].weight, frozen)


def test_modules_of_the_callers_own_without_decay():
    class Whitening(nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix = nn.Parameter(torch.eye(3))

    model = nn.Sequential(nn.Linear(3, 3), Whitening())
    assert decayed(model) == {"0.weight", "1.matrix"}
    assert decayed(model, no_decay=[model[1]]) == {"0.weight"}


def test_groups_without_members_are_left_out():
    assert [g["weight_decay"] for g in param_groups(nn.Linear(3, 2, bias=False), DECAY)] == [DECAY]
    assert [g["weight_decay"] for g in param_groups(nn.GroupNorm(1, 3), DECAY, gate_lr=0.1)] == [0.0]


def test_bad_input():
    with pytest.raises(TypeError, match="expects a model, received generator"):
        param_groups(nn.Linear(2, 2).parameters(), DECAY)
    with pytest.raises(ValueError, match="ReLU has no parameters"):
        param_groups(nn.ReLU(), DECAY)
    for name in ("weight_decay", "lr", "gate_lr"):
        with pytest.raises(ValueError, match=f"{name} must be at least 0, received -1"):
            param_groups(nn.Linear(2, 2), **({"weight_decay": DECAY} | {name: -1}))


def test_a_learning_rate_may_be_a_tensor_of_one_value():
    rate = torch.tensor(0.1)
    assert all(group["lr"] is rate for group in param_groups(nn.Linear(2, 2), DECAY, lr=rate))


class WithPositions(nn.Module):
    """As timm's models say it: by names from themselves on, also of what this one does not have."""

    def __init__(self):
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(1, 5, 3))
        self.head = nn.Linear(3, 4)

    def no_weight_decay(self):
        return {"positions", "token", "head.bias"}


def test_what_a_model_keeps_from_decay():
    assert decayed(WithPositions()) == {"head.weight"}
    wrapped = nn.Sequential(WithPositions(), nn.Linear(4, 2))
    assert decayed(wrapped) == {"0.head.weight", "1.weight"}
    assert_each_once(wrapped, param_groups(wrapped, DECAY))
    model = WithPositions()
    model.no_weight_decay = ["positions"]  # no method: something else of that name
    assert decayed(model) == {"positions", "head.weight"}


def test_parameters_and_modules_without_decay():
    model = WithPositions()
    model.no_weight_decay = None
    assert decayed(model, no_decay=[model.positions]) == {"head.weight"}
    assert decayed(model, no_decay=iter([model.positions, model.head])) == set()
    assert_each_once(model, param_groups(model, DECAY, no_decay=[model.head.weight]))


def test_what_cannot_be_kept_from_decay():
    model = WithPositions()
    with pytest.raises(TypeError, match=r"modules and parameters, received str; write model.get_parameter\('head'\)"):
        param_groups(model, DECAY, no_decay=["head"])
    with pytest.raises(TypeError, match="modules and parameters, received NoneType"):
        param_groups(model, DECAY, no_decay=[None])
    with pytest.raises(ValueError, match=r"no_decay has a tensor \[2, 2\] that is no parameter of WithPositions"):
        param_groups(model, DECAY, no_decay=[nn.Parameter(torch.zeros(2, 2))])
