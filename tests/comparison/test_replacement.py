"""Other people's normalization layers give way to ours."""

import pytest
import small_problems
import torch
from torch import nn

from normwise.comparison.contestants.replacement import replace_normalizers
from normwise.comparison.contestants.zoo import open_model
from normwise.layers import GroupNorm, InstanceNorm1d

IMAGES = torch.randn(2, 1, 8, 8)


class SharedAndUnused(nn.Module):
    """One normalizer used twice under two names, one never used."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.second = nn.BatchNorm2d(1)
        self.unused = nn.GroupNorm(1, 4)
        self.linear = nn.Linear(64, 3)

    def forward(self, x):
        return self.linear(self.second(torch.relu(self.first(x))).flatten(1))


def test_shared_layers_stay_shared_and_unused_ones_stay():
    network = open_model(SharedAndUnused, IMAGES, 3).build("layer", 0)
    assert network.sites == ("first",)
    assert network.module.first is network.module.second
    assert isinstance(network.module.first, GroupNorm)
    assert isinstance(network.module.unused, nn.GroupNorm)
    assert network.module.unused.num_groups == 1


class Signal(nn.Module):
    """A GroupNorm and a BatchNorm over [N, C, L], a BatchNorm over [N, C]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.group, self.batch = nn.Conv1d(2, 8, 3), nn.GroupNorm(2, 8), nn.BatchNorm1d(8)
        self.features, self.linear = nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x):
        return self.linear(self.features(self.batch(self.group(self.conv(x))).mean(2)))


def test_rank_is_that_of_the_signal():
    recipe = open_model(Signal, torch.randn(2, 2, 9), 3)
    assert recipe.ranks == {"group": 1, "batch": 1, "features": 0}
    with pytest.raises(ValueError, match=r"InstanceNorm has one value per sample and channel on features \[N, C\]"):
        recipe.build("instance", 0)
    assert recipe.build("batch", 0).module(torch.randn(4, 2, 9)).shape == (4, 3)
    only_maps = nn.Sequential(nn.Conv1d(2, 8, 3), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(56, 3))
    assert isinstance(open_model(only_maps, torch.randn(2, 2, 9), 3).build("instance", 0).module[1], InstanceNorm1d)


def test_the_activation_and_dropout_of_a_layer_follow_its_replacement():
    model = nn.Sequential(nn.Conv2d(1, 8, 3), small_problems.NormAct(8), nn.Flatten(), nn.Linear(8 * 36, 3))
    network = open_model(model, IMAGES, 3).build("group", 0)
    replaced = network.module[1]
    assert network.sites == ("1.norm",)
    assert isinstance(replaced.norm, GroupNorm)
    assert (replaced.drop.p, type(replaced.act)) == (0.5, nn.SiLU)
    x = torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(replaced.eval()(x), nn.functional.silu(nn.functional.group_norm(x, 2)))


def test_a_replacement_that_activates_takes_the_activations_place():
    model = nn.Sequential(nn.Conv2d(1, 8, 3), small_problems.NormAct(8), nn.Flatten(), nn.Linear(8 * 36, 3))
    replaced = open_model(model, IMAGES, 3).build("evo-s0", 0).module[1]
    assert isinstance(replaced.act, nn.Identity)
    x = torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(replaced.eval()(x), replaced.norm(x))


class PreActivation(nn.Module):
    """`x + conv(relu(norm(x)))` with an in-place ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.relu, self.linear = nn.BatchNorm2d(1), nn.ReLU(inplace=True), nn.Linear(64, 3)

    def forward(self, x):
        return self.linear((x + self.relu(self.norm(x))).flatten(1))


def test_an_inplace_activation_does_not_reach_through_a_missing_normalizer():
    module = open_model(PreActivation, IMAGES, 3).build("none", 0).module
    expected = module.linear((IMAGES + torch.relu(IMAGES)).flatten(1))
    torch.testing.assert_close(module(IMAGES.clone()), expected)


def test_a_new_layer_has_the_old_ones_places_hooks_and_mode():
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 3)).eval()
    model.kept, old, heard = [model[1]], model[1], []
    old.qconfig = "int8"
    old.weight.requires_grad_(False)
    old.register_forward_hook(lambda module, *_: heard.append(module))
    assert replace_normalizers(model, "group", {"1": 2}) == ["1"]
    new = model[1]
    assert isinstance(new, GroupNorm)
    assert model.kept[0] is new
    assert (new.qconfig, new.training, new.weight.requires_grad) == ("int8", False, False)
    model(IMAGES)
    assert heard == [new]


def trained():
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8, eps=1e-2), nn.InstanceNorm2d(8, track_running_stats=True)
    )
    for _ in range(3):
        model(IMAGES)
    return model.eval()


@pytest.mark.parametrize("norm", ["batch", "renorm", "ghost", "sync"])
def test_a_layer_that_remembers_batches_goes_on_from_the_old_ones_statistics(norm):
    model = trained()
    expected = model[:2](IMAGES)
    kept = model[1].num_batches_tracked.item()
    replace_normalizers(model, norm, {"1": 2})
    torch.testing.assert_close(model[:2](IMAGES), expected)
    assert (model[1].num_batches_tracked.item(), model[1].eps) == (kept, 1e-2)


def test_statistics_of_instances_are_not_those_of_batches():
    model = trained()
    replace_normalizers(model, "batch", {"2": 2})
    assert model[2].running_mean.tolist() == [0.0] * 8
    replace_normalizers(fresh := nn.Sequential(nn.BatchNorm2d(4, eps=1e-2)), "batch", {"0": 2})
    assert fresh[0].eps == 1e-5


def test_a_replacement_that_fails_changes_nothing():
    model = nn.Sequential(nn.Conv1d(2, 8, 3), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.BatchNorm1d(8))
    before = list(model)
    with pytest.raises(ValueError, match="InstanceNorm has one value"):
        replace_normalizers(model, "instance", {"1": 1, "3": 0})
    assert list(model) == before
    assert model[2].inplace
