"""Numbers and buffers of a layer that are set after it was built: one clear error, and nothing moves."""

import functools
import inspect

import pytest
import torch
from test_wrong_arguments import LAYERS, NO_NUMBERS, ROWS, X

import normwise as nw
from normwise.core.policy import StatisticsPolicy

TRACKING = functools.partial(nw.InstanceNorm2d, track_running_stats=True)


@pytest.mark.parametrize("name", [n for n in LAYERS if "eps" in inspect.signature(getattr(nw, n)).parameters])
def test_eps_that_is_set_later(name):
    layer = getattr(nw, name)(*LAYERS[name])
    layer.eps = 0.5
    for wrong in (*NO_NUMBERS, -0.1, float("nan")):
        with pytest.raises((TypeError, ValueError), match=f"{name}: eps must be"):
            layer.eps = wrong
        assert layer.eps == 0.5
    if layer.eps_is_optional:
        layer.eps = None
    else:
        with pytest.raises(TypeError, match=f"{name}: eps must be a number, received NoneType"):
            layer.eps = None


SET_LATER = [
    ("momentum", lambda: nw.BatchNorm2d(6), (*NO_NUMBERS, -0.1, 2.0, float("nan"))),
    ("momentum", lambda: nw.SwitchableNorm2d(6), (*NO_NUMBERS, -0.1, 2.0, float("nan"))),
    ("momentum", lambda: TRACKING(6), (*NO_NUMBERS, -0.1, 2.0, float("nan"))),
    ("num_groups", lambda: nw.GroupNorm(3, 6), (0, -1, 4, 12, 2.0, True, "2", None)),
    ("num_groups", lambda: nw.EvoNormS0(6, 3), (0, -1, 4, 12, 2.0, True, "2", None)),
    ("dim", lambda: nw.DynamicTanh(6, dim=1), (1.0, True, "1", None)),
    ("ghost_size", lambda: nw.GhostBatchNorm2d(6, ghost_size=2), (0, -1, 2.0, True, "2", None)),
]


@pytest.mark.parametrize(("number", "build", "wrong_ones"), SET_LATER, ids=[case[0] for case in SET_LATER])
def test_other_numbers_that_are_set_later(number, build, wrong_ones):
    """Whatever the layer did before, and nothing of it moves."""
    layer = build()
    layer(X)
    before = [t.clone() for t in layer.buffers()]
    for wrong in wrong_ones:
        setattr(layer, number, wrong)
        with pytest.raises((TypeError, ValueError), match=rf"{number}.*(must be|not divisible)"):
            layer(X)
        assert all(torch.equal(one, other) for one, other in zip(layer.buffers(), before, strict=True))


@pytest.mark.parametrize("build", [nw.LayerNorm, nw.RMSNorm])
def test_the_shape_of_a_row_that_is_set_later(build):
    layer = build([6], elementwise_affine=False)
    layer.normalized_shape = 6
    torch.testing.assert_close(layer(ROWS), build([6], elementwise_affine=False)(ROWS))
    for wrong in ((-1,), (), "6", None):
        layer.normalized_shape = wrong
        with pytest.raises((TypeError, ValueError), match=f"{build.__name__}: normalized_shape must"):
            layer(ROWS)


@pytest.mark.parametrize("name", ["running_mean", "running_var"])
@pytest.mark.parametrize("build", [nw.BatchNorm2d, nw.SwitchableNorm2d, TRACKING])
def test_an_update_that_cannot_be_written_changes_nothing(build, name):
    layer = build(6)
    setattr(layer, name, torch.ones(1).expand(6))
    before = [t.clone() for t in layer.buffers()]
    with pytest.raises(RuntimeError, match=rf"{name} is expanded, \[6\] .*write {name}.clone"):
        layer(X)
    assert all(torch.equal(one, other) for one, other in zip(layer.buffers(), before, strict=True))
    layer.eval()(X)


@pytest.mark.parametrize(("limit", "least"), [("r_max", 1), ("d_max", 0)])
def test_limits_that_are_set_later(limit, least):
    layer = nw.BatchRenorm2d(6)
    setattr(layer, limit, [(0, 2), (10, 3)])
    assert getattr(layer, limit) == ((0.0, 2.0), (10.0, 3.0))
    for wrong in (least - 0.5, float("nan"), "a", None, [(0, 3), (10, 2)]):
        with pytest.raises(ValueError, match=f"BatchRenorm2d: {limit}"):
            setattr(layer, limit, wrong)
    assert getattr(layer, limit) == ((0.0, 2.0), (10.0, 3.0))
    setattr(layer, limit, 5)
    again = nw.BatchRenorm2d(6, **{limit: 5.0})
    torch.testing.assert_close(layer(10 * X), again(10 * X))


@pytest.mark.parametrize("rule", ["nonfinite", "single_value"])
def test_rules_that_are_set_later(rule):
    policy = nw.BatchNorm2d(6).policy
    with pytest.raises(ValueError, match=f"{rule} must be '.*' or '.*', received 'ignore'"):
        setattr(policy, rule, "ignore")
    assert getattr(policy, rule) in ("skip", "error")


#: What is set, a value that holds, values that do not, and what the error says.
OF_A_MEMORY = [
    ("process_group", "world", (5, True, "word", ["world"]), "process_group must be 'world', a ProcessGroup or None"),
    ("bank", "night", (5, True, "", "a.b", ("a",)), "a bank's name must be a non-empty string without dots"),
    ("policy", StatisticsPolicy("propagate"), (None, "skip", 5), "policy must be a StatisticsPolicy"),
]


@pytest.mark.parametrize("build", [nw.BatchNorm2d, nw.SwitchableNorm2d, nw.GhostBatchNorm2d, TRACKING])
@pytest.mark.parametrize(("name", "right", "wrong_ones", "says"), OF_A_MEMORY, ids=[case[0] for case in OF_A_MEMORY])
def test_how_statistics_are_kept_that_is_set_later(build, name, right, wrong_ones, says):
    if build is TRACKING and name == "process_group":
        return  # it pools over nobody
    layer = build(6)
    setattr(layer, name, right)
    for wrong in wrong_ones:
        with pytest.raises((TypeError, ValueError), match=f"{type(layer).__name__}: {says}.*received"):
            setattr(layer, name, wrong)
        assert getattr(layer, name) is right


def test_a_bank_that_is_set_later_is_the_memory_from_then_on():
    layer, alone = nw.BatchNorm2d(6), nw.BatchNorm2d(6)
    layer.bank = "night"
    layer(X), alone(X)
    assert torch.equal(layer.banks["night"].running_mean, alone.running_mean)
    assert not layer.running_mean.any()


@pytest.mark.parametrize(("name", "wrong_ones"), [("frozen", ("no", None, 1)), ("paused", (-1, "a", 1.0, True))])
def test_states_of_a_policy_that_are_set_later(name, wrong_ones):
    """ "no" would freeze a layer, silently."""
    policy = nw.BatchNorm2d(6).policy
    before = getattr(policy, name)
    for wrong in wrong_ones:
        with pytest.raises((TypeError, ValueError), match=rf"{name} must be .*received"):
            setattr(policy, name, wrong)
    assert getattr(policy, name) is before


@pytest.mark.parametrize("wrong", [("batch",), ("a", "b", "c"), ("instance", "batch", "layer"), None, "layer"])
def test_branches_that_are_set_later(wrong):
    layer = nw.SwitchableNorm2d(6)
    with pytest.raises(ValueError, match="SwitchableNorm2d: branches must be"):
        layer.branches = wrong
    assert layer.branches == ("instance", "layer", "batch")
