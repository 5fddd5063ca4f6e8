"""state_dict, fresh layers, repr, copies and casts: what makes a drop-in a drop-in."""

import copy
import inspect
import io
import pickle

import pytest
import torch
from conformance.state import assert_begun_anew
from layer_cases import CASES, ONE_EACH, gradients, ids, randomize, twins
from torch import nn
from torch.testing import assert_close

import normwise as nw
from normwise import ACTIVATIONS


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_a_fresh_layer_is_torchs_fresh_layer(case):
    ours, theirs = case.build(), case.theirs(*case.args, **case.options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor)
        assert ours.state_dict()[name].dtype == tensor.dtype
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    assert [name for name, _ in ours.named_buffers()] == [name for name, _ in theirs.named_buffers()]
    for name in ("eps", "momentum", "affine", "track_running_stats", "num_features", "normalized_shape", "num_groups"):
        assert getattr(ours, name, "absent") == getattr(theirs, name, "absent")
    assert ours.training
    assert ours.activation is None


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_repr_is_torchs_plus_the_activation(case):
    theirs = repr(case.theirs(*case.args, **case.options))
    assert repr(case.build()) == theirs
    assert repr(case.build(activation="relu")) == f"{theirs[:-1]}, activation='relu')"


@pytest.mark.parametrize("case", ONE_EACH, ids=ids)
def test_the_constructor_takes_what_torchs_takes(case):
    """By position and by name, with the same defaults; ours adds keyword-only arguments."""
    ours, theirs = (inspect.signature(cls).parameters for cls in (case.ours, case.theirs))
    for name, parameter in theirs.items():
        assert ours[name].default == parameter.default
        assert ours[name].kind == parameter.kind
    positional = [name for name, p in theirs.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [name for name, p in ours.items() if p.kind is p.POSITIONAL_OR_KEYWORD] == positional
    added = ours.keys() - theirs.keys()
    assert "activation" in added
    assert all(ours[name].kind is inspect.Parameter.KEYWORD_ONLY for name in added)


def dtypes_beside(theirs):
    """The dtypes of torch's layer, but for running statistics, which ours keeps in fp32 at least."""
    dtypes = {name: t.dtype for name, t in theirs.state_dict().items()}
    for name in ("running_mean", "running_var"):
        if name in dtypes:
            dtypes[name] = torch.promote_types(dtypes[name], torch.float32)
    return dtypes


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("case", ONE_EACH, ids=ids)
def test_dtype_and_device_arguments(case, dtype):
    layer = case.build(dtype=dtype, device="cpu")
    theirs = case.theirs(*case.args, **case.options, dtype=dtype, device="cpu")
    assert {n: t.dtype for n, t in layer.state_dict().items()} == dtypes_beside(theirs)


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_meta_device(case, backend):
    """Shapes without memory, as large models are built."""
    layer = case.build(device="meta")
    assert layer(torch.empty(case.shape, device="meta")).shape == case.shape
    materialized = layer.to_empty(device="cpu")
    if hasattr(materialized, "reset_parameters"):
        materialized.reset_parameters()
    x = torch.randn(case.shape)
    with backend():
        assert torch.equal(materialized(x), case.build()(x))


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_state_dict_both_ways(case):
    ours, theirs = randomize(case.build(activation="relu")), case.theirs(*case.args, **case.options)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    back = case.build()
    back.load_state_dict(theirs.state_dict(), strict=True)
    assert_close(back.state_dict(), ours.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("case", [case for case in CASES if case.remembers], ids=ids)
def test_state_dict_of_torch_before_the_counter(case):
    """Checkpoints of torch 0.4 and older have no num_batches_tracked."""
    state = randomize(case.build()).state_dict()
    del state["num_batches_tracked"]
    state._metadata[""]["version"] = 1
    layer = case.build()
    with pytest.warns(UserWarning, match="kept its own counter, since num_batches_tracked is missing"):
        layer.load_state_dict(state, strict=True)
    assert_close(layer.running_var, state["running_var"])


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "torch.save": lambda layer: _saved_and_loaded(layer),
}


def _saved_and_loaded(layer):
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_copies(case, way, training, backend):
    layer = randomize(case.build(activation="silu")).train(training)
    x = torch.randn(case.shape)
    copied = COPIES[way](layer)
    assert repr(copied) == repr(layer)
    assert copied.training == training
    with backend():
        y = copied(x)
        for name, buffer in layer.named_buffers():
            assert buffer is not dict(copied.named_buffers())[name]
        assert torch.equal(y, layer(x))
    assert_close(copied.state_dict(), layer.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_saved_weights_are_safe_to_load(case):
    layer = randomize(case.build(activation="silu"))
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    fresh = case.build(activation="silu")
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert_close(fresh.state_dict(), layer.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("cast", ["half", "bfloat16", "double"])
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_casts(case, cast, backend):
    """The counter stays an integer; train and eval both run, and the statistics that come out are torch's."""
    ours, theirs = (getattr(layer, cast)() for layer in twins(case))
    dtype = getattr(torch, {"double": "float64"}.get(cast, cast))
    dtypes = {name: t.dtype for name, t in ours.state_dict().items()}
    assert dtypes == dtypes_beside(theirs)
    x = torch.randn(case.shape).to(dtype).requires_grad_()
    oracle = theirs.double()
    oracle.load_state_dict(ours.state_dict())
    with backend():
        trained = ours(x)
        evaluated = ours.eval()(x)
    for y, truth in ((trained, oracle(x.double())), (evaluated, oracle.eval()(x.double()))):
        assert y.dtype == dtype
        eps = torch.finfo(dtype).eps
        assert_close(y.double(), truth, rtol=2 * eps, atol=8 * eps)
        assert all(g.dtype == dtype for g in gradients(y, [x], torch.randn(case.shape)))
    assert {name: t.dtype for name, t in ours.state_dict().items()} == dtypes


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_activation_survives_in_the_constructor_only(activation):
    layer = nw.BatchNorm2d(3, activation=activation)
    assert layer.activation == activation
    assert list(layer.state_dict()) == list(nn.BatchNorm2d(3).state_dict())


def test_in_a_network_the_ecosystem_sees_torchs_layers():
    """update_bn, SyncBatchNorm checks and freezing go by isinstance."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nw.BatchNorm2d(4, activation="relu"), nw.GroupNorm(2, 4))
    data = [torch.randn(4, 3, 8, 8) * 3 + 1 for _ in range(3)]
    reference = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.GroupNorm(2, 4))
    reference[0].load_state_dict(net[0].state_dict())
    for model in (net, reference):
        torch.optim.swa_utils.update_bn(data, model)
    assert_close(net[1].running_var, reference[1].running_var, rtol=1e-5, atol=1e-6)
    assert net[1].momentum == 0.1


def with_bank(layer):
    with nw.statistics_bank(layer, "night"):
        return layer


#: What owns parameters or buffers beside the rows of the table, which tests/conformance asks.
WITH_STATE = {
    "tanh": lambda: nw.DynamicTanh(8, alpha=0.2, bias=False),
    "erf": lambda: nw.DynamicErf(8, alpha=0.2, shift=0.1),
    "gain": lambda: nw.scaled_weight_standardization(nn.Conv2d(8, 8, 3)),
    "spectral": lambda: nw.spectral_norm(nn.Conv2d(8, 8, 3)),
    "convolution": lambda: nw.ScaledWSConv2d(8, 8, 3),
    "skip gain": lambda: nw.nets.SkipGain(0.3),
    "fixup": lambda: nw.nets.fixup_resnet(8, 3, 1),
    "bank": lambda: with_bank(nw.BatchNorm1d(8)),
}


@pytest.mark.parametrize("make", WITH_STATE.values(), ids=WITH_STATE)
def test_reset_parameters_makes_of_empty_memory_what_a_constructor_makes(make):
    assert_begun_anew(make)
