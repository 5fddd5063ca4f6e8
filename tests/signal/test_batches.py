"""What is a batch and what holds batches, and how a model is called on one: right, or one sentence."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import normwise as nw


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)

    def forward(self, x, mask=None):
        y = self.conv(x)
        return y if mask is None else y * mask


X, Y = torch.randn(6, 3, 8, 8), torch.arange(6)


class Dictionaries:
    def __init__(self, **names):
        self.names = names

    def __iter__(self):
        return iter([self.names] * 3)


@pytest.mark.parametrize(
    ("data", "batches"),
    [
        ([(X, Y), (X, Y)], 2),
        ([[X, Y], [X, Y], [X, Y]], 3),
        (((X, Y), (X, Y)), 2),
        ([(X, Y)], 1),
        ([{"x": X, "y": Y}, {"x": X, "y": Y}], 2),
        ([X, X, X, X], 4),
        (((X, Y) for _ in range(2)), 2),
        (iter([X]), 1),
        (DataLoader(TensorDataset(X, Y), batch_size=4), 2),
        (Dictionaries(x=X, y=Y), 3),
        ({"x": X, "labels": Y}, 1),
        ([X, Y], 1),
        ([X, None], 1),
        ((X, None), 1),
        ((X, None, Y), 1),
        ({"x": X, "mask": None}, 1),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else str(value),
)
def test_batches_of_every_kind(data, batches):
    result = nw.trace(Net(), data)
    assert (result.batches, result.input) == (batches, "a batch" if batches == 1 and nw_is_one(data) else "a loader")
    assert result.layers[0].name == "conv"


def nw_is_one(data):
    return isinstance(data, (dict, tuple)) or (isinstance(data, list) and isinstance(data[0], torch.Tensor))


@pytest.mark.parametrize(
    "data",
    [[(X, Y), (X, Y)], iter([(X, Y)]), ((X, Y) for _ in range(3)), Dictionaries(x=X, y=Y), [X, Y], {"x": X, "y": Y}],
    ids=["list", "once", "generator", "dicts", "pair", "dict"],
)
def test_diagnose_takes_them_too(data):
    assert not nw.diagnose(Net(), data)


NONE = r"The batch holds None where Net.forward\(x, mask\) takes x; pass forward=lambda model, batch: ..."
NOTHING = r"A batch must hold a tensor; received "


@pytest.mark.parametrize("tool", [nw.trace, nw.diagnose], ids=["trace", "diagnose"])
@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        ([None, Y], ValueError, NONE),
        ((None, Y), ValueError, NONE),
        ([(None, Y), (None, Y)], ValueError, NONE),
        ({"x": None, "y": Y}, ValueError, NONE),
        ([None], ValueError, NOTHING + "list"),
        (iter([None, None]), ValueError, NOTHING + "None"),
        (iter(["a", "b"]), ValueError, NOTHING + "str"),
        (
            Dictionaries(image=X, label=Y),
            ValueError,
            r"dict of 'image', 'label', and Net.forward\(x, mask\) has no such arguments; "
            r"pass forward=lambda model, batch: model\(batch\['image'\]\)",
        ),
        (np.zeros((6, 3, 8, 8)), TypeError, r"received ndarray; write torch.as_tensor\(array\)"),
        (TensorDataset(X, Y), TypeError, r"received TensorDataset; write DataLoader\(dataset, batch_size=...\)"),
        ("images", TypeError, "received str"),
        (iter([]), ValueError, "The loader has no batches"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_one_sentence(tool, data, error, words):
    net = Net()
    if tool is nw.diagnose and hasattr(data, "__next__"):
        pytest.skip("the iterator was read for trace")
    with pytest.raises(error, match=words):
        tool(net, data)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert net.training


def test_a_model_of_several_arguments_takes_all_it_requires():
    class Two(nn.Module):
        def forward(self, a, b, scale=1.0):
            return a * b * scale

    pair = torch.randn(4, 3), torch.randn(4, 3)
    assert nw.trace(Two(), pair).batches == 1
    assert nw.trace(Two(), [(*pair, Y[:4]), (*pair, Y[:4])]).batches == 2
    assert nw.trace(Two(), [*pair]).batches == 1
    assert nw.trace(Two(), {"a": pair[0], "b": pair[1], "labels": Y}).batches == 1
