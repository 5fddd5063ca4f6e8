"""Switchable Normalization: its special cases, its shares made visible, and the plain layer it becomes."""

import math

import numpy as np
import one_step
import pytest
import torch
from mixtures import BATCH, INSTANCE, LAYER, SWITCHABLE, switchable
from torch.testing import assert_close

import normwise as nw


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("branch", ["instance", "layer", "batch"])
def test_infinite_logits_are_the_plain_layer(branch, rank):
    ours = SWITCHABLE[rank](6)
    theirs = {"instance": INSTANCE, "layer": LAYER, "batch": BATCH}[branch][rank](6)
    logits = torch.where(torch.tensor([name == branch for name in ours.branches]), math.inf, -math.inf)
    with torch.no_grad():
        ours.mean_weight.copy_(logits)
        ours.var_weight.copy_(logits)
    for training in (True, False):
        x, cotangent = (one_step.data(one_step.SHAPES[rank], s, torch.float32) for s in (0, 1))
        got = one_step.step(ours.train(training), x, cotangent)
        assert_close(got[:4], one_step.step(theirs.train(training), x, cotangent), rtol=1e-5, atol=1e-5)
        assert not any(g.any() for g in got[4:])


def test_mix_names_the_shares():
    layer = nw.SwitchableNorm2d(4)
    with torch.no_grad():
        layer.mean_weight.copy_(torch.tensor([0.0, math.log(2), math.log(5)]))
    assert layer.mix()["mean"] == pytest.approx({"instance": 1 / 8, "layer": 2 / 8, "batch": 5 / 8})
    assert layer.mix()["var"] == pytest.approx(dict.fromkeys(("instance", "layer", "batch"), 1 / 3))
    assert nw.SwitchableNorm2d(4, using_bn=False).branches == ("instance", "layer")


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("branch", ["instance", "layer", "batch"])
def test_harden_gives_the_plain_layer_with_the_same_function(branch, rank):
    layer = one_step.trained(SWITCHABLE[rank](6, eps=1e-3, momentum=0.3, activation="silu", nonfinite="propagate"))
    for seed in range(3):
        layer(one_step.data(one_step.SHAPES[rank], seed, torch.float32))
    chosen = layer.branches.index(branch)
    with torch.no_grad():
        layer.mean_weight[chosen], layer.var_weight[chosen] = 40.0, 30.0
    for training in (False, True):
        plain = layer.train(training).harden()
        assert type(plain).__name__.startswith({"instance": "Inst", "layer": "Group", "batch": "BatchNorm"}[branch])
        assert plain.training == training
        assert plain.weight is layer.weight
        x = one_step.data(one_step.SHAPES[rank], 9, torch.float32)
        assert_close(plain(x), layer(x), rtol=1e-5, atol=1e-5)
    if branch == "batch":
        assert plain.running_mean is layer.running_mean
        assert plain.policy.nonfinite == "propagate"


def test_harden_refuses_while_undecided():
    layer = nw.SwitchableNorm2d(4)
    with torch.no_grad():
        layer.mean_weight[2] = 9.0
    with pytest.raises(ValueError, match=r"holds 0\.9 of both mixtures \(mean: instance 0\.000.*var: instance 0\.333"):
        layer.harden()
    with torch.no_grad():
        layer.var_weight[0] = 9.0
    with pytest.raises(ValueError, match="no branch holds"):
        layer.harden(0.6)
    for threshold in (0.5, 1.1):
        with pytest.raises(ValueError, match=r"threshold must be above 0\.5 and at most 1"):
            layer.harden(threshold)


def test_harden_without_affine_and_with_banks():
    layer = nw.SwitchableNorm2d(4, affine=False)
    with nw.statistics_bank(layer, "night"):
        layer(torch.randn(3, 4, 5, 5) + 5)
    with torch.no_grad():
        layer.mean_weight[2] = layer.var_weight[2] = 99.0
    plain = layer.eval().harden()
    assert plain.weight is None
    x = torch.randn(3, 4, 5, 5)
    with nw.statistics_bank(plain, "night"), nw.statistics_bank(layer, "night"):
        assert_close(plain(x), layer(x))


def test_a_nan_is_seen():
    layer = nw.SwitchableNorm2d(4)
    with torch.no_grad():
        layer.var_weight[1] = math.nan
    assert layer(torch.randn(3, 4, 5, 5)).isnan().all()
    for reading in (layer.mix, layer.harden):
        with pytest.raises(ValueError, match=r"var_weight is .*nan.*, which is no mixture"):
            reading()


def test_features_as_the_authors_do_them():
    """SwitchNorm1d: [LN, BN] over [N, C]."""
    layer = one_step.trained(nw.SwitchableNorm1d(6, using_in=False, dtype=torch.float64))
    assert layer.mean_weight.shape == (2,)
    x = one_step.data((8, 6))
    np.testing.assert_allclose(layer(x).detach(), switchable(layer, x.numpy()), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", [(8, 6, 1, 1), (2, 6, 1, 1)])
def test_planes_of_one_value_are_numbers(shape):
    """NaN in the authors' code, whose instance variance divides by 0."""
    layer = one_step.trained(nw.SwitchableNorm2d(6, dtype=torch.float64))
    x, cotangent = one_step.data(shape), one_step.data(shape, 1)
    results = one_step.step(layer, x, cotangent)
    assert all(t.isfinite().all() for t in results)
    np.testing.assert_allclose(results[0], switchable(layer, x.numpy()), rtol=1e-10, atol=1e-12)


def test_one_value_per_pool():
    with pytest.raises(ValueError, match=r"Expected more than 1 value per channel when training.*using_bn=False"):
        nw.SwitchableNorm2d(6)(torch.randn(1, 6, 1, 1))
    alone = nw.SwitchableNorm2d(6, using_bn=False)
    assert alone(torch.randn(1, 6, 1, 1)).std() > 0
    with pytest.raises(ValueError, match="expected more than 1 value in each sample"):
        nw.SwitchableNorm2d(1, using_bn=False).eval()(torch.randn(4, 1, 1, 1))


def test_without_the_batch_nothing_is_remembered():
    layer = nw.SwitchableNorm2d(6, using_bn=False)
    assert list(layer.state_dict()) == ["weight", "bias", "mean_weight", "var_weight"]
    x = torch.randn(4, 6, 5, 5)
    assert_close(layer.eval()(x), layer.train()(x))
    assert_close(layer(x[:1]), layer(x)[:1])


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"has nothing to switch; write GroupNorm\(1, 6\)"):
        nw.SwitchableNorm2d(6, using_bn=False, using_in=False)
    with pytest.raises(ValueError, match="using_bn=False leaves no statistics to synchronize"):
        nw.SwitchableNorm2d(6, using_bn=False, process_group="world")
    with pytest.raises(ValueError, match="SwitchableNorm2d expected 4D input"):
        nw.SwitchableNorm2d(6)(torch.randn(3, 6, 5))
    with pytest.raises(TypeError, match="unexpected keyword"):
        nw.SwitchableNorm2d(6, using_ln=False)
