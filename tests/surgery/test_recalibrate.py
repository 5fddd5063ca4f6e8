"""The numbers of `recalibrate`: the population's, whatever the batches, the layers and the way they are called."""

import copy
from collections import namedtuple

import pytest
import torch
from recalibration import moments, net, photographs, unwarned
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

import normwise as nw


def recalibrated(model, loader, **options):
    with unwarned():
        return nw.recalibrate(model, loader, **options)


def check(layer, *parts, tolerance=1e-6):
    mean, var = moments(*parts)
    assert_close(layer.running_mean.double(), mean, rtol=tolerance, atol=tolerance)
    assert_close(layer.running_var.double(), var, rtol=tolerance, atol=tolerance)


def test_a_short_last_batch_counts_for_its_samples():
    """torch's `update_bn` weighs batches: 3.73 where the mean is 0.06."""
    torch.manual_seed(0)
    loader = [torch.randn(512, 3), torch.randn(4, 3) + 7.5]
    peer, layer = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    update_bn(loader, peer)
    recalibrated(layer, loader)
    assert peer.running_mean.min() > 3
    check(layer, *loader)


def test_a_last_batch_of_a_single_value_counts_too():
    loader = [torch.randn(5, 3), torch.randn(1, 3)]
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    recalibrated(model, loader)
    check(model[0], *loader)


def test_a_mean_of_many_deviations_does_not_cancel():
    """fvcore's E[x²] - E[x]² gives a variance of -0.06 here."""
    torch.manual_seed(0)
    loader = [torch.randn(64, 2, 5) * 0.05 + 1000 for _ in range(4)]
    layer = nn.BatchNorm1d(2)
    recalibrated(layer, loader)
    check(layer, *loader, tolerance=1e-4)


def test_maps_of_different_sizes_pool_by_their_values():
    loader = [torch.randn(3, 2, 4, 4), torch.randn(2, 2, 9, 5) + 1]
    layer = nw.BatchNorm2d(2)
    recalibrated(layer, loader)
    check(layer, *loader)


@pytest.mark.parametrize("upstream", ["batch", "running"])
def test_what_deeper_layers_are_given(upstream):
    model, x = net(), photographs(40)
    reference = copy.deepcopy(model).double()
    recalibrated(model, x.split(16), upstream=upstream)
    check(model[1], reference[0](x.double()))
    deep = []
    mean, var = moments(reference[0](x.double()))
    for part in x.double().split(16):
        h = reference[0](part)
        h = F.batch_norm(h, mean, var) if upstream == "running" else F.batch_norm(h, None, None, training=True)
        deep.append(reference[5](h.relu()))
    check(model[6], *deep, tolerance=1e-5)


def test_parallel_branches_are_one_generation_and_a_chain_is_many():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.BatchNorm1d(2) for _ in range(3))

        def forward(self, x):
            y = torch.zeros_like(x)
            y[:, :1] = self.a(x)[:, :1]  # in place, through a view
            return self.c(y + self.b(x))

    model, reads = Branches(), []

    class Loader(list):
        def __iter__(self):
            reads.append(1)
            return super().__iter__()

    x = torch.randn(50, 2) * 3 + 1
    recalibrated(model, Loader([x]), upstream="running")
    assert len(reads) == 4  # is it an iterator; who comes first; two generations
    a = (x - model.a.running_mean) / (model.a.running_var + 1e-5).sqrt()
    check(model.c, torch.cat([2 * a[:, :1], a[:, 1:]], 1))


def test_a_layer_that_is_called_twice_pools_its_calls():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(2)

        def forward(self, x):
            return self.norm(x), self.norm(x + 4)

    model, x = Twice(), torch.randn(30, 2)
    recalibrated(model, x.split(7))
    check(model.norm, x, x + 4)


KINDS = [nn.SyncBatchNorm, nw.SyncBatchNorm, nn.BatchNorm2d, nw.BatchNorm2d, nw.GhostBatchNorm2d]


@pytest.mark.parametrize("kind", KINDS)
def test_batch_layers_of_all_kinds(kind):
    layer, x = kind(3), photographs(24)
    recalibrated(layer, x.split(10))
    check(layer, x)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nw.BatchRenorm2d(3, r_max=1.1, d_max=0.1),
        lambda: nw.SwitchableNorm2d(3),
        lambda: nw.BatchInstanceNorm2d(3),
        lambda: nw.EvoNormB0(3),
    ],
)
def test_layers_with_batch_statistics_among_others(make):
    model, x = nn.Sequential(make(), nn.BatchNorm2d(3)), photographs(24)
    with torch.no_grad():
        model[0].running_var.fill_(50)  # wrecked: nothing may depend on it
    recalibrated(model, [x], upstream="batch")
    check(model[0], x)
    twin = make().eval()
    twin.running_mean.copy_(x.mean((0, 2, 3)))
    twin.running_var.copy_(x.var((0, 2, 3), correction=0))
    check(model[1], twin(x), tolerance=1e-5)


@pytest.mark.parametrize("kind", [nn.InstanceNorm1d, nw.InstanceNorm1d])
def test_tracked_instance_norm_averages_over_samples(kind):
    x = torch.randn(11, 3, 7) * torch.rand(11, 1, 1) + torch.randn(11, 3, 1)
    layer = kind(3, track_running_stats=True)
    recalibrated(layer, [*x[:8].split(5), *x[8:]])  # the last three without a batch dimension
    assert_close(layer.running_mean, x.mean(2).mean(0))
    assert_close(layer.running_var, x.var(2).mean(0))


class FrozenBatchNorm2d(nn.Module):
    """As torchvision's and detectron2's: nothing but buffers."""

    def __init__(self, channels):
        super().__init__()
        for name, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            self.register_buffer(name, torch.full((channels,), float(value)))

    def forward(self, x):
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        return x * scale.view(-1, 1, 1) + (self.bias - self.running_mean * scale).view(-1, 1, 1)


def test_frozen_layers_are_recalibrated_and_normalize_by_the_batch_meanwhile():
    x = photographs(24)
    model = nn.Sequential(FrozenBatchNorm2d(3), nn.BatchNorm2d(3), nw.BatchNorm2d(3))
    nw.freeze(model[2])
    recalibrated(model, [x])
    check(model[0], x)
    check(model[1], F.batch_norm(x, None, None, training=True), tolerance=1e-5)
    assert model[2].policy.frozen
    assert_close(model[2].running_var, torch.ones(3), rtol=1e-2, atol=0)


def test_masks_and_lengths_leave_out_the_padding():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nw.BatchNorm1d(2)

        def forward(self, x, lengths):
            return self.norm(x, lengths=lengths)

    x, lengths = torch.randn(6, 2, 5), torch.tensor([5, 1, 3, 0, 2, 4])
    model = Masked()
    recalibrated(model, [(x[:4], lengths[:4]), (x[4:], lengths[4:])])
    kept = torch.cat([x[n, :, :k] for n, k in enumerate(lengths)], 1).T
    check(model.norm, kept)


def test_half_precision_is_measured_in_full():
    x = torch.randn(64, 3, dtype=torch.bfloat16) + 20
    layer = nn.BatchNorm1d(3).bfloat16()
    recalibrated(layer, x.split(5))
    mean, _ = moments(x)
    assert_close(layer.running_mean, mean.bfloat16())


def test_conditional_layers_and_banks():
    layer, x = nw.ConditionalBatchNorm1d(3, 2), torch.randn(20, 3) + 2
    with nw.statistics_bank(layer, "night"):
        recalibrated(layer, [(x, torch.zeros(20, dtype=torch.long))])
    assert_close(layer.running_mean, torch.zeros(3))
    check(layer.banks["night"], x)


Pair = namedtuple("Pair", "x target")
X = torch.arange(12.0).reshape(4, 3)


@pytest.mark.parametrize(
    "batch",
    [X, (X, torch.zeros(4)), [X, torch.zeros(4), "names"], {"x": X, "labels": torch.zeros(4)}, Pair(X, torch.zeros(4))],
)
def test_default_rules_of_batches(batch):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x, scale=1.0):
            return self.norm((x.x if isinstance(x, Pair) else x) * scale)

    model = Net()
    recalibrated(model, [batch])
    check(model.norm, X)


def test_forward_says_how_a_batch_is_passed():
    layer = nn.BatchNorm1d(3)
    recalibrated(layer, [{"image": X}], forward=lambda model, batch: model(batch["image"] + 1))
    check(layer, X + 1)
    with pytest.raises(TypeError, match=r"batch 1 is a dict of 'a', 'x', which TwoInputs.* say how with forward="):
        recalibrated(TwoInputs(), [{"a": X, "x": X}])


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x, y):
        return self.norm(x + y)


def test_blend_keeps_a_part_of_the_old():
    layer, x = nn.BatchNorm1d(3), torch.randn(40, 3) + 5
    layer(torch.randn(8, 3))
    mean, var = layer.running_mean.clone(), layer.running_var.clone()
    recalibrated(layer, [x], blend=0.25)
    assert_close(layer.running_mean, 0.75 * mean + 0.25 * x.mean(0))
    assert_close(layer.running_var, 0.75 * var + 0.25 * x.var(0))


def test_steps_stop_a_long_loader_and_a_short_one_is_no_error():
    loader = [torch.randn(6, 3) for _ in range(5)]
    layer = nn.BatchNorm1d(3)
    assert recalibrated(layer, loader, steps=2).batches == 2
    check(layer, *loader[:2])
    assert recalibrated(layer, loader, steps=100).samples == 30
    check(layer, *loader)


def test_a_shuffling_loader_and_a_generator():
    x = torch.randn(50, 3)
    for loader in (DataLoader(TensorDataset(x), batch_size=8, shuffle=True), (part for part in x.split(8))):
        layer = nn.BatchNorm1d(3)
        recalibrated(layer, loader)
        check(layer, x)


def test_an_endless_loader_ends_when_the_means_are_sure():
    def endless():
        while True:
            yield torch.randn(100, 1, 10, 10)

    result = nw.recalibrate(nn.BatchNorm2d(1), endless())
    assert result.converged
    assert result.samples == 1000


def test_tolerance_ends_early():
    x = torch.randn(4000, 2)
    result = nw.recalibrate(nn.BatchNorm1d(2), x.split(100), tolerance=0.05)
    assert result.converged
    assert 300 < result.samples < 900
    assert max(row.uncertainty for row in result.rows) <= 0.05


def test_uncertainty_is_the_standard_error_of_the_samples_means():
    x = photographs(30)
    row = recalibrated(nn.BatchNorm2d(3), x.split(7)).rows[0]
    expected = x.mean((2, 3)).std(0) / 30**0.5 / x.var((0, 2, 3), correction=0).sqrt()
    assert row.uncertainty == pytest.approx(expected.max().item(), rel=1e-5)


def test_drift_is_in_old_deviations():
    layer = nn.BatchNorm1d(1, momentum=None)
    layer(torch.tensor([[-2.0], [2.0]]))
    x = torch.tensor([[7.0], [13.0], [10.0]])
    row = recalibrated(layer, [x]).rows[0]
    assert row.drift == pytest.approx(((10**2 + (3 - 8**0.5) ** 2) / 8) ** 0.5, rel=1e-4)
    assert recalibrated(nn.BatchNorm1d(1), [x]).rows[0].drift is None  # never updated: nothing to move from


def test_the_counter_is_raised_and_never_lowered():
    layer, x = nn.BatchNorm1d(3, momentum=None), torch.randn(40, 3)
    recalibrated(layer, x.split(8))
    assert layer.num_batches_tracked == 5
    layer.num_batches_tracked.fill_(100)
    recalibrated(layer, x.split(8))
    assert layer.num_batches_tracked == 100


def small_batches(x, size):
    return [part for part in x.split(size) if len(part) == size]


def test_evalnorm_measures_the_share_of_independent_samples():
    torch.manual_seed(0)
    x = torch.randn(3000, 4, 3, 3) + torch.randn(3000, 4, 1, 1) * 2 + 5
    model = nn.Sequential(nn.BatchNorm2d(4))
    nw.recalibrate(model, small_batches(x, 5), method="evalnorm")
    assert model[0].share == pytest.approx(1 / 5, rel=0.1)
    check(model[0], x, tolerance=1e-5)


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nw.BatchNorm2d, nn.SyncBatchNorm])
def test_evalnorm_evaluates_by_the_paper(kind):
    """The statistics of the sample and of the population, mixed in fp64 NumPy."""
    torch.manual_seed(0)
    x = torch.randn(40, 3, 4, 4) * 3 + torch.randn(40, 3, 1, 1) + 2
    model = nn.Sequential(kind(3)).eval()
    with torch.no_grad():
        model[0].weight.uniform_(0.5, 2)
        model[0].bias.normal_()
    old, names = model[0], list(model.state_dict())
    with unwarned():
        result = nw.recalibrate(model, x.split(4), method="evalnorm")
    layer = model[0]
    assert layer.weight is old.weight
    data, alpha = x.double().numpy(), layer.share.item()
    mean, var = (t.view(1, 3, 1, 1).numpy() for t in moments(x))
    own_mean, own_var = data.mean((2, 3), keepdims=True), data.var((2, 3), keepdims=True)
    mixed = (1 - alpha) * mean + alpha * own_mean
    spread = (1 - alpha) * var + alpha * own_var + alpha * (1 - alpha) * (own_mean - mean) ** 2
    gain, bias = (t.detach().double().view(1, 3, 1, 1).numpy() for t in (layer.weight, layer.bias))
    expected = gain * (data - mixed) / (spread + 1e-5) ** 0.5 + bias
    assert 0.1 < alpha < 0.5
    assert_close(model(x).detach().double(), torch.tensor(expected), rtol=1e-5, atol=1e-5)
    assert result.undo()[0] is old
    assert list(model.state_dict()) == names


def test_evalnorm_is_for_batchnorm_and_several_batches():
    x = torch.randn(8, 3)
    with pytest.raises(ValueError, match=r"compares batches, and the loader has a single one"):
        nw.recalibrate(nn.Sequential(nn.BatchNorm1d(3)), [x], method="evalnorm")
    with pytest.raises(ValueError, match=r"0 is a BatchRenorm1d; write method='population'"):
        nw.recalibrate(nn.Sequential(nw.BatchRenorm1d(3)), [x, x], method="evalnorm")
