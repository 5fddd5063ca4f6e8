"""When the running statistics move, and when they must not."""

import copy
import io
import warnings

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import normwise as nw

LAYERS = {
    "batch": lambda **options: nw.BatchNorm1d(3, **options),
    "instance": lambda **options: nw.InstanceNorm1d(3, track_running_stats=True, **options),
    "ghost": lambda **options: nw.GhostBatchNorm1d(3, ghost_size=2, **options),
}


def batch(seed=0, samples=6):
    return torch.randn(samples, 3, 5, generator=torch.Generator().manual_seed(seed)) * 2 + 1


def memory(layer):
    return {name: value.clone() for name, value in layer.named_buffers()}


def assert_same_memory(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_poisoned_batch_is_skipped_counted_and_warned_of_once(name, value):
    layer = LAYERS[name]()
    layer(batch())
    before = memory(layer)
    poisoned = batch(1)
    poisoned[0, 1, 2] = value
    with pytest.warns(RuntimeWarning, match=r"non-finite statistics was not taken.*nonfinite='propagate'"):
        layer(poisoned)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(poisoned)
    assert_same_memory(before, memory(layer))
    assert layer.policy.skipped == 2
    layer(batch(2))
    assert layer.num_batches_tracked.item() == before["num_batches_tracked"].item() + 1


@pytest.mark.parametrize("name", LAYERS)
def test_propagate_is_torchs_behaviour(name):
    layer = LAYERS[name](nonfinite="propagate")
    poisoned = batch()
    poisoned[0, 1, 2] = float("inf")
    layer(poisoned)
    assert layer.running_var[1].isnan()
    assert layer.running_var[[0, 2]].isfinite().all()
    assert layer.policy.skipped == 0


def test_single_value_runs_on_the_memory_and_leaves_it():
    layer = nw.BatchNorm1d(3, single_value="running")
    layer(batch()[:, :, 0])
    before = memory(layer)
    x = torch.randn(1, 3)
    y = layer(x)
    assert_close(y, evaluated(layer, x))
    assert_same_memory(before, memory(layer))
    with pytest.raises(ValueError, match=r"more than 1 value per channel.*drop_last=True.*single_value='running'"):
        nw.BatchNorm1d(3)(x)


def evaluated(layer, x):
    oracle = nn.BatchNorm1d(3)
    oracle.load_state_dict(layer.state_dict())
    return oracle.eval()(x)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_activation_checkpointing_updates_once(name, reentrant):
    plain, checkpointed = LAYERS[name](), LAYERS[name]()
    x = batch().requires_grad_()
    y = plain(x)
    (expected,) = torch.autograd.grad(y, x, batch(9))
    again = checkpoint(checkpointed, x, use_reentrant=reentrant)
    again.backward(batch(9))
    assert_close(again, y)
    assert_close(x.grad, expected)
    assert checkpointed.num_batches_tracked.item() == 1
    assert_same_memory(memory(plain), memory(checkpointed))


@pytest.mark.parametrize("name", LAYERS)
def test_no_update_nests_and_ends_after_an_error(name):
    layer = LAYERS[name]()
    model = nn.Sequential(nn.Identity(), layer)
    before = memory(layer)

    def fail_inside():
        with nw.no_update(model), nw.no_update(layer):
            layer(batch())
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert_same_memory(before, memory(layer))
    layer(batch())
    assert layer.num_batches_tracked.item() == 1


@pytest.mark.parametrize("sizes", [[4, 4], [1, 5, 2], [8]])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("name", ["batch", "instance"])
def test_pooled_updates_are_those_of_the_whole_batch(name, momentum, sizes):
    x = batch(samples=8)
    whole, pooled = LAYERS[name](momentum=momentum), LAYERS[name](momentum=momentum)
    for _ in range(2):
        whole(x)
        with nw.pool_updates(pooled):
            for micro in x.split(sizes):
                pooled(micro)
    assert pooled.num_batches_tracked.item() == 2
    assert_close(pooled.running_mean, whole.running_mean)
    assert_close(pooled.running_var, whole.running_var)


def test_pooled_updates_forget_a_failed_block_and_do_not_nest():
    layer = nw.BatchNorm1d(3)

    def fail_inside():
        with nw.pool_updates(layer):
            layer(batch())
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert layer.num_batches_tracked.item() == 0
    with nw.pool_updates(layer), pytest.raises(RuntimeError, match="do not nest"), nw.pool_updates(layer):
        pass


def test_banks_are_separate_and_survive_the_state_dict():
    layer = nw.BatchNorm1d(3)
    day, night = batch(1), batch(2) * 4 - 7
    for _ in range(3):
        layer(day)
        with nw.statistics_bank(layer, "night"):
            layer(night)
    only_night = nw.BatchNorm1d(3)
    for _ in range(3):
        only_night(night)
    assert_close(layer.banks["night"].running_var, only_night.running_var)
    assert_close(layer.running_mean, evaluate_day(day).running_mean)

    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    fresh = nw.BatchNorm1d(3)
    fresh.load_state_dict(torch.load(buffer))
    with nw.statistics_bank(fresh.eval(), "night"):
        assert_close(fresh(night), only_night.eval()(night))
    assert fresh.bank is None


def evaluate_day(day):
    layer = nw.BatchNorm1d(3)
    for _ in range(3):
        layer(day)
    return layer


def test_a_layer_without_banks_has_torchs_keys():
    assert nw.BatchNorm1d(3).state_dict().keys() == nn.BatchNorm1d(3).state_dict().keys()
    with pytest.raises(ValueError, match="non-empty string without dots"), nw.statistics_bank(nw.BatchNorm1d(3), "a.b"):
        pass


@pytest.mark.parametrize("affine", [False, True])
def test_freeze_survives_train_and_is_taken_back(affine):
    model = nn.Sequential(nn.Conv1d(3, 3, 1), nw.BatchNorm1d(3), nw.BatchNorm1d(3))
    model[2].bias.requires_grad_(False)
    model(batch())
    nw.freeze(model, affine=affine)
    model.train()
    before = memory(model)
    assert_close(model[1](batch(3)), evaluated(model[1], batch(3)))
    assert_same_memory(before, memory(model))
    assert model[1].weight.requires_grad is not affine
    nw.unfreeze(model)
    assert [p.requires_grad for p in model[2].parameters()] == [True, False]
    model(batch(4))
    assert model[1].num_batches_tracked.item() == 2


@pytest.mark.parametrize("steer", [nw.no_update, nw.pool_updates, lambda m: nw.statistics_bank(m, "a")])
def test_a_model_without_such_layers_is_an_error(steer):
    with pytest.raises(ValueError, match="no layer of normwise with running statistics"), steer(nn.BatchNorm1d(3)):
        pass


def test_unknown_policies_name_the_known():
    with pytest.raises(ValueError, match="nonfinite must be 'skip' or 'propagate', received 'zero'"):
        nw.BatchNorm1d(3, nonfinite="zero")
    with pytest.raises(ValueError, match="single_value must be 'error' or 'running', received 'skip'"):
        nw.BatchNorm1d(3, single_value="skip")


def test_policies_show_in_the_repr_and_are_copied():
    layer = nw.BatchNorm1d(3, nonfinite="propagate")
    assert repr(layer).endswith("nonfinite='propagate')")
    twin = copy.deepcopy(layer)
    nw.freeze(twin)
    assert twin.policy.nonfinite == "propagate"
    assert not layer.policy.frozen


def test_two_forwards_before_one_backward():
    layer = nw.BatchNorm1d(3, dtype=torch.float64)
    real, fake = batch(1).double().requires_grad_(), batch(2).double().requires_grad_()
    (layer(real).tanh().sum() - layer(fake).tanh().sum()).backward()
    for x, sign in ((real, 1), (fake, -1)):
        leaf = x.detach().requires_grad_()
        (sign * nn.BatchNorm1d(3, dtype=torch.float64)(leaf).tanh().sum()).backward()
        assert_close(x.grad, leaf.grad)


def test_lengths_are_a_mask_of_sequences():
    x = batch()
    lengths = torch.tensor([5, 3, 1, 0, 2, 5])
    layer, unpadded = nw.BatchNorm1d(3), nw.BatchNorm1d(3)
    kept = torch.cat([x[n, :, :length] for n, length in enumerate(lengths)], 1).T
    y = layer(x, lengths=lengths)
    expected = unpadded(kept)
    got = torch.cat([y[n, :, :length] for n, length in enumerate(lengths)], 1).T
    assert_close(got, expected)
    assert_close(layer.running_var, unpadded.running_var)
    with pytest.raises(ValueError, match="either mask or lengths"):
        layer(x, lengths=lengths, mask=torch.ones(6, 5, dtype=torch.bool))
    with pytest.raises(TypeError, match=r"integer tensor \[N\], received torch\.float32"):
        layer(x, lengths=lengths.float())
    with pytest.raises(ValueError, match=r"must be \[N\] = \[6\], received \[2\]"):
        layer(x, lengths=lengths[:2])
    for wrong in (-1, 6, 2**40):
        with pytest.raises(ValueError, match=f"lengths must be 0 to 5, the positions of the input, received {wrong}"):
            layer(x, lengths=torch.tensor([5, 3, wrong, 0, 2, 5]))
    released = lengths.clone()
    released.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="released or cut"):
        layer(x, lengths=released)
    with pytest.raises(ValueError, match=r"needs sequences \[N, C, L\].*use mask"):
        nw.InstanceNorm2d(3)(torch.zeros(2, 3, 4, 4), lengths=lengths[:2])


def moved(layer):
    """The layer with statistics and a counter that no fresh one has."""
    layer(batch())
    return layer


@pytest.mark.parametrize("name", ["batch", "ghost"])
def test_update_bn_leaves_a_frozen_layer_alone(name):
    frozen, free = moved(LAYERS[name]()), moved(LAYERS[name]())
    model = nn.Sequential(nn.Identity(), frozen, free)
    assert nw.freeze(frozen) == 1
    before, data = memory(frozen), [batch(seed) for seed in (1, 2)]
    torch.optim.swa_utils.update_bn(data, model)
    assert_same_memory(before, memory(frozen))
    assert free.num_batches_tracked.item() == 2
    inputs = torch.cat([frozen.eval()(x) for x in data])
    assert_close(free.running_mean, inputs.mean((0, 2)), rtol=1e-4, atol=1e-5)  # of two batches of one size
    assert frozen.momentum == 0.1


def test_update_bn_empties_no_memory_that_it_does_not_fill():
    layer = moved(LAYERS["batch"]())
    before = memory(layer)
    with nw.no_update(layer):
        torch.optim.swa_utils.update_bn([batch(1)], layer)
    assert_same_memory(before, memory(layer))
    with nw.statistics_bank(layer, "night"):
        torch.optim.swa_utils.update_bn([batch(1) - 5], layer)
    own = {name: value for name, value in memory(layer).items() if "night" not in name}
    assert_same_memory(before, own)
    assert_close(layer.banks["night"].running_mean, (batch(1) - 5).mean((0, 2)))


def test_reset_parameters_is_not_held_by_a_policy():
    layer, fresh = moved(LAYERS["batch"]()), LAYERS["batch"]()
    with nw.statistics_bank(layer, "night"):
        layer(batch())
    nw.freeze(layer)
    layer.reset_parameters()
    assert_same_memory(memory(fresh), {name: value for name, value in memory(layer).items() if "night" not in name})
    assert layer.banks["night"].running_var.tolist() == [1.0, 1.0, 1.0]
    assert layer.policy.frozen


STEERING = [nw.freeze, nw.unfreeze, nw.no_update, nw.pool_updates, lambda m: nw.statistics_bank(m, "night")]


def steered(result):
    """The count that a function returns, or that its block gets."""
    if isinstance(result, int):
        return result
    with result as count:
        return count


@pytest.mark.parametrize("steer", STEERING)
def test_where_nothing_has_running_statistics_there_is_nothing_to_do(steer):
    without = (nn.Linear(3, 3), nn.BatchNorm1d(3, track_running_stats=False), nw.InstanceNorm1d(3), nw.GroupNorm(1, 3))
    assert steered(steer(nn.Sequential(*without))) == 0


@pytest.mark.parametrize("steer", STEERING)
def test_the_count_is_that_of_the_layers(steer):
    model = nn.Sequential(*(make() for make in LAYERS.values()))
    if steer is nw.unfreeze:
        nw.freeze(model)
    assert steered(steer(model)) == 3


@pytest.mark.parametrize("steer", STEERING)
def test_what_cannot_be_steered_says_so(steer):
    if steer not in (nw.freeze, nw.unfreeze):  # which serve torch's layers
        with pytest.raises(ValueError, match="has no layer of normwise with running statistics, only torch's; replace"):
            steered(steer(nn.Sequential(nn.BatchNorm1d(3))))
    with pytest.raises(TypeError, match=r"expects a (torch\.nn\.Module|module such as a network), received NoneType"):
        steered(steer(None))


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_a_bank_that_began_in_inference_is_trained(make):
    layer = make()
    with torch.inference_mode(), nw.statistics_bank(layer, "night"):
        layer(batch())
    with nw.statistics_bank(layer, "night"):
        layer(batch(1).requires_grad_()).sum().backward()
    assert layer.banks["night"].num_batches_tracked.item() == 2


def test_a_bank_that_began_among_fake_tensors_is_real():
    from torch._subclasses.fake_tensor import FakeTensorMode

    layer = LAYERS["batch"]()
    with FakeTensorMode(), nw.statistics_bank(layer, "night"):
        pass
    with nw.statistics_bank(layer, "night"):
        layer(batch())
    assert layer.banks["night"].running_mean.abs().min() > 0
