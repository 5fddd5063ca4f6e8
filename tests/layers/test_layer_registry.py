"""`NORMALIZERS` and `make_norm`: names, classes and factories to layers, and helpful errors."""

import inspect

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import normwise as nw
from normwise import NORMALIZERS, make_norm
from normwise.layers import activates, default_groups, find_normalizer, map_normalizers

#: "sync" runs in several processes only and has its tests elsewhere.
BUILDABLE = [name for name in map_normalizers() if NORMALIZERS[name].condition is None and name != "sync"]


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("name", BUILDABLE)
def test_every_name_builds_the_layer_of_its_row(name, rank):
    layers = NORMALIZERS[name].layers
    assert type(make_norm(name, 12, rank=rank)) is layers.get(rank, layers.get(0))


@pytest.mark.parametrize("name", NORMALIZERS)
def test_a_row_says_what_it_is(name):
    row = NORMALIZERS[name]
    assert row.name == name
    assert row.title
    assert row.paper
    assert row.pool
    for rank, cls in row.layers.items():
        assert issubclass(cls, nn.Module)
        assert rank in (0, 1, 2, 3)
        if cls is not nn.Identity:
            assert getattr(nw, cls.__name__) is cls
            assert inspect.getdoc(cls)


@pytest.mark.parametrize("name", BUILDABLE)
def test_a_row_that_activates_is_not_linear_in_the_sign(name):
    """A normalizer alone maps -x to minus its output (weight 1, bias 0); one that activates does not."""
    layer = make_norm(name, 12)
    x = torch.randn(4, 12, 5, 5)
    with torch.no_grad():
        odd = torch.allclose(layer(-x), -layer(x), atol=1e-5)
    assert odd != NORMALIZERS[name].activates
    assert activates(layer) == NORMALIZERS[name].activates


def test_layers_that_activate():
    assert activates(nw.FilterResponseNorm2d(4))
    assert not activates(nw.FilterResponseNorm2d(4, activation=None))
    assert activates(nw.BatchNorm2d(4, activation="silu"))
    assert not any(map(activates, (nw.BatchNorm2d(4), nn.BatchNorm2d(4), nn.Identity(), nn.ReLU())))


# The oracles are torch.nn's layers as the papers compare them.
@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("batch", nn.BatchNorm2d(12)),
        ("group", nn.GroupNorm(3, 12)),
        ("group:6", nn.GroupNorm(6, 12)),
        ("group:12", nn.InstanceNorm2d(12)),
        ("instance", nn.InstanceNorm2d(12, affine=True)),
        ("layer", nn.GroupNorm(1, 12)),
        ("none", nn.Identity()),
    ],
)
def test_names_mean_what_torch_computes(name, oracle):
    x = torch.randn(4, 12, 5, 7)
    assert_close(make_norm(name, 12)(x), oracle(x))


def test_instance_has_an_affine_like_the_others():
    assert make_norm("instance", 6).weight is not None


@pytest.mark.parametrize("channels", [1, 2, 3, 7, 12, 64, 96, 100, 128, 320, 512, 2048])
def test_default_groups_divide_and_are_no_more_than_the_papers(channels):
    groups = default_groups(channels)
    assert channels % groups == 0
    assert 1 <= groups <= 32
    assert groups == 1 or channels // groups >= 4


def test_classes_and_factories():
    assert type(make_norm(nn.BatchNorm2d, 6)) is nn.BatchNorm2d
    assert type(make_norm(nw.InstanceNorm2d, 6)) is nw.InstanceNorm2d
    assert make_norm(nn.GroupNorm, 64).num_groups == default_groups(64)
    assert make_norm(lambda c: nn.GroupNorm(2, c), 6).num_groups == 2
    assert isinstance(make_norm(nn.Identity, 6), nn.Identity)


@pytest.mark.parametrize(
    ("written", "nearest"),
    [
        ("bacth", "batch"),
        ("BatchNorm", "batch"),
        ("groupnorm", "group"),
        ("instnace", "instance"),
        ("Layer", "layer"),
        ("nonee", "none"),
    ],
)
def test_a_misspelt_name_gets_the_nearest(written, nearest):
    with pytest.raises(ValueError, match=f"Unknown normalizer '{written}': did you mean '{nearest}'\\?.*are: batch, "):
        find_normalizer(written)
    with pytest.raises(ValueError, match=f"did you mean '{nearest}'"):
        make_norm(written, 6)


@pytest.mark.parametrize(
    ("norm", "error", "message"),
    [
        ("zzz", ValueError, r"Unknown normalizer 'zzz': The normalizers are: batch, "),
        ("", ValueError, r"Unknown normalizer ''"),
        ("token-layer", ValueError, r"'token-layer' normalizes rows \[\*, C\], not maps.*choose from batch, "),
        ("batch:8", ValueError, r"'batch:8': only 'group'.*take a number, as in 'group:8'"),
        ("group:", ValueError, r"'group:': the number.* must be a positive integer, as in 'group:8'"),
        ("group:0", ValueError, r"'group:0': the number.* must be a positive integer"),
        ("group:-2", ValueError, r"'group:-2': the number.* must be a positive integer"),
        ("group:5", ValueError, r"12 channels are not divisible by 5 groups; divisors of 12: 1, 2, 3, 4, 6, 12"),
        (7, TypeError, r"norm must be a name, a class or a factory, received int"),
        (lambda channels: None, TypeError, r"must return a torch\.nn\.Module, it returned NoneType"),
    ],
)
def test_errors_say_what_to_write(norm, error, message):
    with pytest.raises(error, match=message):
        make_norm(norm, 12)


@pytest.mark.parametrize("rank", [0, 4, -1])
def test_rank_out_of_range(rank):
    with pytest.raises(ValueError, match=rf"rank must be 1, 2 or 3 spatial dimensions, received {rank}"):
        make_norm("batch", 6, rank=rank)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm, nw.LayerNorm, nw.RMSNorm])
def test_a_layer_of_rows_is_refused_for_maps(norm):
    # On maps whose width happens to be C it would normalize along the width and say nothing.
    with pytest.raises(ValueError, match=r"normalizes rows \[\*, C\], not maps.*write 'layer'"):
        make_norm(norm, 8)
