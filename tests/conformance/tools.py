"""Promises about tools that trace, record or script a layer: it comes out of each of them right.

Beside the outcomes of cases.py there is "evaluates": in evaluation; in training it is a clear error. The yardstick is
the layer itself, called as always.
"""

from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close

from .cases import ERROR, WORKS, Case, modes, needs_processes

#: In evaluation; in training it says that it does not.
EVALUATES = "evaluates"
#: Another order of sums in fp32, on values of order ten.
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
KIND = torch.float32


class One(nn.Module):
    """A model of one layer and an operation of its own."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x) + 1


class OneWithCondition(One):
    def forward(self, x, condition):
        return self.layer(x, condition) + 1


def model_of(case: Case, *, training: bool = False) -> nn.Module:
    kind = OneWithCondition if case.condition() else One
    return kind(case.layer(KIND)).train(training and not needs_processes(case))


def inputs_of(case: Case, seed: int = 0) -> tuple[Tensor, ...]:
    return case.input(KIND, seed=seed), *case.condition(KIND)


def symbolic_trace(case: Case) -> str:
    """One ``call_module`` in a model and alone, which shares the layer's tensors and computes what it computes."""
    for training in modes(case):
        model = model_of(case, training=training)
        for of_one, rest in ((model, ["call_function"]), (model.layer, [])):
            eager, traced = copy.deepcopy(of_one), copy.deepcopy(of_one)
            graph = torch.fx.symbolic_trace(traced)
            operations = [node.op for node in graph.graph.nodes if node.op not in ("placeholder", "output")]
            assert operations == ["call_module", *rest]
            for seed in (0, 1):
                assert_close(graph(*inputs_of(case, seed)), eager(*inputs_of(case, seed)))
            assert_close(dict(traced.named_buffers()), dict(eager.named_buffers()))
            assert {id(p) for p in graph.parameters()} == {id(p) for p in traced.parameters()}
    return WORKS


def make_fx_values(case: Case) -> str:
    """`make_fx` on real and on imagined tensors: the graph computes for other values what the layer does."""
    for mode in ("real", "symbolic"):
        for training in modes(case):
            model = model_of(case, training=training)
            tensors = dict(model.named_parameters()) | dict(model.named_buffers())

            def call(tensors, *inputs, model=model):
                own = {name: t.clone() for name, t in tensors.items()}  # a recording must not move the layer's memory
                return functional_call(model, own, inputs)

            graph = make_fx(call, tracing_mode=mode)(tensors, *inputs_of(case))
            for seed in (0, 1):
                assert_close(graph(tensors, *inputs_of(case, seed)), call(tensors, *inputs_of(case, seed)), **CLOSE)
    return WORKS


def make_fx_gradients(case: Case) -> str:
    """`make_fx` of a forward and backward pass."""
    model = model_of(case, training=True)
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    cotangent = case.input(KIND, seed=2)

    def gradient(x, *condition):
        own = {name: t.detach().clone() for name, t in tensors.items()}
        x = x.detach().requires_grad_()
        return torch.autograd.grad(functional_call(model, own, (x, *condition)), x, cotangent)[0]

    graph = make_fx(gradient)(*inputs_of(case))
    for seed in (0, 1):
        assert_close(graph(*inputs_of(case, seed)), gradient(*inputs_of(case, seed)), **CLOSE)
    return WORKS


def imagined(case: Case) -> str:
    """`FakeTensorMode`, forward and backward: the shape, dtype and layout that the output has."""
    for training in modes(case):
        model = model_of(case, training=training)
        real = copy.deepcopy(model)(*inputs_of(case))
        mode = FakeTensorMode()
        tensors = {k: mode.from_tensor(t.detach()) for k, t in (*model.named_parameters(), *model.named_buffers())}
        x, *condition = (mode.from_tensor(t) for t in inputs_of(case))
        x.requires_grad_()
        with mode:
            y = functional_call(model, tensors, (x, *condition))
            (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y))
        assert (y.shape, y.dtype, y.stride()) == (real.shape, real.dtype, real.stride())
        assert gradient.shape == x.shape
    return WORKS


def jit_trace(case: Case) -> str:
    """`torch.jit.trace`, which checks itself, and other values than those that it saw."""
    for training in modes(case):
        model = model_of(case, training=training)
        for graph in (True, False):
            with warnings.catch_warnings(), torch.set_grad_enabled(graph):
                warnings.simplefilter("ignore")  # deprecated; the checks of the input's shape, as in torch.nn
                traced = torch.jit.trace(copy.deepcopy(model), inputs_of(case))
            assert_close(traced(*inputs_of(case, 1)), copy.deepcopy(model)(*inputs_of(case, 1)), **CLOSE)
    return WORKS


def scripted(case: Case) -> str:
    """`torch.jit.script`: the layer's stand-in, in both modes or in evaluation alone, or one sentence."""
    right = []
    for training in modes(case):
        model = model_of(case, training=training)
        twin = copy.deepcopy(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated
            try:
                script = torch.jit.script(model)
            except TypeError as error:
                if "has no plain counterpart for torch.jit.script" not in str(error):
                    raise
                return ERROR
        try:
            for seed in (0, 1):
                assert_close(script(*inputs_of(case, seed)), twin(*inputs_of(case, seed)), **CLOSE)
        except torch.jit.Error as error:
            if not training or "only evaluates" not in str(error):
                raise
            continue
        assert_close(dict(script.named_buffers()), dict(twin.named_buffers()), **CLOSE)
        right.append(training)
    return WORKS if right == list(modes(case)) else EVALUATES
