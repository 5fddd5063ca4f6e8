"""The conditional layers in use: memory and policies, folding, checkpoints, transforms, compilers."""

import copy

import pytest
import torch
from conditional_cases import EVERY, LABELS, SHAPES, WEIGHTS, C, K, both, trained
from torch import nn
from torch.testing import assert_close

import normwise as nw


def test_batch_statistics_are_shared_by_the_conditions():
    """One memory, as of a plain BatchNorm that sees the same batches; evaluation does not depend on the batch."""
    ours, theirs = trained(nw.ConditionalBatchNorm2d, momentum=None), nn.BatchNorm2d(C, momentum=None)
    ours.reset_running_stats()
    for _ in range(3):
        x = torch.randn(SHAPES[2]) * 2 + 1
        ours(x, LABELS)
        theirs(x)
    assert_close(dict(ours.named_buffers()), dict(theirs.named_buffers()))
    ours.eval()
    x = torch.randn(SHAPES[2])
    alone = torch.cat([ours(x[n : n + 1], LABELS[n : n + 1]) for n in range(4)])
    assert_close(ours(x, LABELS), alone)


def test_the_policies_of_a_batch_layer():
    layer, x = trained(nw.ConditionalBatchNorm2d, single_value="running"), torch.randn(1, C, 1, 1)
    assert_close(layer(x, LABELS[:1]), copy.deepcopy(layer).eval()(x, LABELS[:1]))
    with nw.no_update(layer):
        layer(torch.randn(SHAPES[2]), LABELS)
    assert layer.num_batches_tracked == 0
    nw.freeze(layer)
    x = torch.randn(SHAPES[2])
    assert_close(layer.train()(x, LABELS), copy.deepcopy(layer).eval()(x, LABELS))
    untracked = nw.ConditionalBatchNorm2d(C, K, track_running_stats=False).eval()
    assert_close(untracked(x, LABELS), nn.BatchNorm2d(C)(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "condition", [1, torch.tensor(1), torch.tensor([0.2, 0.0, 0.8])], ids=["int", "label", "weights"]
)
@pytest.mark.parametrize(("cls", "shape"), EVERY)
def test_fold(cls, shape, condition):
    """The plain layer of one condition: the same values, in training and evaluation, and nothing shared."""
    layer = trained(cls, eps=1e-3, activation="gelu", dtype=torch.float64)
    before = copy.deepcopy(layer.state_dict())
    x = torch.randn(shape, dtype=torch.float64)
    given = torch.as_tensor(condition)
    many = given.expand(4) if given.dim() == 0 else given.expand(4, K)
    for training in (False, True):
        plain = layer.train(training).fold(condition)
        assert type(plain) is getattr(nw, type(layer).__name__.removeprefix("Conditional"))
        assert plain.training == training
        assert_close(plain(x), copy.deepcopy(layer)(x, many))
    with torch.no_grad():
        plain.weight.zero_()
    assert_close(layer.state_dict(), before)


def test_fold_keeps_the_options_of_a_batch_layer():
    layer = nw.ConditionalBatchNorm2d(
        C, K, 1e-3, None, nonfinite="propagate", single_value="running", process_group="world"
    )
    plain = layer.fold(0)
    options = ("eps", "momentum", "process_group", "track_running_stats")
    assert [getattr(plain, o) for o in options] == [getattr(layer, o) for o in options]
    assert plain.policy == layer.policy
    assert nw.ConditionalBatchNorm2d(C, K, track_running_stats=False).fold(0).running_mean is None


@both
def test_state_dict_and_repr(cls):
    layer, x = trained(cls), torch.randn(SHAPES[2])
    other = cls(C, K)
    other.load_state_dict(layer.state_dict())
    assert_close(other.eval()(x, LABELS), layer.eval()(x, LABELS))
    assert_close(copy.deepcopy(layer)(x, LABELS), layer(x, LABELS))
    assert isinstance(layer, (nn.modules.instancenorm._InstanceNorm, nn.modules.batchnorm._BatchNorm))
    assert repr(nw.ConditionalInstanceNorm2d(C, K)) == "ConditionalInstanceNorm2d(5, num_conditions=3, eps=1e-05)"
    assert repr(nw.ConditionalBatchNorm2d(C, K, activation="relu")).endswith("activation='relu', num_conditions=3)")


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@both
def test_transforms(cls):
    layer = trained(cls).double().eval()
    xs, labels = torch.randn(3, *SHAPES[2], dtype=torch.float64), torch.randint(K, (3, 4))
    expected = torch.stack([layer(x, k) for x, k in zip(xs, labels, strict=True)])
    assert_close(torch.func.vmap(layer)(xs, labels), expected)
    weights = torch.rand(3, 4, K, dtype=torch.float64)
    expected = torch.stack([layer(x, w) for x, w in zip(xs, weights, strict=True)])
    assert_close(torch.func.vmap(layer)(xs, weights), expected)
    x = xs[0, ..., :2]
    assert_close(
        torch.func.jacrev(lambda x: layer(x, LABELS))(x),
        torch.autograd.functional.jacobian(lambda x: layer(x, LABELS), x),
    )


def test_export_of_weights_over_the_conditions():
    layer, x = trained(nw.ConditionalBatchNorm2d).eval(), torch.randn(SHAPES[2])
    assert_close(torch.export.export(layer, (x, WEIGHTS)).module()(x, WEIGHTS), layer(x, WEIGHTS))
