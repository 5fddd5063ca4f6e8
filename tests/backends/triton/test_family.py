"""Every layer of the table on the Triton backend against fp64 on the reference; tests/layers runs in full when slow."""

import os

import pytest
import torch
from conformance import cases
from forked import Forked
from torch.testing import assert_close

import normwise as nw
from normwise import use_backend
from normwise.backends import select

from .support import DEVICE, kernels, needs_triton

TRAINABLE = [pytest.param(case, id=case.id) for case in cases.cases() if not cases.needs_processes(case)]


@needs_triton
@pytest.mark.parametrize(("dtype", "training"), [(torch.float32, True), (torch.bfloat16, False)], ids=str)
@pytest.mark.parametrize("case", TRAINABLE)
def test_values_and_gradients(case, dtype, training):
    x, cotangent = case.input(), case.input(seed=1)
    with use_backend("reference"):
        expected = cases.trained(case.layer(dtype).double(), x, cotangent, training, case.condition())
    inputs = [t.to(dtype).to(DEVICE) for t in (x, cotangent)]
    if case.rank in cases.LAYOUTS and case.maps:
        inputs = [t.to(memory_format=cases.LAYOUTS[case.rank]) for t in inputs]
    condition = tuple(t.to(DEVICE) for t in case.condition(dtype))
    with use_backend("triton"):
        got = cases.trained(case.layer(dtype).to(DEVICE), *inputs, training, condition)
    assert got["y"].stride() == inputs[0].stride()
    tolerance = cases.TOLERANCE[dtype]
    for name, want in expected.items():
        scale = max(1.0, want.abs().max().item()) if want.is_floating_point() else 1.0
        value = got[name].to(want.dtype).cpu()
        if name == "x.grad" and hasattr(case.layer(), "tau"):
            value = cases.without_ties(value, want, tolerance * scale)
        assert_close(value / scale, want / scale, atol=tolerance, rtol=tolerance)


MAKERS = {
    "batch": lambda: nw.BatchNorm2d(4).eval(),
    "instance": lambda: nw.InstanceNorm2d(4, affine=True),
    "group": lambda: nw.GroupNorm(2, 4, activation="silu"),
    "layer": lambda: nw.LayerNorm2d(4),
    "rms": lambda: nw.RMSNorm2d(4),
    "tokens": lambda: nw.LayerNorm(3),
    "response": lambda: nw.FilterResponseNorm2d(4),
}


@needs_triton
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_an_empty_batch(make, dtype, layout):
    layer, x = make().to(DEVICE, dtype), torch.empty(0, 4, 3, 3, device=DEVICE, dtype=dtype, memory_format=layout)
    x.requires_grad_()
    with use_backend("triton"):
        y = layer(x)
    y.backward(torch.ones_like(y))
    assert y.shape == x.grad.shape == x.shape
    assert y.dtype == x.grad.dtype == dtype
    assert all(p.grad.eq(0).all() for p in layer.parameters())


@needs_triton
def test_what_is_not_served_goes_elsewhere():
    class Subclass(torch.Tensor):
        pass

    x = torch.randn(2, 3, device=DEVICE)
    assert kernels.serves(x)
    assert kernels.serves(torch.nn.Parameter(x))
    assert not kernels.serves(x.as_subclass(Subclass))
    assert not kernels.serves(x[:0])
    assert not kernels.serves(torch.empty(2, 3, device="meta"))
    assert not kernels.serves(x.int())


def process(statement):
    """What Python prints for a statement in a process of its own."""
    clean = {name: text for name, text in os.environ.items() if name != "TRITON_INTERPRET"}
    return Forked(statement, environment=clean).ended()


USE = "import torch, normwise as nw\nwith nw.use_backend('triton'): nw.GroupNorm(2, 4)(torch.ones(2, 4, 3))"


def test_without_triton_there_is_a_reason():
    done = process(f"import sys; sys.modules['triton'] = None\n{USE}")
    assert "RuntimeError: The backend 'triton' is not available: Triton is not installed; install" in done.stderr


@needs_triton
@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU is asked for")
def test_without_a_gpu_there_is_a_reason():
    done = process(USE)
    assert "RuntimeError: The backend 'triton' is not available: torch finds no CUDA device; TRITON" in done.stderr


@needs_triton
def test_nothing_chooses_the_kernels_by_itself_before_they_are_measured():
    x = torch.randn(2, 4, 5, device=DEVICE)
    assert kernels.serves(x)
    assert select(x).name != "triton"
    with use_backend("triton"):
        assert select(x).name == "triton"


@needs_triton
def test_the_compiler_sees_plain_operations():
    """torch.compile traces the same public call without a graph break, whatever backend is chosen."""
    layer = nw.GroupNorm(2, 4, activation="silu").to(DEVICE)
    x = torch.randn(2, 4, 5, device=DEVICE)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with use_backend("triton"):
        assert_close(compiled(x), layer(x), atol=1e-5, rtol=1e-5)
