"""Tools that read a layer's numbers and build another module: right, or refused in a sentence, and never half of it."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.ao.nn import intrinsic
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.optim.swa_utils import update_bn
from torch.testing import assert_close

import normwise as nw

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
OTHER_FORMULAS = [nw.SwitchableNorm2d, nw.BatchInstanceNorm2d, nw.EvoNormB0]
EVALUATED_AS_BATCH_NORM = [nw.BatchNorm2d, nw.BatchRenorm2d, nw.GhostBatchNorm2d, nw.SyncBatchNorm]


def trained(layer: nn.Module) -> nn.Module:
    """As after some training."""
    with torch.no_grad():
        for name, t in layer.state_dict().items():
            if t.is_floating_point():
                t.normal_() if name.endswith(("bias", "mean")) else t.uniform_(0.5, 2)
    return layer.eval()


@pytest.mark.parametrize("kind", EVALUATED_AS_BATCH_NORM)
def test_what_evaluates_as_batch_norm_is_fused(kind):
    conv, norm, x = nn.Conv2d(3, 4, 3).eval(), trained(kind(4)), torch.randn(2, 3, 8, 8)
    assert_close(fuse_conv_bn_eval(conv, norm)(x), norm(conv(x)), **CLOSE)


def test_a_linear_layer_is_fused():
    linear, norm, x = nn.Linear(3, 4).eval(), trained(nw.BatchNorm1d(4)), torch.randn(5, 3)
    assert_close(fuse_linear_bn_eval(linear, norm)(x), norm(linear(x)), **CLOSE)


@pytest.mark.parametrize("kind", [*EVALUATED_AS_BATCH_NORM, *OTHER_FORMULAS])
@pytest.mark.parametrize("fuse", [fuse_conv_bn_eval, fuse_linear_bn_eval])
def test_no_activation_is_dropped_by_a_fusion(kind, fuse):
    layer = trained(kind(4, activation="relu"))
    before = nn.Linear(3, 4) if fuse is fuse_linear_bn_eval else nn.Conv2d(3, 4, 3)
    with pytest.raises(TypeError, match=rf"{kind.__name__}: torch.nn.utils.fusion.{fuse.__name__} .* would lose"):
        fuse(before.eval(), layer)


@pytest.mark.parametrize("kind", OTHER_FORMULAS)
def test_no_formula_is_dropped_by_a_fusion(kind):
    with pytest.raises(TypeError, match="its formula"):
        fuse_conv_bn_eval(nn.Conv2d(3, 4, 3).eval(), trained(kind(4)))


def frozen():
    layer = nw.BatchNorm2d(4)
    nw.freeze(layer)
    return layer


def with_a_bank():
    layer = nw.BatchNorm2d(4)
    layer.bank = "night"
    return layer


LOST = {
    "activation='silu'": lambda: nw.BatchNorm2d(4, activation="silu"),
    "its formula": lambda: nw.BatchRenorm2d(4),
    "that it is frozen": frozen,
    "the statistics bank 'night'": with_a_bank,
}


@pytest.mark.parametrize("what", LOST)
def test_torchs_conversion_to_sync_drops_nothing(what):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), LOST[what]())
    layer = model[1]
    with pytest.raises(TypeError, match=f"would lose {what}.*normwise.SyncBatchNorm.convert_sync_batchnorm"):
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert model[1] is layer


@pytest.mark.parametrize("kind", [nw.GhostBatchNorm2d, *OTHER_FORMULAS])
def test_torchs_conversion_to_sync_takes_no_other_formula(kind):
    with pytest.raises(TypeError, match="its formula"):
        nn.SyncBatchNorm.convert_sync_batchnorm(kind(4))


def test_torchs_conversion_to_sync_of_a_plain_layer():
    layer = trained(nw.BatchNorm2d(4))
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(layer)
    assert type(converted) is nn.SyncBatchNorm
    x = torch.randn(2, 4, 5, 5)
    assert_close(converted(x), layer(x))


@pytest.mark.parametrize("kind", [nw.BatchNorm2d, nw.BatchRenorm2d, nw.GhostBatchNorm2d, *OTHER_FORMULAS])
def test_update_bn_finds_every_layer(kind):
    layer, batches = kind(4, activation="relu"), torch.randn(3, 4, 4, 5, 5) + 2
    update_bn(list(batches), nn.Sequential(layer))
    assert layer.num_batches_tracked == 3
    assert_close(layer.running_mean, batches.mean((0, 1, 3, 4)))


def test_everybody_else_reads_eps():
    layer = nw.BatchNorm2d(4, eps=0.25, activation="relu")
    assert layer.eps == copy.deepcopy(layer).eps == getattr(layer, "eps", None) == 0.25
    layer.eps = 0.5
    assert layer.eps == 0.5
    assert "eps=0.5" in repr(layer)
    assert not hasattr(nw.DynamicTanh(4), "eps")


def test_eps_says_where_it_is_from_to_those_that_would_lose_something():
    plain, more = nw.BatchNorm2d(4), nw.BatchRenorm2d(4, activation="relu")
    assert type(plain.eps) is float
    eps = copy.deepcopy(more.eps)
    assert (eps.layer, eps.training, eps.evaluation) == ("BatchRenorm2d", "its formula", "activation='relu'")
    assert eps.by == f"{__name__}.test_eps_says_where_it_is_from_to_those_that_would_lose_something"
    assert type(pickle.loads(pickle.dumps(eps))) is float  # no checkpoint of others needs this package
    assert type(nw.BatchNorm2d(4, eps=eps).__dict__["eps"]) is float
    torch.compile(nn.BatchNorm2d(4, eps=eps), backend="eager", fullgraph=True)(torch.randn(2, 4, 3, 3))


def test_torchs_fast_path_of_a_transformer_does_not_pass_by_an_activation():
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    block.norm1, block.norm2 = nw.LayerNorm(8, activation="relu"), nw.LayerNorm(8, activation="relu")
    block.eval()
    x = torch.randn(2, 5, 8)
    with torch.no_grad():
        y = block.norm1(x + block.self_attn(x, x, x)[0])
        expected = block.norm2(y + block.linear2(torch.relu(block.linear1(y))))
        assert_close(block(x), expected)


@pytest.mark.parametrize("kind", [nw.WSConv2d, nw.ScaledWSConv2d])
def test_a_fusion_with_standardized_weights_is_not_undone(kind):
    model, x = nn.Sequential(kind(3, 4, 3), trained(nw.BatchNorm2d(4))).eval(), torch.randn(2, 3, 8, 8)
    expected = model(x)
    with pytest.raises(TypeError, match=rf"{kind.__name__}: fuse_conv_bn_eval .* normwise.bake"):
        fuse_conv_bn_eval(*model)
    nw.bake(model)
    assert_close(fuse_conv_bn_eval(*model)(x), expected, **CLOSE)
    conv = kind(3, 4, 3)
    conv.weight = nn.Parameter(torch.randn_like(conv.weight))  # anybody else may


@pytest.mark.parametrize("wrap", [nw.spectral_norm, nw.weight_standardization, nw.scaled_weight_standardization])
def test_a_weight_that_is_computed_takes_no_parameter(wrap):
    """torch: KeyError("attribute 'weight' already exists")."""
    conv, norm, x = wrap(nn.Conv2d(3, 4, 3)).eval(), trained(nw.BatchNorm2d(4)), torch.randn(2, 3, 8, 8)
    expected = norm(conv(x))
    with pytest.raises(TypeError, match=r"'weight' is computed by \w+, .* normwise.bake\(model\)"):
        fuse_conv_bn_eval(conv, norm)
    assert_close(norm(conv(x)), expected)
    conv.weight = torch.randn(4, 3, 3, 3)  # goes through, as ever
    conv.bias = nn.Parameter(torch.zeros(4))
    expected = norm(conv(x))
    nw.bake(conv)
    assert_close(fuse_conv_bn_eval(conv, norm)(x), expected, **CLOSE)
    conv.weight = nn.Parameter(torch.randn(4, 3, 3, 3))


@pytest.fixture
def fuse_modules():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao.quantization is deprecated
        yield lambda model, names, qat=False: getattr(
            torch.ao.quantization, "fuse_modules_qat" if qat else "fuse_modules"
        )(model, names)


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("behind", [False, True])
def test_fuse_modules(activation, behind, fuse_modules):
    if activation and behind:
        return
    layers = [nn.Conv2d(3, 4, 3), trained(nw.BatchNorm2d(4, activation=activation)), *([nn.ReLU()] if behind else [])]
    model, x = nn.Sequential(*layers).eval(), torch.randn(2, 3, 8, 8)
    names = [str(i) for i in range(len(layers))]
    fused = fuse_modules(model, names)
    assert type(fused[0]) is (intrinsic.ConvReLU2d if activation or behind else nn.Conv2d)
    assert_close(fused(x), model(x), **CLOSE)
    model.train()
    fused = fuse_modules(model, names, qat=True)
    assert type(fused[0]) is (intrinsic.ConvBnReLU2d if activation or behind else intrinsic.ConvBn2d)
    assert_close(fused(x), model(x), **CLOSE)
    assert_close(fused[0][1].running_mean, model[1].running_mean)


def test_fuse_modules_drops_no_activation(fuse_modules):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nw.BatchNorm2d(4, activation="silu")).eval()
    with pytest.raises(ValueError, match=r"BatchNorm2d\(activation='silu'\) cannot be fused"):
        fuse_modules(model, ["0", "1"])
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nw.BatchNorm2d(4, activation="relu"), nn.ReLU()).eval()
    with pytest.raises(ValueError, match="cannot be fused"):
        fuse_modules(model, ["0", "1", "2"])


def test_fuse_modules_takes_no_other_formula(fuse_modules):
    with pytest.raises(AssertionError, match="BatchRenorm2d"):
        fuse_modules(nn.Sequential(nn.Conv2d(3, 4, 3), nw.BatchRenorm2d(4)).eval(), ["0", "1"])
