"""What only a GPU can show: compilers, graphs, streams, several devices and processes, tensors of over 2³¹ values."""

import copy

import pytest
import torch
from torch.testing import assert_close

import normwise as nw
from normwise import use_backend

from .support import kernels, needs_gpu, needs_triton

pytestmark = [needs_gpu, needs_triton]

LAYERS = {
    "batch": lambda: nw.BatchNorm2d(32, activation="silu"),
    "group": lambda: nw.GroupNorm(8, 32, activation="silu"),
    "instance": lambda: nw.InstanceNorm2d(32, affine=True),
    "switchable": lambda: nw.SwitchableNorm2d(32),
    "pixel": lambda: nw.LayerNorm2d(32),
}
LAYOUTS = [torch.contiguous_format, torch.channels_last]
each_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS.keys())


def trained(layer, x, cotangent):
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = layer(x)
    y.backward(cotangent)
    return [y.detach(), x.grad, *(p.grad for p in layer.parameters())]


def pair(*shape, device="cuda", dtype=torch.float32, layout=torch.contiguous_format):
    found = (torch.randn(shape, device=device).to(dtype) for _ in range(2))
    return [t.contiguous(memory_format=layout) for t in found]


@each_layer
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_sizes_of_real_nets_against_fp64(make, layout, dtype):
    x, cotangent = pair(4, 32, 112, 113, dtype=dtype, layout=layout)
    layer = make().cuda()
    with use_backend("reference"):
        want = trained(copy.deepcopy(layer).double(), x.double(), cotangent.double())
    with use_backend("triton"):
        got = trained(layer, x, cotangent)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}[dtype]
    for g, w in zip(got, want, strict=True):
        size = max(w.abs().max().item(), 1.0)
        assert_close(g.double() / size, w / size, rtol=0, atol=tolerance)
    assert got[0].stride() == x.stride()


@each_layer
def test_compiled_without_a_graph_break(make):
    layer, (x, cotangent) = make().cuda(), pair(4, 32, 16, 16)
    with use_backend("triton"):
        want = trained(copy.deepcopy(layer), x, cotangent)
        got = trained(torch.compile(layer, fullgraph=True), x, cotangent)
    for g, w in zip(got, want, strict=True):
        assert_close(g, w, atol=1e-3, rtol=1e-3)


@each_layer
def test_captured_in_a_graph(make):
    layer, (x, _) = make().cuda().eval(), pair(4, 32, 24, 24)
    with use_backend("triton"), torch.no_grad():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            layer(x)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = layer(x)
        x.copy_(torch.randn_like(x) * 3)
        graph.replay()
        assert_close(y, layer(x), rtol=0, atol=0)


@each_layer
def test_on_a_stream_of_its_own(make):
    layer, (x, cotangent) = make().cuda(), pair(8, 32, 128, 128)
    with use_backend("triton"):
        want = trained(copy.deepcopy(layer), x, cotangent)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            got = trained(layer, x, cotangent)
        torch.cuda.current_stream().wait_stream(stream)
    for g, w in zip(got, want, strict=True):
        assert_close(g, w, rtol=0, atol=0)


@each_layer
def test_autocast_changes_no_type(make):
    layer, (x, cotangent) = make().cuda(), pair(2, 32, 16, 16, dtype=torch.bfloat16)
    with use_backend("triton"):
        want = trained(copy.deepcopy(layer), x, cotangent)
        with torch.autocast("cuda", torch.float16):
            got = trained(layer, x, cotangent)
    for g, w in zip(got, want, strict=True):
        assert g.dtype == w.dtype
        assert_close(g, w, rtol=0, atol=0)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@each_layer
def test_on_a_device_that_is_not_the_current_one(make):
    x, cotangent = pair(2, 32, 16, 16, device="cuda:0")
    layer = make().to("cuda:0")
    with use_backend("triton"):
        want = trained(copy.deepcopy(layer), x, cotangent)
        got = trained(layer.to("cuda:1"), x.to("cuda:1"), cotangent.to("cuda:1"))
    assert torch.cuda.current_device() == 0
    for g, w in zip(got, want, strict=True):
        assert g.device == torch.device("cuda:1")
        assert_close(g.to("cuda:0"), w, rtol=0, atol=0)


def test_inside_distributed_data_parallel(tmp_path):
    torch.distributed.init_process_group("nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        layer, (x, cotangent) = LAYERS["group"]().cuda(), pair(2, 32, 16, 16)
        parallel = torch.nn.parallel.DistributedDataParallel(copy.deepcopy(layer), device_ids=[0])
        with use_backend("triton"):
            want, got = trained(layer, x, cotangent), trained(parallel, x, cotangent)
    finally:
        torch.distributed.destroy_process_group()
    for g, w in zip(got, want, strict=True):
        assert_close(g, w, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_more_values_than_32_bits_can_count(layout):
    """The last sample of 2³¹ + values is normalized as it is alone."""
    if torch.cuda.get_device_properties(0).total_memory < 40 * 2**30:
        pytest.skip("needs a GPU of 40 GiB")
    x = torch.empty(33, 64, 1024, 1024, dtype=torch.bfloat16, device="cuda", memory_format=layout).normal_()
    layer = nw.GroupNorm(8, 64).cuda().bfloat16()
    with use_backend("triton"), torch.no_grad():
        alone = layer(x[-1:].contiguous(memory_format=layout))
        assert torch.equal(layer(x)[-1:], alone)
        assert_close(
            kernels.moments(x, None).mean[-1:], kernels.moments(x[-1:].contiguous(memory_format=layout), None).mean
        )


def test_the_same_bits_in_every_run():
    x, cotangent = pair(8, 32, 90, 91)
    for make in LAYERS.values():
        layer = make().cuda()
        with use_backend("triton"):
            first, second = trained(copy.deepcopy(layer), x, cotangent), trained(copy.deepcopy(layer), x, cotangent)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
