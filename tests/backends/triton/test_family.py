"""Every layer of the table on the Triton backend against fp64 on the reference; tests/layers runs in full when slow."""

import pytest
import torch
from conformance import cells
from torch.testing import assert_close

import normwise as nw
from normwise import use_backend
from normwise.backends import available_backends, triton_kernels

from .support import DEVICE, kernels, needs_triton

TRAINABLE = [
    pytest.param(case, id=f"{case.name}-{case.rank}d") for case in cells.cases() if not cells.needs_processes(case)
]


@needs_triton
@pytest.mark.parametrize(("dtype", "training"), [(torch.float32, True), (torch.bfloat16, False)], ids=str)
@pytest.mark.parametrize("case", TRAINABLE)
def test_values_and_gradients(case, dtype, training):
    x, cotangent = case.input(), case.input(seed=1)
    with use_backend("reference"):
        expected = cells.trained(case.layer(dtype).double(), x, cotangent, training, case.condition())
    inputs = [t.to(dtype).to(DEVICE) for t in (x, cotangent)]
    if case.rank in cells.LAYOUTS and case.maps:
        inputs = [t.to(memory_format=cells.LAYOUTS[case.rank]) for t in inputs]
    condition = tuple(t.to(DEVICE) for t in case.condition(dtype))
    with use_backend("triton"):
        got = cells.trained(case.layer(dtype).to(DEVICE), *inputs, training, condition)
    assert got["y"].stride() == inputs[0].stride()
    tolerance = cells.TOLERANCE[dtype]
    for name, want in expected.items():
        scale = max(1.0, want.abs().max().item()) if want.is_floating_point() else 1.0
        value = got[name].to(want.dtype).cpu()
        if name == "x.grad" and hasattr(case.layer(), "tau"):
            value = cells.without_ties(value, want, tolerance * scale)
        assert_close(value / scale, want / scale, atol=tolerance, rtol=tolerance)


@needs_triton
@pytest.mark.parametrize("make", [nw.BatchNorm2d, nw.InstanceNorm2d, lambda c: nw.GroupNorm(2, c), nw.LayerNorm2d])
def test_an_empty_batch(make):
    layer, x = make(4).to(DEVICE), torch.empty(0, 4, 3, 3, device=DEVICE, requires_grad=True)
    if isinstance(layer, nw.BatchNorm2d):
        layer.eval()
    with use_backend("triton"):
        y = layer(x)
    y.sum().backward()
    assert y.shape == x.grad.shape == x.shape


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


def test_without_triton_there_is_a_reason(monkeypatch):
    monkeypatch.setattr(triton_kernels.device, "find_spec", lambda name: None)
    triton_kernels.unavailable.cache_clear()
    try:
        assert "Triton is not installed" in available_backends()["triton"]
        with pytest.raises(RuntimeError, match="'triton' is not available: Triton is not installed"):
            use_backend("triton").__enter__()
    finally:
        monkeypatch.undo()
        triton_kernels.unavailable.cache_clear()


@needs_triton
def test_the_compiler_sees_plain_operations():
    """torch.compile traces the same public call without a graph break, whatever backend is chosen."""
    layer = nw.GroupNorm(2, 4, activation="silu").to(DEVICE)
    x = torch.randn(2, 4, 5, device=DEVICE)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with use_backend("triton"):
        assert_close(compiled(x), layer(x), atol=1e-5, rtol=1e-5)
