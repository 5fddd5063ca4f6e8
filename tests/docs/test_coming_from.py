"""The tables of docs/coming_from.md say what is so: each pair of layers is built and compared."""

import inspect
import sys
from pathlib import Path

import pytest
import torch
from libraries import timm
from torch import nn
from torch.testing import assert_close

import normwise as nw

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))
from make_coming_from import DETECTRON2, KERAS, TIMM, torch_names

N, C = 4, 8


@pytest.mark.parametrize("name", torch_names())
def test_arguments_and_states_of_torch(name):
    theirs, ours = getattr(nn, name), getattr(nw, name)
    assert issubclass(ours, theirs.__base__ if name == "SyncBatchNorm" else theirs)
    mine = inspect.signature(ours).parameters
    for parameter, value in inspect.signature(theirs).parameters.items():
        if parameter in mine or "options" not in mine:  # SyncBatchNorm hands `bias` on to the class above it
            assert mine[parameter].default == value.default
    arguments = (4, C) if name == "GroupNorm" else (C,)
    assert ours(*arguments).state_dict().keys() == theirs(*arguments).state_dict().keys()


@pytest.mark.parametrize("line", TIMM, ids=lambda line: line.theirs)
def test_a_line_of_timm(line):
    theirs, ours = (eval(code, {"nw": nw, "L": timm().layers, "C": C}) for code in (line.theirs, line.ours))
    generator = torch.Generator().manual_seed(0)
    for p in theirs.parameters():
        p.data.copy_(torch.rand(p.shape, generator=generator) + 0.5)
    mine = dict(ours.named_parameters())
    for name, p in theirs.named_parameters():
        mine[renamed(name, mine)].data.copy_(p.reshape(mine[renamed(name, mine)].shape))
    rows = isinstance(ours, nn.LayerNorm | nn.RMSNorm) and not isinstance(ours, nw.LayerNorm2d | nw.RMSNorm2d)
    x = torch.randn(N, 6, 5, C) if rows else torch.randn(N, C, 6, 5)
    for training in (True, False):
        theirs.train(training)
        ours.train(training)
        assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def renamed(name, mine):
    """timm's name of a parameter, or the one that it has here."""
    return name if name in mine else {"tau": "threshold"}.get(name, name)


@pytest.mark.parametrize("line", [*KERAS, *DETECTRON2], ids=lambda line: line.theirs)
def test_our_side_of_a_line_exists(line):
    given = {"nw": nw, "C": 32, "layer": nn.Linear(3, 3), "model": nn.Sequential(nn.BatchNorm2d(2))}
    assert eval(line.ours, given) is not None


@pytest.mark.parametrize(
    "line", [line for line in KERAS if "Spectral" not in line.theirs], ids=lambda line: line.theirs
)
def test_eps_and_momentum_of_keras(line):
    """1e-3 everywhere but in RMSNormalization, and the weight of the old value turned round."""
    layer = eval(line.ours, {"nw": nw, "C": 32})
    assert layer.eps == (1e-6 if "RMS" in line.theirs else 1e-3)
    if "Batch" in line.theirs:
        assert layer.momentum == pytest.approx(1 - 0.99)
