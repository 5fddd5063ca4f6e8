"""Libraries around the layers, each with itself as the oracle: what it does with torch's own layers."""

import copy
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import normwise as nw

sys.path.insert(0, str(Path(__file__).parents[1]))
from libraries import timm, torchvision

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs


def trained_norm(kind=nw.BatchNorm2d, **options):
    layer = kind(8, **options)
    with torch.no_grad():
        for name, t in layer.state_dict().items():
            if t.is_floating_point():
                t.normal_() if name.endswith(("bias", "mean")) else t.uniform_(0.5, 2)
    return layer.eval()


def net_of(norm, *behind):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), norm, *behind, nn.Conv2d(8, 4, 3)).eval()


def with_torchs(net):
    """The same net with torch's layer, and the activation behind it."""
    norm = nn.BatchNorm2d(8)
    norm.load_state_dict(net[1].state_dict())
    behind = [] if net[1].activation is None else [nn.ReLU()]
    return nn.Sequential(net[0], norm, *behind, *net[2:]).eval()


NORMS = {
    "batch": trained_norm,
    "batch with relu": lambda: trained_norm(activation="relu"),
    "renorm": lambda: trained_norm(nw.BatchRenorm2d),
}


class TestTorchao:
    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("torchao")

    @pytest.mark.parametrize("name", NORMS)
    def test_conv_and_batch_norm_fold_in_an_exported_graph(self, name):
        from torchao.quantization.pt2e.utils import _fuse_conv_bn_

        net, x = net_of(NORMS[name]()), torch.randn(2, 3, 12, 12)
        graph = torch.export.export(net, (x,)).module()
        _fuse_conv_bn_(graph)
        assert not any("batch_norm" in str(node.target) for node in graph.graph.nodes)
        assert_close(graph(x), net(x), **CLOSE)

    @pytest.mark.parametrize("name", NORMS)
    def test_prepare_pt2e_quantizes_as_with_torchs_layer(self, name):
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

        net, x = net_of(NORMS[name]()), torch.randn(2, 3, 12, 12)
        results = []
        for model in (net, with_torchs(net)):
            quantizer = x86.X86InductorQuantizer()
            quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
            prepared = prepare_pt2e(torch.export.export(model, (x,)).module(), quantizer)
            prepared(x)
            results.append(convert_pt2e(prepared)(x))
        assert_close(*results)
        assert not torch.equal(results[0], net(x)), "nothing was quantized"


class TestTimm:
    def test_freezing(self):
        timm()
        from timm.layers import freeze_batch_norm_2d

        x = torch.randn(2, 3, 12, 12)
        for name in ("batch", "renorm"):
            net = net_of(NORMS[name]())
            expected, frozen = net(x), freeze_batch_norm_2d(copy.deepcopy(net)).train()
            assert not isinstance(frozen[1], nw.BatchNorm2d)
            assert_close(frozen(x), expected, **CLOSE)
        with pytest.raises(TypeError, match=r"freeze_batch_norm_2d .* activation='relu'"):
            freeze_batch_norm_2d(net_of(NORMS["batch with relu"]()))

    def test_a_model_with_our_layers_trains_as_with_torchs(self):
        model = timm().create_model("resnet18", num_classes=5, norm_layer=nn.BatchNorm2d)
        ours = timm().create_model("resnet18", num_classes=5, norm_layer=nw.BatchNorm2d)
        ours.load_state_dict(model.state_dict())
        x, target = torch.randn(4, 3, 64, 64), torch.arange(4)
        for one in (model, ours):
            optimizer = torch.optim.SGD(one.parameters(), 0.01)
            nn.functional.cross_entropy(one(x), target).backward()
            optimizer.step()
        assert_close(ours.state_dict(), model.state_dict(), rtol=1e-3, atol=1e-4)
        assert_close(ours.eval()(x), model.eval()(x), rtol=1e-2, atol=1e-2)


class TestTorchvision:
    def test_features_by_symbolic_tracing(self):
        torchvision()
        from torchvision.models import resnet18
        from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

        ours, theirs = resnet18(norm_layer=nw.BatchNorm2d), resnet18()
        ours.load_state_dict(theirs.state_dict())
        assert get_graph_node_names(ours) == get_graph_node_names(theirs)
        x = torch.randn(2, 3, 64, 64)
        found = [
            create_feature_extractor(model.eval(), {"layer2.0.bn1": "middle", "avgpool": "end"})(x)
            for model in (ours, theirs)
        ]
        assert_close(*found, rtol=1e-3, atol=1e-4)


class TestOpacus:
    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("opacus")

    @pytest.mark.parametrize(
        ("layer", "instead"),
        [
            (lambda: nw.BatchNorm2d(4), nw.GroupNorm),
            (lambda: nw.SyncBatchNorm(4), nw.GroupNorm),
            (lambda: nw.BatchRenorm2d(4, activation="relu"), nw.GroupNorm),
            (lambda: nw.EvoNormB0(4), nw.EvoNormS0),
            (lambda: nw.InstanceNorm2d(4, affine=True, track_running_stats=True), nw.InstanceNorm2d),
        ],
    )
    def test_what_sees_the_batch_is_found_and_replaced(self, layer, instead):
        from opacus.validators import ModuleValidator

        model = nn.Sequential(nn.Conv2d(3, 4, 3), layer())
        assert len(ModuleValidator.validate(model)) == 1
        fixed = ModuleValidator.fix(model)
        assert type(fixed[1]) is instead
        assert fixed[1].activation == model[1].activation
        assert ModuleValidator.validate(fixed) == []

    @pytest.mark.parametrize("kind", [nw.SwitchableNorm2d, nw.BatchInstanceNorm2d])
    def test_what_has_no_counterpart(self, kind):
        from opacus.validators import ModuleValidator

        model = nn.Sequential(nn.Conv2d(3, 4, 3), kind(4))
        assert len(ModuleValidator.validate(model)) == 1
        with pytest.raises(ValueError, match=f"{kind.__name__} of normwise has no counterpart"):
            ModuleValidator.fix(model)

    @pytest.mark.parametrize("layer", [nw.GroupNorm(2, 4), nw.InstanceNorm2d(4, affine=True)])
    def test_a_private_step_is_that_of_torchs_layer(self, layer):
        from opacus import GradSampleModule

        theirs = nn.GroupNorm(2, 4) if isinstance(layer, nn.GroupNorm) else nn.InstanceNorm2d(4, affine=True)
        conv, x = nn.Conv2d(3, 4, 3), torch.randn(5, 3, 8, 8)
        samples = []
        for norm in (layer, theirs):
            model = GradSampleModule(nn.Sequential(copy.deepcopy(conv), norm))
            model(x).square().sum().backward()
            samples.append([p.grad_sample for p in model.parameters()])
        assert_close(*samples, rtol=1e-3, atol=1e-3)


class TestFvcore:
    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("fvcore")

    def test_operations_are_counted_as_with_torchs_layer(self):
        from fvcore.nn import FlopCountAnalysis

        net, x = net_of(trained_norm()), torch.randn(2, 3, 12, 12)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            counts = [FlopCountAnalysis(model, x).by_operator() for model in (net, with_torchs(net))]
        assert counts[0] == counts[1]

    def test_precise_statistics_find_the_layers(self):
        from fvcore.nn.precise_bn import update_bn_stats

        net, batches = net_of(trained_norm()).train(), torch.randn(3, 4, 3, 12, 12)
        theirs = with_torchs(net).train()
        for model in (net, theirs):
            update_bn_stats(model, list(batches), 3)
        assert_close(net[1].running_mean, theirs[1].running_mean)
        assert_close(net[1].running_var, theirs[1].running_var)
