"""The measured cubes, against pools that are stated independently of the package."""

import itertools
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from stated_pools import BATCH, EVALUATION, GROUP, INSTANCE, PLANE_AND_BATCH, POSITION, TRAINING
from torch import nn

import normwise as nw
from normwise.layers import NORMALIZERS

N, C, H, W = 4, 6, 2, 2
NUMBERS = {"group": 3, "evo-s0": 3, "ghost": 2}


def layer_of(name):
    return NORMALIZERS[name].make(C, 2, NUMBERS.get(name))


def input_of(name):
    return torch.randn(N, H, W, C) if not NORMALIZERS[name].of_maps else torch.randn(N, C, H, W)


def values(shape, rows):
    """Every place of x, with what it is: (n, c, s)."""
    for place in itertools.product(*map(range, shape)):
        c, space = (place[-1], place[1:-1]) if rows else (place[1], place[2:])
        yield place, (place[0], c, space)


def assert_stated(told, stated, rows=False):
    """The same groups and the same reads as stated, whatever the numbers of the groups are."""
    every = list(values(told.cube.shape, rows))
    named = {}
    for place, value in every:
        number = int(told.cube[place])
        key = stated.shares(value)
        entering = [stated.enters(value, other) for _, other in every]
        alone = sum(entering) <= stated.enters(value, value)
        assert (number == -1) == alone
        assert told.reads(*place).flatten().tolist() == ([False] * len(every) if alone else entering)
        if not alone:
            assert named.setdefault(key, number) == number
    assert sorted(named.values()) == list(range(len(named)))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", NORMALIZERS)
def test_a_row_has_the_pools_that_its_paper_states(name, training):
    told = nw.explain(layer_of(name).train(training), input_of(name))
    assert_stated(told, (TRAINING if training else EVALUATION)[name], rows=not NORMALIZERS[name].of_maps)


def test_every_row_is_stated():
    assert TRAINING.keys() == EVALUATION.keys() == NORMALIZERS.keys()


@pytest.mark.parametrize("name", ["batch", "group", "instance", "switchable", "renorm", "batch-instance"])
@pytest.mark.parametrize("shape", [(3, 6, 4), (2, 6, 2, 1, 2)], ids=["1d", "3d"])
def test_other_ranks(name, shape):
    layer = NORMALIZERS[name].make(C, len(shape) - 2, NUMBERS.get(name))
    assert_stated(nw.explain(layer, torch.randn(shape)), TRAINING[name])


class HalfAnInstanceNorm(nn.Module):
    """A planted fault: the last sample is normalized by the statistics of the batch."""

    def forward(self, x):
        own, batch = F.instance_norm(x), F.batch_norm(x, None, None, training=True)
        return torch.cat([own[:-1], batch[-1:]])


def test_a_planted_fault_shows():
    told = nw.explain(HalfAnInstanceNorm(), torch.randn(N, C, H, W))
    with pytest.raises(AssertionError):
        assert_stated(told, INSTANCE)
    assert told.reads(0, 0, 0, 0).sum() == H * W
    assert told.reads(3, 0, 0, 0).sum() == N * H * W
    assert told.properties["Pools over the batch?"] == "yes"


def test_what_leaks_from_one_channel_only_shows_in_its_reads():
    def leaks(x):
        fourth = (torch.arange(C) == 4).view(1, C, 1, 1)
        return F.instance_norm(x) + x[:, :1].mean((2, 3), keepdim=True).square() * fourth

    told = nw.explain(leaks, torch.randn(2, C, H, W))
    assert told.reads(1, 4, 0, 0).sum((0, 2, 3)).tolist() == [4, 0, 0, 0, 4, 0]


TWINS = [
    (nn.BatchNorm2d(C), BATCH),
    (nn.InstanceNorm2d(C), INSTANCE),
    (nn.GroupNorm(3, C, affine=False), GROUP),
    (nn.Sequential(nn.GroupNorm(3, C), nn.SiLU()), GROUP),
    (nw.GroupNorm(3, C, activation="relu"), GROUP),
    (nw.BatchNorm2d(C, activation="relu"), BATCH),
    (nw.EvoNormS0(C, 3), GROUP),
    (partial(F.group_norm, num_groups=3), GROUP),
    (lambda x: F.batch_norm(x, None, None, training=True), BATCH),
]


@pytest.mark.parametrize(("layer", "stated"), TWINS, ids=lambda each: type(each).__name__)
def test_modules_and_functions_of_others(layer, stated):
    assert_stated(nw.explain(layer, torch.randn(N, C, H, W)), stated)


def half_batch_half_instance(moments, weight, bias):
    batch = moments.over_batch()
    mean, var = (moments.mean + batch.mean) / 2, (moments.var + batch.var) / 2
    return nw.Affine(mean, weight * (var + 1e-5).rsqrt(), bias)


@nw.formula
def scale_of_groups(moments, weight, eps=1e-5, groups=3):
    return nw.Affine(0.0, weight * (moments.over_groups(groups).var + eps).rsqrt(), 0.0)


@pytest.mark.parametrize(("formula", "stated"), [(half_batch_half_instance, PLANE_AND_BATCH), (scale_of_groups, GROUP)])
def test_a_formula(formula, stated):
    assert_stated(nw.explain(formula), stated)
    told = nw.explain(formula, torch.randn(N, C, H, W))
    assert_stated(told, stated)
    assert f"def {formula.__name__}(moments" in told.formula
    assert "\n    return nw.Affine(" in told.formula


def test_a_formula_with_parameters_of_its_own():
    def two(moments, table):
        return nw.Affine(moments.over_channels().mean * table.sum(), table[0], table[1:2])

    x = torch.randn(2, 3, 2)
    assert int(nw.explain(two, x, torch.tensor([0.5, 0.3])).cube.max()) == 1


class Windows(nn.Module):
    """Means of 3 neighbouring positions, without a gradient, as local context normalization takes them."""

    def forward(self, x):
        with torch.no_grad():
            mean = F.avg_pool1d(x, 3, 1, 1, count_include_pad=False)
        return x - mean


def test_windows_without_a_gradient():
    told = nw.explain(Windows(), torch.randn(1, 2, 5))
    assert told.cube.flatten().tolist() == list(range(10))
    assert told.reads(0, 1, 3).int().tolist() == [[[0] * 5, [0, 0, 1, 1, 1]]]


class Range(nn.Module):
    """By the largest and the smallest value of a sample, which few values are."""

    def forward(self, x):
        return (x - x.amax((1, 2), keepdim=True)) / (x.amax((1, 2), keepdim=True) - x.amin((1, 2), keepdim=True) + 1)


def test_a_maximum_is_read_from_all():
    told = nw.explain(Range(), torch.randn(2, 3, 3))
    assert told.cube[:, 0, 0].tolist() == [0, 1]
    assert told.reads(0, 1, 1).sum((1, 2)).tolist() == [9, 0]


def test_renorm_that_is_not_clipped_still_pools_the_batch():
    """Its output is then that of the running statistics, its gradient that of the batch."""
    layer = nw.BatchRenorm2d(C, r_max=1e3, d_max=1e3)
    assert_stated(nw.explain(layer, torch.randn(N, C, H, W)), BATCH)


def test_gates_and_weights_at_their_special_points():
    layer = nw.BatchInstanceNorm2d(C)
    for start in (0.0, 1.0):
        nn.init.constant_(layer.gate, start)
        assert_stated(nw.explain(layer, torch.randn(N, C, H, W)), PLANE_AND_BATCH)
    silent = nw.BatchNorm2d(C)
    nn.init.zeros_(silent.weight)
    assert_stated(nw.explain(silent, torch.randn(N, C, H, W)), BATCH)


def test_a_mask_leaves_values_out():
    mask = torch.rand(N, H, W) > 0.3
    told = nw.explain(nw.BatchNorm2d(C), torch.randn(N, C, H, W), mask=mask)
    left_out = ~mask.unsqueeze(1).expand(N, C, H, W)
    assert torch.equal(told.cube == -2, left_out)
    place = tuple(left_out.nonzero()[0].tolist())
    assert torch.equal(told.reads(*place), ~left_out & (torch.arange(C) == place[1]).view(1, C, 1, 1))
    inside = tuple((~left_out).nonzero()[0].tolist())
    assert told.reads(*inside)[left_out].sum() == 0
    # What is remembered, and the channels at a position, know no padding.
    assert (nw.explain(nw.BatchNorm2d(C).eval(), torch.randn(N, C, H, W), mask=mask).cube == -1).all()
    assert_stated(nw.explain(nw.LayerNorm2d(C), torch.randn(N, C, H, W), mask=mask), POSITION)


def test_lengths_and_masks_of_rows():
    told = nw.explain(nw.GroupNorm(3, C), torch.randn(3, C, 4), lengths=torch.tensor([4, 2, 3]))
    assert (told.cube == -2)[:, 0].tolist() == [[False] * 4, [False, False, True, True], [False, False, False, True]]
    rows = torch.tensor([[True, True, False, True], [True, True, True, True]])
    told = nw.explain(nw.LayerNorm(4), torch.randn(2, 4), mask=rows)
    assert told.cube.tolist() == [[0, 0, -2, 0], [1, 1, 1, 1]]


class RoundsOtherwise(nn.Module):
    """As a layer whose kernel serves with a graph, and torch's operator without one, where that was measured."""

    def forward(self, x):
        return F.instance_norm(x) * (1 if torch.is_grad_enabled() else 1 + 2**-40)


def test_another_rounding_without_a_graph_is_no_randomness():
    assert_stated(nw.explain(RoundsOtherwise(), torch.randn(N, C, H, W)), INSTANCE)


class IgnoresTheMask(nn.Module):
    def forward(self, x, mask=None):
        return F.instance_norm(x)


def test_a_mask_that_is_ignored_shows():
    told = nw.explain(IgnoresTheMask(), torch.randn(2, 3, 4), mask=torch.tensor([[True] * 3 + [False]] * 2))
    assert_stated(told, INSTANCE)


@pytest.mark.parametrize(
    "x", [torch.zeros(2, C, 4), torch.full((2, C, 4), 1e4), torch.randn(2, C, 4).half() * 1e-3 + 7]
)
def test_the_values_of_x_do_not_matter(x):
    assert_stated(nw.explain(nw.GroupNorm(3, C), x), GROUP)
    x[0, 0, 0] = torch.nan
    assert_stated(nw.explain(nw.GroupNorm(3, C), x), GROUP)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_gradients_of_the_callers(context):
    with context():
        assert_stated(nw.explain(nw.BatchNorm2d(C)), BATCH)


def test_ghost_batches_with_a_rest():
    told = nw.explain(nw.GhostBatchNorm2d(2, ghost_size=3), torch.randn(5, 2, 2, 1))
    assert told.cube[:, :, 0, 0].tolist() == [[0, 1]] * 3 + [[2, 3]] * 2
    assert told.properties["Range of a statistic"] == "chunks of N, space"


@pytest.mark.parametrize("name", [name for name, row in NORMALIZERS.items() if row.pool not in ("-",)])
def test_the_table_of_properties(name):
    """Against the columns of the table of rows, where these say one pool."""
    row, told = NORMALIZERS[name], nw.explain(layer_of(name), input_of(name))
    assert (told.properties["Pools over the batch?"] != "no") == row.uses_batch
    assert (told.properties["Uses space?"] == "yes") == ("space" in row.pool)
    if name in ("batch", "group", "instance", "layer", "ghost", "token-layer", "ibn"):
        assert told.properties["Range of a statistic"] == row.pool


def test_a_long_name_fits_into_its_picture():
    """16 px bold takes up to 10 px for a letter, 9.7 in DejaVu Sans."""
    title = "LayerNorm of tokens, zero-centered, training"
    svg = nw.explain("token-layer-zero").svg()
    assert f">{title}</text>" in svg
    assert float(svg.partition('width="')[2].partition('"')[0]) >= 24 + 10 * len(title)
