"""What every tool says about a model that it cannot work on, and about a selection that selects nothing."""

import pytest
import torch
from torch import nn

from normwise.core.module_tree import module_tree
from normwise.surgery.given import check_model, matching


class Compiled(nn.Module):
    """As `torch.compile` returns it, without the compiler."""

    def __init__(self, model):
        super().__init__()
        self._orig_mod = model


def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()))


@pytest.mark.parametrize(
    ("model", "kind", "said"),
    [
        ("resnet", TypeError, "fold expects a torch.nn.Module, received str"),
        (lambda: Compiled(net()), TypeError, "fold: the model .Compiled. is compiled; pass the model from before"),
        (lambda: nn.DataParallel(net()), TypeError, "wraps the model for several devices"),
        (lambda: net().to("meta"), ValueError, r"fold: 0.weight is on the meta device"),
        (lambda: nn.Sequential(nn.LazyConv2d(3, 2)), ValueError, r"0.weight is not initialized yet"),
    ],
)
def test_what_cannot_be_worked_on(model, kind, said):
    with pytest.raises(kind, match=said):
        check_model(model() if callable(model) else model, "fold")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_and_quantized_parts_are_named():
    model = nn.Sequential(nn.ReLU(), torch.jit.script(nn.ReLU()))
    with pytest.raises(TypeError, match=r"fold: 1 \(RecursiveScriptModule\) runs in TorchScript"):
        check_model(model, "fold")
    quantized = nn.Sequential(torch.ao.nn.quantized.ReLU6())
    with pytest.raises(TypeError, match=r"fold: 0 \(ReLU6\) is quantized"):
        check_model(quantized, "fold")
    exported = torch.export.export(nn.Sequential(nn.BatchNorm1d(2)).eval(), (torch.randn(3, 2),)).module()
    with pytest.raises(TypeError, match=r"swap: GraphModule is a graph of operations"):
        check_model(exported, "swap")


def normalizers(model):
    return {module: node for module, node in module_tree(model).items() if isinstance(module, nn.BatchNorm2d)}


@pytest.mark.parametrize(
    ("where", "indices"),
    [(None, ["1", "2.0"]), ("1", ["1"]), ("2", ["2.0"]), (["*.0"], ["2.0"]), (lambda n, m: n != "1", ["2.0"])],
)
def test_layers_are_chosen_by_name_glob_or_predicate(where, indices):
    model = net()
    assert matching(normalizers(model), where, "swap") == [model.get_submodule(i) for i in indices]


def test_a_choice_of_nothing_names_what_there_is():
    with pytest.raises(ValueError, match=r"swap: where='conv' matches none of the layers; there are 1, 2.0\."):
        matching(normalizers(net()), "conv", "swap")
    with pytest.raises(TypeError, match="where must be a predicate"):
        matching(normalizers(net()), [3], "swap")
