"""torchvision's and timm's architectures, with random weights and statistics, without special code."""

import copy

import pytest
import torch
from libraries import timm, torchvision
from recalibration import unwarned
from torch import nn
from torch.testing import assert_close

import normwise as nw

TORCHVISION = ("resnet18", "regnet_y_400mf", "mobilenet_v3_small", "densenet121", "efficientnet_b0", "googlenet")
TIMM = ("resnet18", "efficientnet_lite0", "mobilenetv3_small_050", "regnetx_002", "densenet121")


def randomized(model):
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
    return model.eval()


def of_torchvision(name):
    options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    return randomized(torchvision().models.get_model(name, weights=None, num_classes=10, **options))


def of_timm(name):
    return randomized(timm().create_model(name, num_classes=10))


MODELS = [(of_torchvision, name) for name in TORCHVISION] + [(of_timm, name) for name in TIMM]


@pytest.mark.parametrize(("make", "name"), MODELS)
def test_swap_there_and_back(make, name):
    torch.manual_seed(0)
    model, x = make(name), torch.randn(2, 3, 64, 64)
    before, names = model(x), list(model.state_dict())
    count = sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    change = nw.swap(model, "group", example_inputs=x)
    assert [row.outcome for row in change.rows] == ["swapped"] * count
    assert_close(model(x), before)
    assert change.report().drift < 1e-5
    change.advance(1)
    change.finish()
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    assert model.train()(x).isfinite().all()
    change.undo()
    assert list(model.state_dict()) == names
    assert torch.equal(model.eval()(x), before)


@pytest.mark.parametrize(("make", "name"), [MODELS[0], MODELS[6]])
def test_recalibrate_freeze_and_banks(make, name):
    torch.manual_seed(0)
    model, x = make(name), torch.randn(8, 3, 64, 64)
    reference = copy.deepcopy(model)
    first = next(m for m in reference.modules() if isinstance(m, nn.BatchNorm2d))
    inputs = []
    first.register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0]))
    reference(x)
    nw.freeze(model)
    model.train()
    assert not any(m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert_close(model(x), reference(x), atol=1e-4, rtol=1e-4)
    nw.unfreeze(model)
    with unwarned():
        nw.recalibrate(model, x.split(3))
        ours = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
        assert_close(ours.running_mean, inputs[0].mean((0, 2, 3)))
        nw.adapt(model, [x], bank="night")
    assert "night" in next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)).banks


def test_torchvisions_frozen_layers():
    frozen = torchvision().ops.misc.FrozenBatchNorm2d(16)
    frozen.running_mean.normal_()
    frozen.running_var.uniform_(1, 2)
    model, x = nn.Sequential(frozen), torch.randn(6, 16, 5, 5)
    before = model(x)
    change = nw.swap(model, "group")
    assert_close(model(x), before)
    change.undo()
    with unwarned():
        nw.recalibrate(model, [x])
    assert_close(frozen.running_mean, x.mean((0, 2, 3)))


def test_timms_layer_keeps_its_dropout_and_activation():
    timm()
    from timm.layers import BatchNormAct2d

    model = nn.Sequential(BatchNormAct2d(16, act_layer=nn.SiLU, drop_layer=nn.Dropout)).eval()
    x = torch.randn(4, 16, 5, 5)
    change = nw.swap(model, "group", start="copy")
    assert_close(model(x), nn.functional.silu(nn.functional.group_norm(x, 2)))
    assert change.rows[0].reason.endswith("its parameters are named norm.* now")
    change.undo()
    change = nw.swap(model.train(), "group")
    assert [model[0].before.training, model[0].before.drop.training] == [False, True]
