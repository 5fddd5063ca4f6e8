"""The grids: every layer and shape that the field asks for, and what an expansion leaves out."""

import math
from dataclasses import replace

import pytest
import torch

import normwise as nw
from normwise.bench import bytes_model, grid_cpu, grid_cuda
from normwise.bench.cases import DTYPES, Axes, Case, Site, expand
from normwise.bench.entry import Request
from normwise.bench.regimes import AS_IT_COMES
from normwise.bench.subjects import SUBJECTS, baselines, ours
from normwise.comparison import InputError

GRID = list(expand(grid_cpu.SITES, Axes()))
GPU_AXES = Axes(grid_cuda.DTYPES, directions=grid_cuda.DIRECTIONS, threads=(0,), memory=("",))
GPU_GRID = list(expand([Site(*row) for row in grid_cuda.ROWS], GPU_AXES))


def test_the_grid_measures_every_subject_and_names_no_other():
    assert {case.layer for case in GRID} == set(SUBJECTS)


def test_every_class_of_shapes_is_there():
    nets = {case.net for case in GRID}
    assert nets >= {"ResNet-50", "U-Net", "style transfer", "nnU-Net", "ConvNeXt", "transformer", "tiny", "odd"}
    nets = {case.net for case in GPU_GRID}
    assert nets >= {"ResNet-50", "SD U-Net", "SD VAE", "FLUX VAE", "nnU-Net", "ConvNeXt", "LLM"}
    widths = {case.shape[1] for case in GPU_GRID if case.net == "LLM"}
    assert (min(widths), max(widths)) == (1024, 32768)


@pytest.mark.parametrize("grid", [GRID, GPU_GRID], ids=["cpu", "cuda"])
def test_no_cell_is_measured_twice(grid):
    assert len({tuple(case.columns().values()) for case in grid}) == len(grid)


@pytest.mark.parametrize(
    "case", {(c.layer, c.shape): c for c in GRID + GPU_GRID}.values(), ids=lambda c: f"{c.layer}-{c.shape}"
)
def test_every_layer_can_be_built_for_its_shape(case):
    """The shapes are checked with no memory behind them: what would not fit is found before hours of measuring."""
    with torch.device("meta"):
        layers = [ours(case), *baselines(case).values()]
    channels = case.shape[-1] if case.layer.startswith("token") else case.shape[1]
    for layer in layers:
        weight = dict(layer.named_parameters())["weight" if layer is layers[0] else "inner.weight"]
        assert weight.shape == (channels,)


def test_rows_have_one_layout_and_maps_two():
    sites = [Site("a", (4, 6), ("token-layer",)), Site("b", (2, 4, 5), ("batch",)), Site("c", (2, 4, 3, 3), ("batch",))]
    cases = list(expand(sites, Axes(("fp32",), directions=("both",))))
    assert [(c.net, c.layout) for c in cases] == [
        ("a", "contiguous"),
        ("b", "contiguous"),
        ("c", "contiguous"),
        ("c", "channels_last"),
    ]


@pytest.mark.parametrize("layer", SUBJECTS)
def test_the_floor_counts_every_tensor_that_must_be_read_or_written(layer):
    shape = (4, 96) if layer.startswith("token") else (4, 96, 8, 8)
    size = math.prod(shape) * 4
    counts = {
        d: bytes_model.floor_bytes(layer, shape, 4, last=False, direction=d) / size for d in bytes_model.DIRECTIONS
    }
    assert counts["both"] == counts["forward"] + counts["backward"]
    assert counts["forward"] >= 2, "x is read and y is written"
    assert counts["backward"] >= 3, "grad_y and x are read and grad_x is written"
    with_residual = bytes_model.floor_bytes(layer, shape, 4, last=False, direction="forward", residual=True) / size
    assert with_residual == counts["forward"] + 1


CLASSES = {
    ("batch-eval", (8, 64, 112, 112), False): "known",
    ("batch", (8, 64, 112, 112), False): "batch in tiles",
    ("batch", (64, 64, 112, 112), False): "batch",
    ("batch", (8, 64, 112, 112), True): "batch",
    ("instance", (8, 64, 112, 112), False): "per sample",
    ("instance", (8, 64, 112, 112), True): "per sample, large",
    ("instance", (1, 32, 128, 128, 128), False): "per sample, large",
    ("group", (8, 256, 56, 56), False): "per sample",
    ("layer", (8, 256, 56, 56), False): "per sample, large",
    ("layer", (8, 256, 7, 7), True): "per sample",
    ("global-response", (8, 384, 56, 56), False): "per sample, large",
    ("switchable", (8, 256, 14, 14), False): "batch",
    ("pixel-layer", (8, 96, 56, 56), False): "per sample",
}


@pytest.mark.parametrize(("key", "kind"), CLASSES.items(), ids=map(str, CLASSES))
def test_classes_of_layers_by_hand(key, kind):
    layer, shape, last = key
    assert bytes_model.kind(layer, shape, 4, last=last) == kind


BAD = {
    "layer": ({"layers": ("bach",)}, r"layers='bach' is unknown; write one of batch, "),
    "dtype": ({"dtypes": ("float32",)}, r"dtypes='float32' is unknown; write one of fp32, "),
    "layout": ({"layouts": ("nchw",)}, r"layouts='nchw' is unknown; write one of contiguous, channels_last"),
    "backend": ({"backend": "cuda"}, r"backend='cuda' is unknown; write one of automatic, "),
    "device": ({"device": "gpu"}, r"device='gpu' is unknown; write one of cpu, cuda"),
    "number of a device": ({"device": "cpu:x"}, r"device='cpu:x' is unknown; write cpu, cuda, or cuda:0"),
    "threads": ({"threads": (0,)}, r"threads=\[0\]: each must be at least 1"),
    "nothing left": ({"layers": ("token-rms",), "quick": True, "layouts": ("channels_last",)}, "No case is left"),
    "flat shape": ({"shapes": ((8,),)}, r"shapes=8: write NxCxHxW"),
    "empty shape": ({"shapes": ((8, 0, 3),)}, r"shapes=8x0x3: write NxCxHxW"),
}


@pytest.mark.parametrize(("options", "said"), BAD.values(), ids=BAD)
def test_what_cannot_be_measured_is_refused_before_anything_runs(options, said):
    with pytest.raises(InputError, match=said):
        Request(**options).cases()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU is asked for")
def test_a_missing_gpu_is_named():
    with pytest.raises(InputError, match=r"device='cuda' is not available: torch finds no CUDA device.* Write 'cpu'"):
        Request(device="cuda")


def test_a_gpu_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="device='cuda:2' is not available: torch finds cuda:0, cuda:1"):
        Request(device="cuda:2")


def test_an_unavailable_backend_is_refused_with_its_reason(monkeypatch):
    monkeypatch.setattr("normwise.bench.entry.available_backends", lambda: {"cpu": "no C++ compiler was found"})
    with pytest.raises(InputError, match=r"backend='cpu' is not available: no C\+\+ compiler was found"):
        Request(backend="cpu")


def test_a_gpu_has_its_own_grid_and_peers(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr("normwise.bench.entry.available_backends", lambda: {"triton": None})
    monkeypatch.setattr("normwise.bench.entry.cuda_timer", lambda device: None)
    request = Request(device="cuda", compile=True)
    assert request.cases() == GPU_GRID
    options = request.options()
    assert options.compiled == ("compiled", "autotuned")
    assert options.peers
    assert options.backend == "triton"
    assert Request(device="cuda", backend="automatic").options().backend == Request().options().backend == "automatic"
    assert {case.dtype for case in Request(device="cuda", quick=True).cases()} == {"bf16"}


def test_shapes_of_ones_own_get_the_layers_that_take_them():
    maps = {case.layer for case in Request(shapes=((2, 8, 5, 5),)).cases()}
    rows = {case.layer for case in Request(shapes=((2, 8),)).cases()}
    assert maps == set(SUBJECTS) - {"token-layer", "token-rms"}
    assert rows == {"token-layer", "token-rms"}


def test_a_quick_run_is_small_and_of_one_direction():
    cases = Request(quick=True, threads=(1,)).cases()
    as_it_comes = [case for case in cases if case.memory == AS_IT_COMES]
    assert len(as_it_comes) < 40
    assert cases == [replace(case, memory=memory) for case in as_it_comes for memory in Request().memory()]
    assert {case.direction for case in cases} == {"both"}
    assert {case.dtype for case in cases} == {"fp32"}


def test_the_columns_of_a_case_are_text_and_numbers():
    case = Case("batch", "U-Net", (2, 3, 4, 5), "fp32", "contiguous", "both", 1, "relu", True)
    assert case.columns()["shape"] == "2x3x4x5"
    assert (case.columns()["activation"], case.columns()["residual"]) == ("relu", 1)
    assert DTYPES[case.dtype] == torch.float32
    assert isinstance(ours(case), nw.BatchNorm2d)
