"""Graphs of `torch.export` on their own: what they need of this package, and what other tools make of them."""

import forked
import pytest
import torch
from torch import nn
from torch.testing import assert_close

import normwise as nw

LOADING = """
import sys, torch
{first}
try:
    graph = torch.export.load(sys.argv[1]).module()
except RuntimeError as error:
    print(str(error)[:300])
else:
    print("loaded", float(graph(torch.ones(2, 4, 3, 3) * torch.arange(4).reshape(4, 1, 1)).detach().square().sum()))
assert "normwise" not in sys.modules or {own}
"""


def loaded_elsewhere(path, first=""):
    """What a process says that loads the graph."""
    code = LOADING.format(first=first, own=bool(first))
    return "\n".join(forked.run(code, path))


@pytest.mark.parametrize("layer", [nw.BatchNorm2d(4, activation="relu"), nw.GroupNorm(2, 4), nw.SwitchableNorm2d(4)])
def test_an_evaluated_graph_has_no_operator_of_this_package(layer):
    graph = torch.export.export(nn.Sequential(layer).eval(), (torch.randn(2, 4, 3, 3),))
    assert not any("normwise" in str(node.target) for node in graph.graph.nodes)


def test_a_training_graph_with_a_memory_needs_the_package(tmp_path):
    """It asks, when it runs, whether a checkpoint runs it once more: torch's layer counts such a batch twice."""
    model, path = nn.Sequential(nw.BatchNorm2d(4)), tmp_path / "graph.pt2"
    torch.export.save(torch.export.export(model, (torch.randn(2, 4, 3, 3),)), path)
    assert "error when deserializing" in loaded_elsewhere(path)  # torch's own words
    assert loaded_elsewhere(path, "import normwise as nw; nw.BatchNorm2d").startswith("loaded")


def test_a_training_graph_without_a_memory_does_not(tmp_path):
    for layer in (nw.GroupNorm(2, 4), nw.BatchNorm2d(4, track_running_stats=False)):
        graph = torch.export.export(nn.Sequential(layer), (torch.randn(2, 4, 3, 3),))
        assert not any("normwise" in str(node.target) for node in graph.graph.nodes)


def test_a_training_graph_stays_one():
    """`move_exported_model_to_eval` knows torch's operator of batch norm alone: the page of tools says so."""
    model, x = nn.Sequential(nw.BatchNorm2d(4)), torch.randn(2, 4, 3, 3) + 1
    graph = torch.export.export(model, (x,)).module()
    assert not any("batch_norm" in str(node.target) for node in graph.graph.nodes)
    assert_close(graph(x), nn.BatchNorm2d(4)(x))
