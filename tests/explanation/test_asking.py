"""What `explain` refuses, in one sentence, and that everything is given back as it was."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

import normwise as nw
from normwise.errors import InputError
from normwise.explanation import explain
from normwise.explanation.variants import variants


class Raises(nn.Module):
    def forward(self, x):
        raise RuntimeError("out of order.\nmore")


class GivesNothing(nn.Module):
    def forward(self, x):
        return None


X = torch.randn(2, 6, 4, 4)
MODEL = nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6))
BAD = {
    "unknown name": (("bach",), ValueError, "did you mean 'batch'"),
    "number": (("batch:2",), ValueError, "only 'group' and 'evo-s0'"),
    "no number": (("group:x",), ValueError, "must be a positive integer"),
    "class": ((nw.GroupNorm,), TypeError, r"is a class; write nw.explain\(GroupNorm\(\.\.\.\)\)"),
    "nothing": ((None,), TypeError, "received NoneType"),
    "tensor": ((X,), TypeError, "received Tensor"),
    "no tensor": ((nw.BatchNorm2d(6), 3), TypeError, "x must be a tensor, received int"),
    "integers": ((nw.BatchNorm2d(6), X.int()), TypeError, "dense floating tensor, received torch.int32"),
    "complex": ((nw.BatchNorm2d(6), X.cfloat()), TypeError, "received torch.complex64"),
    "sparse": ((nw.BatchNorm2d(6), X.to_sparse()), TypeError, "received torch.sparse_coo"),
    "meta": ((nw.BatchNorm2d(6), X.to("meta")), ValueError, "on the device 'meta'"),
    "layer on meta": ((nw.BatchNorm2d(6, device="meta"),), ValueError, r"write \.to_empty\(device='cpu'\)"),
    "empty": ((nw.BatchNorm2d(6), X[:0]), ValueError, r"x \[0, 6, 4, 4\] has no values"),
    "large": ((nw.BatchNorm2d(6), torch.zeros(8, 6, 56, 56)), ValueError, r"such as torch.randn\(2, 6, 2, 2\)"),
    "rank": ((nw.BatchNorm2d(6), X[0, :, 0]), InputError, "does not take x .*got 2D input"),
    "channels": ((nw.BatchNorm2d(5), X), InputError, "does not take x .*expected 5 channels"),
    "single value": ((nw.BatchNorm2d(6), X[:1, :, :1, :1]), InputError, "BatchNorm2d does not take x"),
    "raises": ((Raises(), X), InputError, r"Raises does not take x \[2, 6, 4, 4\]: out of order\.$"),
    "raises, without x": ((Raises(),), InputError, "found no input whose shape Raises keeps"),
    "None": ((GivesNothing(), X), InputError, "gives one that is a NoneType"),
    "dropout": ((nn.Sequential(nw.BatchNorm2d(6), nn.Dropout()), X), InputError, "is random: .*'1' drops values"),
    "noise": ((lambda x: x + torch.randn_like(x), X), InputError, r"is random: .*\.eval\(\)"),
    "NaN": ((lambda x: x.log(), torch.randn(2, 3)), InputError, "gives NaN or inf"),
    "a model": ((MODEL, X), InputError, "takes one layer, and Sequential is a model: its '0' mixes"),
    "a model's layer": ((MODEL, X), InputError, r'explain\(model.get_submodule\("1"\)\)'),
    "a classifier": ((nw.nets.resnet(8), torch.randn(1, 3, 8, 8)), InputError, "ResNet"),
    "a condition": ((nw.ConditionalBatchNorm2d(6, 2), X, torch.tensor([0, 7])), InputError, "labels must be 0 to 1"),
    "formula of x": ((lambda moments, x: nw.Affine(0.0, moments.var, 0.0), X[0, 0, 0]), InputError, "does not take x"),
}


@pytest.mark.parametrize("case", BAD)
def test_one_sentence(case):
    arguments, kind, words = BAD[case]
    with pytest.raises(kind, match=words) as error:
        nw.explain(*arguments)
    assert "\n" not in str(error.value)


def test_a_place_that_is_not_there():
    told = nw.explain("instance")
    with pytest.raises(IndexError, match=r"reads\(0, 6, 0, 0\): x has the shape \[4, 6, 2, 2\]"):
        told.reads(0, 6, 0, 0)
    with pytest.raises(IndexError, match=r"reads\(0\)"):
        told.reads(0)
    assert torch.equal(told.reads(-1, -1, 0, 0), told.reads(3, 5, 0, 0))


class WithEverything(nn.Module):
    """What a layer of a user's may hold: buffers that are bound anew, plain tensors, numbers, hooks."""

    def __init__(self):
        super().__init__()
        self.norm = nw.BatchRenorm2d(6)
        self.register_buffer("seen", torch.zeros(()))
        self.plain, self.calls, self.kept = torch.ones(6, 1, 1), 0, []

    def forward(self, x):
        self.seen = self.seen + 1
        self.calls += 1
        self.kept.append(self.calls)
        return self.norm(x) * self.plain


def test_the_layer_and_the_random_numbers_are_as_they_were():
    layer = WithEverything()
    layer(torch.randn(4, 6, 3, 3)).square().sum().backward()
    called = []
    layer.norm.register_forward_hook(lambda *_: called.append(1))
    layer.norm.weight.requires_grad_(False)
    state = {name: (t, t.clone()) for name, t in layer.state_dict(keep_vars=True).items()}
    grad = layer.norm.bias.grad.clone()
    hooks = dict(layer.norm._forward_hooks)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    nw.explain(layer, torch.randn(2, 6, 3, 1, generator=torch.Generator()))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]
    for name, t in layer.state_dict(keep_vars=True).items():
        assert t is state[name][0]
        assert torch.equal(t, state[name][1])
    assert_close(layer.norm.bias.grad, grad)
    assert called == []
    assert dict(layer.norm._forward_hooks) == hooks
    assert not layer.norm.weight.requires_grad
    assert (layer.calls, layer.kept, layer.training, layer.plain.dtype) == (1, [1], True, torch.float32)


def test_a_graph_that_waits_stays_valid():
    layer = nw.BatchNorm2d(6)
    x = torch.randn(4, 6, 3, 3, requires_grad=True)
    y = layer(x)
    nw.explain(layer, x)
    y.square().sum().backward()
    assert x.grad is not None


def test_what_rounds_otherwise_without_a_gradient_is_not_random():
    """As a layer does where a kernel serves the calls with a gradient, and torch's operator the others."""

    def center(x):
        centered = x - x.mean(1, keepdim=True)
        return centered if x.requires_grad else centered * (1 + 2 * torch.finfo(x.dtype).eps)

    told = explain(center, X)
    assert told.reads(0, 0, 0, 0).shape == X.shape
    assert told.reads(0, 0, 0, 0).sum() == 6


def test_a_layer_that_raises_is_given_back_too():
    class Fails(nn.BatchNorm2d):
        def forward(self, x):
            super().forward(x)
            raise ValueError("no")

    layer = Fails(6)
    with pytest.raises(InputError, match="Fails does not take x"):
        nw.explain(layer, X)
    assert layer.num_batches_tracked == 0
    assert layer.weight.dtype is torch.float32


def test_layers_inside_of_a_function_are_on_loan_too():
    layer, style = nw.AdaptiveInstanceNorm(), torch.randn(2, 6, 5, 5)
    counting = nw.BatchNorm2d(6)
    for function in (lambda x: layer(counting(x), style), counting.forward, lambda x: counting(x.float())):
        told = nw.explain(function, X[:, :, :2, :2])
        assert told.reads(0, 3, 0, 0).sum((0, 2, 3)).tolist() == [0, 0, 0, 8, 0, 0]
    assert counting.num_batches_tracked == 0
    assert counting.weight.dtype is torch.float32


def test_tensors_inside_of_a_function_may_be_narrow():
    weight = torch.rand(3)
    told = nw.explain(lambda x: nn.functional.layer_norm(x, (3,), weight), torch.randn(2, 3))
    assert told.cube.tolist() == [[0] * 3, [1] * 3]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_older_weight_norm_is_part_of_the_layer():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.utils.weight_norm(nn.Linear(3, 3))

        def forward(self, x):
            return nn.functional.layer_norm(x, (3,)) * self.inner(x.mean((0, 1)).expand(3)).mean()

    layer = Scaled()
    told = nw.explain(layer, torch.randn(4, 3))
    assert told.reads(0, 0).all()
    assert len(layer.inner._forward_pre_hooks) == 1


def test_compiled_layers_are_seen_through():
    layer = torch.compile(nw.InstanceNorm2d(2), backend="eager")
    assert int(nw.explain(layer, torch.randn(2, 2, 2, 2)).cube.max()) == 3


@pytest.mark.parametrize("name", nw.NORMALIZERS)
def test_every_row_says_when_to_use_it_and_its_trap(name):
    row = nw.NORMALIZERS[name]
    for sentence in (row.when_to_use, row.trap):
        assert sentence.endswith(".")
        assert 20 < len(sentence) < 250
    assert row.equation.startswith(("y =", "z =", "the first half"))
    assert row.formula == "" or callable(getattr(nw.core.formulas, row.formula))


def test_as_json_and_as_text():
    told = nw.explain(nw.GroupNorm(3, 6), torch.randn(2, 6, 1, 2))
    plain = told.to_dict()
    assert plain["cube"] == told.cube.tolist()
    for place in ((0, 0, 0, 0), (1, 5, 0, 1)):
        number = plain["reads_of"][place[0]][place[1]][place[2]][place[3]]
        assert told.reads(*place).flatten().nonzero().flatten().tolist() == plain["reads"][number]
    assert "c=2   1 1   4 4" in str(told)
    assert max(map(len, str(told).splitlines())) <= 80


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("shape", [(4, 6, 2, 2), (16, 16, 2), (2, 8, 40), (64, 4)])
def test_the_text_fits(width, shape):
    from normwise.explanation.terminal import text

    told = nw.explain(nw.GroupNorm(2, shape[1]), torch.randn(shape))
    assert max(map(len, text(told, width).splitlines())) <= width


def test_pictures_of_the_cube(tmp_path):
    told = nw.explain("ghost:2")
    assert told.save(tmp_path / "cube.svg").read_text().startswith("<svg")
    assert told.save(tmp_path / "cube.png").read_bytes().startswith(b"\x89PNG")
    assert 'id="cube"' in told.save(tmp_path / "cube.html").read_text()
    with pytest.raises(ValueError, match=r"cube.pdf: a cube is written as .html, .svg or .png"):
        told.save(tmp_path / "cube.pdf")


@pytest.mark.parametrize("name", ["group:8", "group:5", "evo-s0:4", "ghost:3"])
def test_a_number_that_does_not_divide_the_usual_channels(name):
    number = int(name.partition(":")[2])
    told = explain(name)
    if name.startswith("ghost"):
        assert told.cube.shape[0] % number in (0, 1)
    else:
        assert told.cube.shape[1] == 2 * number
        assert told.groups == told.cube.shape[0] * number
    assert {one.cube.shape[1] for one in variants(name)} == {told.cube.shape[1]}
