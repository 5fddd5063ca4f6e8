"""torch.jit.script: plain modules of the layers' own tensors, or one sentence."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import normwise as nw
from normwise.layers.scripting.scripted import _ACTIVATIONS, Scripted

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.* is deprecated:DeprecationWarning")
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
LAYERS = {
    "activation": (lambda: nw.BatchNorm2d(4, activation="relu"), (2, 4, 5, 5)),
    "no affine, no memory": (lambda: nw.BatchNorm2d(4, affine=False, track_running_stats=False), (2, 4, 5, 5)),
    "no momentum": (lambda: nw.BatchNorm1d(4, momentum=None), (3, 4)),
    "one sample": (lambda: nw.InstanceNorm1d(4), (4, 7)),
    "instances with a memory": (lambda: nw.InstanceNorm2d(4, track_running_stats=True), (2, 4, 5, 5)),
    "groups": (lambda: nw.GroupNorm(2, 4, affine=False, activation="gelu_tanh"), (3, 4)),
    "two dimensions": (lambda: nw.LayerNorm((4, 5), bias=False), (2, 4, 5)),
    "two dimensions, rms": (lambda: nw.RMSNorm((4, 5)), (2, 4, 5)),
    "threshold": (lambda: nw.FilterResponseNorm2d(4, learnable_eps=True), (2, 4, 5, 5)),
}


rows = (2, 3, 8)
#: Layers with other arguments and results than ``(x, residual)``, and the shapes of theirs.
OTHERS = {
    "modulated by samples": (lambda: nw.AdaptiveLayerNorm(8, 5, activation="gelu"), [rows, (2, 5), rows]),
    "modulated by tokens": (lambda: nw.AdaptiveRMSNorm(8, 5, eps=None), [rows, (2, 3, 5), rows]),
    "modulated, no residual": (lambda: nw.AdaptiveLayerNorm(8, 5), [rows, (2, 5)]),
    "gate by samples": (lambda: nw.AdaptiveLayerNorm(8, 5, gate=True), [rows, (2, 5), rows]),
    "gate by tokens": (lambda: nw.AdaptiveRMSNorm(8, 5, gate=True), [rows, (2, 3, 5)]),
    "gated": (lambda: nw.GatedRMSNorm(8, group_size=4, activation="relu"), [rows, rows, rows]),
    "gated before": (lambda: nw.GatedRMSNorm(8, None, norm_before_gate=False), [rows, rows]),
    "gated by nothing": (lambda: nw.GatedRMSNorm(8), [rows]),
    "added first": (lambda: nw.LayerNorm(8, add_first=True), [rows, rows]),
    "added first, nothing to add": (lambda: nw.RMSNorm(8, add_first=True, zero_centered=True), [rows]),
    "both halves": (lambda: nw.IBN2d(8, activation="silu"), [(2, 8, 3, 4), (2, 8, 3, 4)]),
    "both halves of sequences": (lambda: nw.IBN1d(8, ratio=0.25), [(2, 8, 5)]),
    "positions": (lambda: nw.PositionalNorm2d(8, activation="relu"), [(2, 8, 3, 4), (2, 8, 3, 4)]),
    "positions and moments": (lambda: nw.PositionalNorm2d(8, return_moments=True), [(2, 8, 3, 4), (2, 8, 3, 4)]),
    "moments put back": (lambda: nw.MomentShortcut(), [(2, 8, 3, 4), (2, 1, 3, 4), (2, 1, 3, 4)]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", OTHERS)
def test_other_arguments_and_results(name, dtype):
    make, shapes = OTHERS[name]
    layer = make()
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn_like(p) / 2)
    layer.to(dtype)
    script, twin = torch.jit.script(copy.deepcopy(layer)), copy.deepcopy(layer)
    stand_in = layer.__prepare_scriptable__()
    assert list(script.state_dict()) == list(twin.state_dict())
    tight = CLOSE if dtype is torch.float32 else {}
    for mode in (True, False):
        arguments = [torch.randn(shape, dtype=dtype) for shape in shapes]
        expected = twin.train(mode)(*arguments)
        assert_close(script.train(mode)(*arguments), expected, **tight)
        assert_close(stand_in.train(mode)(*arguments), expected, **tight)
        assert_close(dict(script.named_buffers()), dict(twin.named_buffers()), **tight)


def test_a_kept_type_beside_wider_rows():
    layer = nw.AdaptiveRMSNorm(8, 5, gate=True, dtype=torch.bfloat16)
    nn.init.normal_(layer.linear.weight)
    x, condition = torch.randn(rows), torch.randn(2, 5, dtype=torch.bfloat16)
    assert_close(torch.jit.script(copy.deepcopy(layer))(x, condition), layer(x, condition), rtol=1e-6, atol=1e-6)


def test_every_activation_is_there():
    assert set(_ACTIVATIONS) == {None, *nw.ACTIVATIONS}
    x = torch.linspace(-4, 4, 21)
    for name, activation in nw.ACTIVATIONS.items():
        assert_close(_ACTIVATIONS[name]()(x), activation.function(x))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_options(name, training):
    make, shape = LAYERS[name]
    layer = make().train(training)
    script, twin = torch.jit.script(copy.deepcopy(layer)), copy.deepcopy(layer)
    for _ in range(2):
        x, residual = torch.randn(2, *shape) * 2 + 1
        assert_close(script(x, residual), twin(x, residual), **CLOSE)
    assert_close(dict(script.named_buffers()), dict(twin.named_buffers()), **CLOSE)


STAND_INS = {
    **LAYERS,
    "batch and instance": (lambda: nw.EvoNormB0(4), (2, 4, 5, 5)),
    "batch and instance, no space": (lambda: nw.EvoNormB0(4), (3, 4)),
    "gated groups": (lambda: nw.EvoNormS0(4, 2), (2, 4, 5, 5)),
    "gated groups, no space": (lambda: nw.EvoNormS0(4, 2), (3, 4)),
    "responses": (lambda: nw.GlobalResponseNorm(4), (2, 4, 5, 5)),
}


@pytest.mark.parametrize("name", STAND_INS)
def test_the_model_that_was_given_still_runs_in_python(name):
    """With the stand-ins that torch put into it."""
    make, shape = STAND_INS[name]
    model, x = nn.Sequential(make()).eval(), torch.randn(shape)
    twin = copy.deepcopy(model)
    script = torch.jit.script(model)
    assert isinstance(model[0], Scripted)
    assert_close(model(x), twin(x), **CLOSE)
    assert_close(script(x), twin(x), **CLOSE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes(dtype):
    layer = nw.BatchNorm2d(4, activation="silu").to(dtype)
    x = torch.randn(3, 4, 5, 5, dtype=dtype) + 3
    y, expected = torch.jit.script(copy.deepcopy(layer))(x), layer(x)
    assert y.dtype is dtype
    assert_close(y, expected)


def test_a_model_trains_on_and_is_saved():
    """The stand-ins share the layers' parameters and buffers."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nw.BatchNorm2d(4, activation="relu"), nn.Flatten(2), nw.LayerNorm(36))
    keys, weight = list(model.state_dict()), model[1].weight
    script = torch.jit.script(model)
    assert list(script.state_dict()) == keys
    script(torch.randn(2, 3, 8, 8)).square().sum().backward()
    assert weight.grad is not None
    script.eval()
    file = io.BytesIO()
    torch.jit.save(script, file)
    file.seek(0)
    x = torch.randn(2, 3, 8, 8)
    assert_close(torch.jit.load(file)(x), script(x))


def test_a_model_with_a_layer_that_has_no_counterpart_is_left_as_it_was():
    model = nn.Sequential(nw.BatchNorm2d(4), nn.Sequential(nw.GroupNorm(2, 4), nw.SwitchableNorm2d(4)))
    modules = list(model.modules())
    with pytest.raises(TypeError, match=r"SwitchableNorm2d has no plain counterpart .* torch.export"):
        torch.jit.script(model)
    assert all(one is other for one, other in zip(model.modules(), modules, strict=True))


def test_a_layer_with_a_forward_of_its_own_is_refused():
    class Twice(nw.BatchNorm2d):
        def forward(self, input):
            return super().forward(input) * 2

    with pytest.raises(TypeError, match="forward of its own"):
        torch.jit.script(Twice(4))


@pytest.mark.parametrize("kind", [nw.BatchRenorm2d, nw.GhostBatchNorm2d, nw.EvoNormB0])
def test_another_formula_in_training_only_evaluates(kind):
    script = torch.jit.script(kind(4))
    with pytest.raises(torch.jit.Error, match="only evaluates"):
        script(torch.randn(3, 4, 5, 5))
    script.eval()(torch.randn(3, 4, 5, 5))


CONVOLUTIONS = [getattr(nw, f"{kind}Conv{rank}d") for kind in ("WS", "ScaledWS") for rank in (1, 2, 3)]


@pytest.mark.parametrize("kind", CONVOLUTIONS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
def test_standardizing_convolutions(kind, padding_mode):
    conv = kind(4, 6, 3, padding=1, groups=2, padding_mode=padding_mode)
    with torch.no_grad():
        conv.weight[0] = 0.5  # a unit without variance
        for p in conv.parameters():
            p.add_(0.1)
    x = torch.randn(2, 4, *[5] * int(kind.__name__[-2]))
    script, twin = torch.jit.script(conv), copy.deepcopy(conv)
    assert list(script.state_dict()) == list(twin.state_dict())
    y, expected = script(x), twin(x)
    assert_close(y, expected, **CLOSE)
    cotangent = torch.randn_like(y)
    for result in (y, expected):
        result.backward(cotangent)
    assert_close([p.grad for p in conv.parameters()], [p.grad for p in twin.parameters()], **CLOSE)


def test_standardizing_convolutions_are_put_back_with_the_layers():
    model = nn.Sequential(nw.WSConv2d(3, 4, 3), nw.SwitchableNorm2d(4))
    modules = list(model)
    with pytest.raises(TypeError, match="has no plain counterpart"):
        torch.jit.script(model)
    assert list(model) == modules
