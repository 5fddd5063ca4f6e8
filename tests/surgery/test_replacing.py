"""A module takes another's place in a model: names, aliases, hooks, modes and ties stay, and all of it goes back."""

import copy
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from normwise.core.inheritance import share_tensors
from normwise.core.model_change import ModelChange
from normwise.core.module_tree import module_tree


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.body = nn.Sequential(nn.Linear(4, 4), self.norm, nn.ReLU())
        self.alias = self.norm
        self.plain = [self.norm, (self.first, self.norm)]
        self.by_name = {"norm": self.norm, "deep": {"list": [self.norm]}}

    def forward(self, x):
        return self.body(self.alias(self.plain[1][1](self.first(x))))


def held(net):
    return [net.norm, net.body[1], net.alias, net.plain[0], net.plain[1][1], net.by_name["norm"]] + net.by_name["deep"][
        "list"
    ]


def fingerprint(model):
    """Everything that a change could leave behind: objects by identity, one level deep."""
    return {
        (id(m), key): (id(v), [*map(id, v)] if isinstance(v, list) else repr(v) if isinstance(v, dict) else None)
        for m in model.modules()
        for key, v in vars(m).items()
    }


def test_the_tree_knows_each_module_once_with_all_its_places():
    net = Net()
    tree = module_tree(net)
    assert list(tree) == list(net.modules())
    node = tree[net.norm]
    assert node.name == "norm"
    assert node.names == ("norm", "body.1", "alias")
    assert len(node.places) == 7
    assert all(place.get() is net.norm for place in node.places)
    assert {place.name for place in node.places} >= {"plain[1][1]", "by_name['deep']['list'][0]"}
    assert tree[net].places == ()


def test_a_container_that_contains_itself_and_its_module_ends():
    net = nn.Sequential(nn.ReLU())
    net.loop = loop = [net]
    loop.append(loop)
    assert [place.name for place in module_tree(net)[net].places] == ["loop[0]"]


def test_replacing_reaches_every_place_and_undo_gives_the_same_objects_back():
    net, new = Net(), nn.Identity()
    keys = [*net._modules], [*net.body._modules]
    old, before = net.norm, fingerprint(net)
    with ModelChange(net, "test") as change:
        change.replace(old, new)
    assert all(module is new for module in held(net))
    assert keys == ([*net._modules], [*net.body._modules])
    assert change.undo() is net
    assert all(module is old for module in held(net))
    after = fingerprint(net)
    assert before.keys() == after.keys()
    plain = (id(net), "plain")  # the tuple within is made anew, with the same items
    assert {k: v for k, v in before.items() if k != plain} == {k: v for k, v in after.items() if k != plain}


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_any_exception_leaves_the_model_as_it_was(kind):
    net = Net()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    before, weight = fingerprint(net), net.first.weight

    def fail():
        with ModelChange(net, "test") as change:
            change.replace(net.norm, nn.GroupNorm(2, 4))
            change.set(net.first, "weight", nn.Parameter(torch.zeros(4, 4)))
            change.remove(net.first, "bias")
            change.set(net.first, "note", "new")
            change.write(net.body[0].weight, torch.zeros(4, 4), "body.0.weight")
            raise kind

    with pytest.raises(kind):
        fail()
    assert net.first.weight is weight
    assert not hasattr(net.first, "note")
    assert {**before, (id(net), "plain"): 0} == {**fingerprint(net), (id(net), "plain"): 0}
    torch.testing.assert_close(dict(net.state_dict()), state, rtol=0, atol=0)


def test_hooks_attributes_modes_and_gradients_go_along_and_handles_work():
    net = Net()
    net.norm.qconfig, net.norm._private = "mine", 1
    net.norm.eval().requires_grad_(False)
    seen = []
    handle = net.norm.register_forward_hook(lambda *_: seen.append("after"))
    net.norm.register_forward_pre_hook(lambda m, a, k: seen.append("before"), with_kwargs=True)
    net.norm.register_full_backward_hook(lambda m, *_: seen.append("back"))
    net.norm.register_state_dict_pre_hook(lambda m, *_: seen.append(type(m).__name__))
    net.norm.register_load_state_dict_pre_hook(lambda m, *_: seen.append(type(m).__name__))
    new = nn.GroupNorm(2, 4)
    with ModelChange(net, "test") as change:
        change.replace(net.norm, new)
    assert new.qconfig == "mine"
    assert not hasattr(new, "momentum")
    assert not new.training
    assert net.first.training
    assert not any(p.requires_grad for p in new.parameters())
    new(torch.randn(2, 4, requires_grad=True)).sum().backward()
    assert seen == ["before", "after", "back"]
    handle.remove()
    seen.clear()
    new(torch.randn(2, 4))
    assert seen == ["before"]
    seen.clear()
    new.load_state_dict(new.state_dict())
    assert seen == ["GroupNorm", "GroupNorm"]


def test_hooks_of_a_module_that_is_wrapped_run_once_and_come_back():
    net, seen = nn.Sequential(nn.BatchNorm1d(2)), []
    old = net[0]
    old.register_forward_hook(lambda m, *_: seen.append(type(m).__name__))
    with ModelChange(net, "test") as change:
        change.replace(old, nn.Sequential(old, nn.ReLU()))
    net(torch.randn(4, 2))
    assert seen == ["Sequential"]
    change.undo()
    net(torch.randn(4, 2))
    assert seen == ["Sequential", "BatchNorm1d"]


def test_device_dtype_and_old_module_inside():
    net = nn.Sequential(nn.BatchNorm2d(4)).to(torch.bfloat16)
    old = net[0]
    old.running_mean = old.running_mean.float()
    with ModelChange(net, "test") as change:
        change.replace(old, nn.Sequential(old, nn.GroupNorm(2, 4)))
    assert old.running_mean.dtype is torch.float32
    assert net[0][1].weight.dtype is torch.bfloat16


def test_shared_tensors_are_the_same_objects():
    old = nn.BatchNorm1d(4)
    share_tensors(new := nn.SyncBatchNorm(4), old)
    assert new.weight is old.weight
    assert new.running_mean is old.running_mean
    share_tensors(new := nn.BatchNorm1d(4), nn.BatchNorm1d(4, affine=False))
    assert new.weight is None


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


def test_parametrizations_go_along():
    old = parametrize.register_parametrization(nn.BatchNorm1d(4), "weight", Doubled())
    with torch.no_grad():
        old.parametrizations.weight.original.copy_(torch.arange(4.0))
    new = nn.SyncBatchNorm(4)
    share_tensors(new, old)
    torch.testing.assert_close(new.weight, 2 * torch.arange(4.0))
    assert old.state_dict().keys() == new.state_dict().keys()


def test_the_root_itself_is_replaced():
    root = nn.BatchNorm1d(4)
    with ModelChange(root, "test") as change:
        change.replace(root, new := nn.Identity())
    assert change.model is new
    assert change.undo() is root


def test_modules_of_a_new_module_can_be_replaced_in_turn():
    net = nn.Sequential(nn.BatchNorm1d(4))
    block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    with ModelChange(net, "test") as change:
        change.replace(net[0], block)
        change.replace(block[1], nn.Tanh())
    assert isinstance(net[0][1], nn.Tanh)
    change.undo()
    assert isinstance(net[0], nn.BatchNorm1d)
    assert isinstance(block[1], nn.ReLU)


def test_undo_refuses_what_was_changed_since_and_changes_nothing():
    net = Net()
    with ModelChange(net, "test") as change:
        change.replace(net.norm, new := nn.Identity())
    net.alias = mine = nn.Tanh()
    with pytest.raises(ValueError, match=r"test cannot be undone: alias holds another Tanh by now"):
        change.undo()
    assert net.norm is new
    assert net.alias is mine
    net.alias = new
    change.undo()
    with pytest.raises(ValueError, match="was undone already"):
        change.undo()


def test_undo_refuses_where_the_block_around_was_replaced_or_a_tensor_moved():
    net = nn.Sequential(nn.Sequential(nn.BatchNorm1d(4)), nn.Linear(4, 4))
    with ModelChange(net, "test") as change:
        change.replace(net[0][0], nn.Identity())
    net[0] = copy.deepcopy(net[0])
    with pytest.raises(ValueError, match=r"0\.0 is no longer part of the model"):
        change.undo()
    with ModelChange(net, "test") as change:
        change.write(net[1].weight, torch.zeros(4, 4), "1.weight")
    with torch.no_grad():
        net[1].weight.add_(1)
    with pytest.raises(ValueError, match=r"1\.weight has been changed since"):
        change.undo()


def test_what_is_no_module_of_the_model():
    with pytest.raises(ValueError, match="Tanh is no module of this model"):
        ModelChange(nn.Sequential(), "test").replace(nn.Tanh(), nn.ReLU())


def test_nothing_keeps_the_old_module_alive_but_the_change():
    net = nn.Sequential(nn.BatchNorm1d(4))
    alive = weakref.ref(net[0])
    with ModelChange(net, "test") as change:
        change.replace(net[0], nn.Identity())
    assert alive() is not None
    del change
    assert alive() is None
