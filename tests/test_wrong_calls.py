"""Tools called with things of another type: the error says what they expect."""

import pytest
import torch
from torch import nn

import normwise as nw


def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()


X = torch.randn(2, 3, 8, 8)
CALLS = {
    "huge_pages": (lambda: nw.huge_pages("no"), "huge_pages: enabled must be True or False"),
    "adaptive_clip_grad_": (lambda: nw.adaptive_clip_grad_(3), "expects a model or tensors, received int"),
    "param_groups": (lambda: nw.param_groups(net(), torch.ones(3)), "weight_decay must be a number"),
    "param_groups, lr": (lambda: nw.param_groups(net(), 0.1, lr=torch.ones(2)), "lr must be a number"),
    "freeze, where": (lambda: nw.freeze(net(), where=3), "where must be a predicate .name, module., a name or names"),
    "freeze, affine": (lambda: nw.freeze(net(), affine="no"), "freeze: affine must be True or False"),
    "fold": (lambda: nw.fold(net(), X, into=3), "into must be 'before', 'after' or both, received 3"),
    "tiles": (lambda: nw.tiles(net(), X, tile=None), "tiles: tile must be a whole number, received None"),
    "plot": (lambda: nw.plot(3), "a plot takes a Trace"),
    "plot, several": (lambda: nw.plot([1, 2]), "a plot takes a Trace"),
    "plot_histograms": (lambda: nw.plot_histograms(net()), "a plot takes a Trace"),
    "predict": (lambda: nw.predict(net(), torch.ones(3)), r"needs a batch dimension and channels, received \[3\]"),
    "normalize": (lambda: nw.normalize(X, "batch"), "formula must be a function that maps moments to an Affine"),
    "measured": (lambda: nw.normalize_and_measure(X, None), "formula must be a function"),
}


@pytest.mark.parametrize(("call", "says"), CALLS.values(), ids=CALLS)
def test_the_error_says_what_is_expected(call, says):
    with pytest.raises((TypeError, ValueError), match=says):
        call()


def test_a_single_parameter_is_clipped_as_torch_clips_one():
    weight = nn.Parameter(torch.ones(2, 3))
    weight.grad = torch.full((2, 3), 100.0)
    report = nw.adaptive_clip_grad_(weight, clip=0.01)
    torch.testing.assert_close(weight.grad, torch.full((2, 3), 0.01))
    assert report.rates == {"0": 1.0}
