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


X, Y = torch.randn(5, 3, 8, 8), torch.arange(5)  # as labels they are no mask of these maps


class Dictionaries:
    def __init__(self, **names):
        self.names = names

    def __iter__(self):
        return iter([self.names] * 3)


#: Each makes its data anew: some can be read once.
KINDS = {
    "a list of tuples": (lambda: [(X, Y), (X, Y)], 2),
    "a list of lists": (lambda: [[X, Y], [X, Y], [X, Y]], 3),
    "a tuple of tuples": (lambda: ((X, Y), (X, Y)), 2),
    "a list of one": (lambda: [(X, Y)], 1),
    "a list of dicts": (lambda: [{"x": X, "y": Y}, {"x": X, "y": Y}], 2),
    "a list of tensors": (lambda: [X, X, X, X], 4),
    "a generator": (lambda: ((X, Y) for _ in range(2)), 2),
    "a loader that yields once": (lambda: iter([X]), 1),
    "a DataLoader": (lambda: DataLoader(TensorDataset(X, Y), batch_size=4), 2),
    "a loader of dicts": (lambda: Dictionaries(x=X, y=Y), 3),
}
ONE = {
    "a dict": lambda: {"x": X, "labels": Y},
    "a pair on a list": lambda: [X, Y],
    "a list with None": lambda: [X, None],
    "a tuple with None": lambda: (X, None),
    "a tuple of more than it takes": lambda: (X, None, Y),
    "a dict with None": lambda: {"x": X, "mask": None},
}


@pytest.mark.parametrize(("make", "batches"), KINDS.values(), ids=KINDS)
def test_batches_of_every_kind(make, batches):
    result = nw.trace(Net(), make())
    assert (result.batches, result.input, result.layers[0].name) == (batches, "a loader", "conv")
    assert not nw.diagnose(Net(), make())


@pytest.mark.parametrize("make", ONE.values(), ids=ONE)
def test_one_batch_of_every_kind(make):
    result = nw.trace(Net(), make())
    assert (result.batches, result.input, result.layers[0].name) == (1, "a batch", "conv")
    assert not nw.diagnose(Net(), make())


NONE = r"The batch holds None where Net.forward\(x, mask\) takes x; pass forward=lambda model, batch: ..."
NOTHING = r"A batch must hold a tensor; received "
OTHER_NAMES = (
    r"dict of 'image', 'label', and Net.forward\(x, mask\) has no such arguments; "
    r"pass forward=lambda model, batch: model\(batch\['image'\]\)"
)
WRONG = {
    "None on a list": (lambda: [None, Y], ValueError, NONE),
    "None in a tuple": (lambda: (None, Y), ValueError, NONE),
    "None in batches": (lambda: [(None, Y), (None, Y)], ValueError, NONE),
    "None in a dict": (lambda: {"x": None, "y": Y}, ValueError, NONE),
    "None alone": (lambda: [None], ValueError, NOTHING + "list"),
    "batches that are None": (lambda: iter([None, None]), ValueError, NOTHING + "None"),
    "batches of text": (lambda: iter(["a", "b"]), ValueError, NOTHING + "str"),
    "a dict of other names": (lambda: Dictionaries(image=X, label=Y), ValueError, OTHER_NAMES),
    "an array": (lambda: np.zeros((6, 3, 8, 8)), TypeError, r"received ndarray; write torch.as_tensor\(array\)"),
    "a data set": (
        lambda: TensorDataset(X, Y),
        TypeError,
        r"received TensorDataset; write DataLoader\(dataset, batch_size=...\)",
    ),
    "text": (lambda: "images", TypeError, "received str"),
    "an empty list": (lambda: [], ValueError, "The loader has no batches"),
    "no batches": (lambda: iter([]), ValueError, "The loader has no batches"),
}


@pytest.mark.parametrize("tool", [nw.trace, nw.diagnose], ids=["trace", "diagnose"])
@pytest.mark.parametrize(("make", "error", "words"), WRONG.values(), ids=WRONG)
def test_one_sentence(tool, make, error, words):
    net = Net()
    with pytest.raises(error, match=words):
        tool(net, make())
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
