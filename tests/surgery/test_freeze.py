"""`freeze` and `unfreeze` on layers of every origin."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import normwise as nw


class Activated(nn.BatchNorm2d):
    """As timm's BatchNormAct2d: a forward of its own, and modules inside."""

    def __init__(self, channels):
        super().__init__(channels)
        self.drop, self.act = nn.Dropout(), nn.ReLU()

    def forward(self, x):
        y = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )
        return self.act(self.drop(y))


KINDS = [
    nn.BatchNorm2d,
    nn.SyncBatchNorm,
    lambda c: nn.InstanceNorm2d(c, affine=True, track_running_stats=True),
    nw.BatchNorm2d,
    nw.GhostBatchNorm2d,
    nw.BatchRenorm2d,
    nw.SyncBatchNorm,
    lambda c: nw.InstanceNorm2d(c, affine=True, track_running_stats=True),
]


def used(make):
    torch.manual_seed(0)
    layer = make(3)
    with torch.no_grad():
        layer.running_mean.uniform_(-1, 1)
        layer.running_var.uniform_(1, 2)
    return layer


def memory(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("make", KINDS)
def test_a_frozen_layer_trains_by_its_running_statistics(make):
    model, x = nn.Sequential(used(make), nn.Dropout()), torch.randn(2, 3, 4, 4, requires_grad=True)
    layer = model[0]
    expected = F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=layer.eps)
    nw.freeze(model)
    before = memory(model)
    model.train()
    assert model[1].training
    y = layer(x)
    assert_close(y, expected)
    cotangent = torch.randn_like(y)
    for got, want in zip(
        torch.autograd.grad(y, [x, layer.weight], cotangent),
        torch.autograd.grad(expected, [x, layer.weight], cotangent),
        strict=True,
    ):
        assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert_close(memory(model), before, rtol=0, atol=0)
    nw.unfreeze(model)
    assert layer.training
    assert "train" not in vars(layer)
    if not isinstance(layer, nn.SyncBatchNorm):
        layer(x.detach())
        assert not torch.equal(layer.running_mean, before["0.running_mean"])


def test_what_is_inside_a_frozen_layer_follows_the_mode():
    model = nn.Sequential(Activated(3))
    nw.freeze(model)
    model.eval().train()
    assert [m.training for m in model.modules()] == [True, False, True, True]
    model.eval()
    nw.unfreeze(model)
    assert not any(m.training for m in model.modules())


def test_affine_takes_gamma_and_beta_out_of_the_optimizers_hands():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nw.BatchNorm2d(3))
    model[1].bias.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9, weight_decay=0.1)
    model(torch.randn(4, 3, 2, 2)).square().sum().backward()
    nw.freeze(model)  # twice, and the second time more
    nw.freeze(model, affine=True)
    before = memory(model[1:])
    for _ in range(2):
        optimizer.step()
    assert_close(memory(model[1:]), before, rtol=0, atol=0)
    assert [p.requires_grad for p in model.parameters()] == [True, True, False, False, False, False]
    nw.unfreeze(model)
    assert [p.requires_grad for p in model.parameters()] == [True, True, True, False, True, True]


@pytest.mark.parametrize("where", ["1", ["1"], "1*", lambda name, module: name == "1"])
def test_where_chooses(where):
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.BatchNorm2d(3))
    nw.freeze(model, where=where)
    assert [m.training for m in model.train()] == [True, False, True]


def test_copies_and_pickles_are_frozen_for_themselves():
    model = nn.Sequential(nn.BatchNorm1d(3))
    nw.freeze(model, affine=True)
    twin = copy.deepcopy(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    nw.unfreeze(model)
    assert model.train()[0].training
    for other in (twin, loaded):
        assert not other.train()[0].training
        nw.unfreeze(other)
        assert other[0].training
        assert other[0].weight.requires_grad


def test_the_state_dict_is_the_same():
    model = nn.Sequential(nn.BatchNorm1d(3), nw.BatchNorm1d(3))
    keys = list(model.state_dict())
    nw.freeze(model, affine=True)
    assert list(model.state_dict()) == keys


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_goes_through_compilers():
    model = nn.Sequential(nn.Conv1d(3, 3, 1), used(nn.BatchNorm1d)).train()
    nw.freeze(model)
    x = torch.randn(4, 3, 5)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert_close(compiled.train()(x), model(x))
    assert_close(torch.export.export(model.train(), (x,)).module()(x), model(x))
    assert_close(torch.jit.script(model)(x), model(x))


def test_models_in_wrappers():
    model = nn.Sequential(nn.BatchNorm1d(3))
    nw.freeze(nn.DataParallel(model))
    assert not model.train()[0].training
    nw.unfreeze(nn.DataParallel(model))
    assert model[0].training


def test_frozen_layers_of_others_are_left_as_they_are():
    """torchvision's FrozenBatchNorm2d has nothing but buffers."""
    layer = nn.Module()
    for name, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
        layer.register_buffer(name, torch.full((3,), float(value)))
    before = memory(layer)
    nw.freeze(nn.Sequential(layer), affine=True)
    nw.unfreeze(layer)
    assert_close(memory(layer), before)


def test_a_bank_of_somebody_elses_is_none_of_statistics():
    """As a contrastive model's bank of keys."""

    class WithABank(nn.Module):
        def __init__(self):
            super().__init__()
            self.bank, self.norm = nn.Linear(2, 2), nn.BatchNorm1d(2)

        def forward(self, x):
            return self.norm(self.bank(x))

    model = WithABank()
    nw.recalibrate(model, [torch.randn(4096, 2)])
    assert model.norm.running_mean.abs().min() > 0
    assert nw.freeze(model) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_cannot_be_frozen():
    with pytest.raises(ValueError, match=r"freeze: where='norm' matches none of the layers"):
        nw.freeze(nn.Linear(2, 2), where="norm")
    with pytest.raises(ValueError, match=r"freeze: where='head' matches none of the layers; there are 0\."):
        nw.freeze(nn.Sequential(nn.BatchNorm1d(2)), where="head")
    with pytest.raises(TypeError, match=r"freeze expects a torch\.nn\.Module, received list"):
        nw.freeze([nn.BatchNorm1d(2)])
    with pytest.raises(TypeError, match="freeze: RecursiveScriptModule runs in TorchScript"):
        nw.freeze(torch.jit.script(nn.BatchNorm1d(2)))


def test_update_bn_leaves_a_frozen_layer_of_torch_alone():
    model = nn.Sequential(used(nn.BatchNorm2d))
    assert nw.freeze(model) == 1
    before = memory(model)
    torch.optim.swa_utils.update_bn([torch.randn(4, 3, 2, 2)], model)
    assert_close(memory(model), before)
    assert nw.unfreeze(model) == 1
    torch.optim.swa_utils.update_bn([torch.randn(4, 3, 2, 2)], model)
    assert not torch.equal(model[0].running_mean, before["0.running_mean"])


def test_a_frozen_layer_is_frozen_after_a_swap_and_its_undo():
    model = nn.Sequential(used(nn.BatchNorm2d))
    nw.freeze(model)
    change = nw.swap(model, "renorm", start="copy")
    before = memory(model)
    model.train()(torch.randn(4, 3, 2, 2))
    assert_close(memory(model), before)
    change.undo()
    assert not model.train()[0].training


def test_a_frozen_layer_is_frozen_after_unsync():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), used(nn.SyncBatchNorm))
    nw.freeze(model, affine=True)
    nw.unsync(model.train())
    assert type(model[1]) is nn.BatchNorm2d
    assert not model.train()[1].training
    nw.unfreeze(model)
    assert model[1].training
    assert all(p.requires_grad for p in model.parameters())
