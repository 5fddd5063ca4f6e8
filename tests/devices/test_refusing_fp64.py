"""No operator makes or sees an fp64 tensor where the library is told that the CPU has no fp64.

Plain tensors on the CPU, which take ways that a tensor of a Python device (test_without_fp64.py) does not.
"""

from __future__ import annotations

import contextlib
import inspect

import functional_cases
import pytest
import torch
from conformance.cases import (
    ONE_OF_EACH_WAY,
    TOLERANCE,
    assert_near,
    cases,
    needs_processes,
    trained,
    truth,
)
from conformance.compilers import Together, results_of_each
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

import normwise as nw
from normwise import backends, nets, use_backend
from normwise.core import precision

from .device import REFUSED

CASES = [pytest.param(case, id=case.id) for case in cases()]


class Refusing(TorchDispatchMode):
    """Raises on every fp64 tensor that an operator is given or gives."""

    def __torch_dispatch__(self, operator, _types, args=(), kwargs=None):
        found = operator(*args, **(kwargs or {}))
        refuse(args, kwargs, found)
        return found


@pytest.fixture
def without_fp64(monkeypatch):
    """A context without fp64, and without the kernels in C++, which serve the CPU alone and count on it."""

    @contextlib.contextmanager
    def context(*, by_operator=True):
        with monkeypatch.context() as patch, Refusing() if by_operator else contextlib.nullcontext():
            patch.setitem(precision._HAS_FP64, "cpu", False)
            patch.setattr(backends.cpu, "serves", lambda _: False)
            yield

    return context


def refuse(*values):
    for t in tree_iter(values):
        if isinstance(t, torch.Tensor) and t.dtype in REFUSED:
            raise TypeError(f"There is a {t.dtype}.")


def checked(graph, _inputs):
    """A compiler that reads the graph, forward or backward, and leaves it as it is."""
    refuse([node.meta.get("val") for node in graph.graph.nodes])
    return make_boxed_func(graph.forward)


def narrow(value):
    def single(t):
        return t.float() if isinstance(t, torch.Tensor) and t.dtype is torch.float64 else t

    return tree_map(single, value)


def test_the_mode_refuses(without_fp64):
    x = torch.ones(2, dtype=torch.float64)
    with without_fp64():
        for made in (lambda: torch.zeros(2).double(), lambda: torch.zeros(2, dtype=torch.float64), lambda: x.float()):
            with pytest.raises(TypeError, match=r"float64"):
                made()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("backend", ["automatic", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_output_gradients_and_buffers(case, training, backend, dtype, without_fp64):
    if needs_processes(case) and training:
        pytest.skip("needs a process group")
    given = [case.layer(dtype), case.input(dtype), case.input(dtype, seed=1), training, case.condition(dtype)]
    chosen = use_backend(backend) if backend == "reference" else contextlib.nullcontext()
    with without_fp64(), chosen:
        got = trained(*given)
    assert_near(got, truth(case, dtype, training), TOLERANCE[dtype])


@pytest.mark.parametrize("case", CASES)
def test_mask_and_residual(case, without_fp64):
    layer, x = case.layer(), case.input()
    arguments = inspect.signature(layer.forward).parameters
    shape = (x.shape[0], *x.shape[2:]) if case.maps else x.shape
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(3)) < 0.7
    options = {"mask": mask, "residual": case.input(seed=2)}
    options = {name: value for name, value in options.items() if name in arguments}
    if needs_processes(case) or not options:
        pytest.skip("takes neither a mask nor a residual")
    given = [x, case.input(seed=1), True, case.condition()]
    with use_backend("reference"):
        wanted = trained(layer, *given, **options)
    layer, given, options = case.layer(torch.float32), narrow(given), narrow(options)
    with without_fp64():
        got = trained(layer, *given, **options)
    assert_near(got, wanted, TOLERANCE[torch.float32])


def assert_compiled_alike(found, training, context):
    given = [(case.input(torch.float32), *case.condition(torch.float32)) for case in found]
    layers = [case.layer(torch.float32).train(training) for case in found]
    graph = torch.compile(Together(layers, given), fullgraph=True, backend=aot_autograd(fw_compiler=checked))
    cotangents = [case.input(torch.float32, 1) for case in found]
    with context(by_operator=False):  # the compiler traces nothing under a mode
        results = results_of_each(graph, layers, given, cotangents)
    for case, got in zip(found, results, strict=True):
        assert_near(got, truth(case, torch.float32, training), TOLERANCE[torch.float32], of=case.id)


def test_compiled_together(without_fp64):
    """The operators of all layers are looked at above, where they run; a compiler adds the constants that it makes."""
    assert_compiled_alike([c for c in cases() if c.rank == 1 and c.name in ONE_OF_EACH_WAY], True, without_fp64)


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("case", [case for case in cases() if case.rank == 1], ids=lambda case: case.id)
def test_compiled(case, training, without_fp64):
    if needs_processes(case):
        pytest.skip("needs a process group")
    assert_compiled_alike([case], training, without_fp64)


@pytest.mark.parametrize("name", functional_cases.EVERY)
def test_functions(name, monkeypatch, without_fp64):
    function = functional_cases.outputs(name)

    def mapped(xs):
        gradient = torch.func.grad(lambda x: function(x).tanh().sum())
        return torch.func.vmap(function)(xs), torch.func.vmap(gradient)(xs)

    xs = torch.stack([functional_cases.data(seed) for seed in range(2)])
    wanted = mapped(xs)
    for table in ("WEIGHT", "BIAS", "V", "GATE", "MIX", "ALPHA", "SHIFT", "STYLE"):
        monkeypatch.setattr(functional_cases, table, getattr(functional_cases, table).float())
    xs = xs.float()
    with without_fp64():
        found = mapped(xs)
    for got, want in zip(found, wanted, strict=True):
        scale = want.abs().max()
        torch.testing.assert_close(got / scale, want.float() / scale, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", functional_cases.POOLED)
def test_statistics_of_a_mapped_function(name, monkeypatch, without_fp64):
    def statistics(x):
        return functional_cases.POOLED[name][0](x)[1]

    xs = torch.stack([functional_cases.data(seed) for seed in range(2)])
    wanted = torch.func.vmap(statistics)(xs)
    for table in ("WEIGHT", "BIAS", "V", "GATE", "MIX"):
        monkeypatch.setattr(functional_cases, table, getattr(functional_cases, table).float())
    xs = xs.float()
    with without_fp64():
        found = torch.func.vmap(statistics)(xs)
    torch.testing.assert_close(found.mean, wanted.mean.float())
    torch.testing.assert_close(found.var, wanted.var.float())


@pytest.mark.parametrize("norm", ["batch", "renorm", "ghost", None], ids=str)
def test_a_step_of_training(norm, without_fp64):
    net = nets.nf_resnet(8, width=4) if norm is None else nets.resnet(8, norm=norm, width=4)
    x, before = torch.randn(4, 3, 8, 8), [p.detach().clone() for p in net.parameters()]
    with without_fp64():
        optimizer = nw.AdaptiveGradientClipping(torch.optim.SGD(nw.param_groups(net, weight_decay=1e-4), lr=0.1), net)
        net(x).square().mean().backward()
        optimizer.step()
    moved = [not torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True)]
    assert sum(moved) > len(moved) / 2
    assert all(p.isfinite().all() for p in net.parameters())
