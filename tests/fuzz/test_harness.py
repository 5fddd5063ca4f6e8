"""The harness finds what it is for, each kind of fault planted once in the library or in memory, and nothing else."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given, settings
from marks import needs_kernels

import normwise.functional as nf
from normwise.backends import forced
from normwise.layers import NORMALIZERS

from . import isolated
from .call import Call, Fault, from_line, to_line
from .finds import find_in, shrunk
from .judge import Finding, judge
from .sanitizers import FLAGS, ROOT, environment
from .search import search
from .strategies import histories
from .subjects import SUBJECTS

RMS = Call("rms_norm", (3, 4))


@settings(max_examples=50)
@given(histories())
def test_a_line_says_everything(history):
    assert from_line(to_line(history)) == history


def test_every_normalizer_and_every_function_is_called():
    called = {name.rpartition("-")[0] for name in SUBJECTS if "-" in name and " " not in name}
    assert set(NORMALIZERS) - {"none", "sync"} <= called
    functions = {name for name in dir(nf) if "norm" in name or name.startswith("dynamic")}
    assert functions - {"normalize"} <= set(SUBJECTS), functions - set(SUBJECTS)


@pytest.mark.parametrize(
    "call",
    [
        RMS,
        Call("batch-2d", (2, 3, 5, 7), activation="silu", residual="channels_last", layout="turned"),
        Call("layer_norm", (5, 3, 17), dtype="bf16", distance=30.0, cotangent="expanded samples"),
        Call("own larger", (2, 3, 5), mask=0.3),
        Call("positional_norm", (2, 2, 2, 2)),
        Call("token-layer-nd", (2, 2, 2, 1)),
        Call("positional-nd", (2, 3, 4, 5)),
        Call("adaptive-layer-nd", (2, 1, 2), kept="fp16", fault=Fault("linear.bias", "every second")),
        Call("group-nd", (2, 4, 9), meta=True),
        Call("batch-2d", (2, 3, 5, 7), fault=Fault("weight", "complex"), graph=False, training=False),
        Call("batch_norm", (4, 3, 5), fault=Fault("x", "in place", True), warm=True),
    ],
    ids=lambda call: to_line([call]),
)
def test_what_is_right_is_no_find(call):
    assert judge(call) is None


def planted(right, kind):
    """`rms_norm` with one fault, but where it is the specification."""

    def function(x, normalized_shape, weight=None, **options):
        if forced() is None:
            if kind == "input changed":
                weight.data += 1
            if kind in RAISED:
                raise RAISED[kind]
        y = right(x, normalized_shape, weight, **options)
        return y if forced() is not None or kind not in CHANGED else CHANGED[kind](y)

    return function


RAISED = {
    "exception": KeyError("a key that nobody has asked for"),
    "message": ValueError("no"),
    "refused": ValueError("rms_norm does not take tensors on Sundays."),
}
CHANGED = {"wrong": lambda y: y * 1.001, "NaN": lambda y: y + torch.nan, "type of the output": torch.Tensor.double}


@pytest.mark.parametrize("kind", [*RAISED, *CHANGED, "input changed"])
def test_a_fault_is_found_and_named(kind, monkeypatch):
    monkeypatch.setattr(nf, "rms_norm", planted(nf.rms_norm, kind))
    finding = judge(RMS)
    assert finding is not None
    assert finding.kind == kind


def test_a_specification_that_is_not_the_paper_s_is_found(monkeypatch):
    right = nf.rms_norm
    monkeypatch.setattr(nf, "rms_norm", lambda *a, **o: right(*a, **o) * 1.001)
    finding = judge(RMS)
    assert finding is not None
    assert finding.kind == "specification"


def test_a_result_where_only_an_error_is_right_is_found(monkeypatch):
    monkeypatch.setattr(nf, "rms_norm", lambda x, *a, **o: x * 1)
    finding = judge(RMS._replace(fault=Fault("weight", "fewer")))
    assert finding is not None
    assert finding.kind == "accepted"


def test_a_find_is_shrunk_to_the_calls_that_make_it():
    """Here: one of fp16 with two dimensions, after any of bf16."""

    def finds_fault(history):
        dtypes = [call.dtype if len(call.shape) > 1 else "" for call in history]
        if "bf16" in dtypes and "fp16" in dtypes[dtypes.index("bf16") :]:
            return dtypes.index("fp16", dtypes.index("bf16")), Finding("wrong", "planted", "somewhere")
        return None

    large = Call("rms_norm", (17, 9), layout="turned", graph=False, distance=30.0)
    history = [large, large._replace(dtype="bf16"), large, large._replace(dtype="fp16", threads=2), large]
    found = find_in(history, finds_fault)
    assert found is not None
    assert shrunk(found, finds_fault).history == tuple(Call("rms_norm", (2, 2), dtype) for dtype in ("bf16", "fp16"))
    assert "fp16" in str(found)


def test_the_search_ends_with_its_time_and_says_a_kind_once():
    start = time.monotonic()
    assert list(search(start - 1, 0)) == []
    every = search(start + 2, 0, judge=lambda history: (0, Finding("hangs", "planted", "everywhere")))
    assert len([find for *_, find in every if find is not None and find.finding.place]) == 1
    assert time.monotonic() - start < 60


def die(call):
    if call.seed:
        os.kill(os.getpid(), signal.SIGSEGV)


def test_a_child_that_dies_or_hangs_is_a_find_of_the_call_that_it_died_of(monkeypatch):
    fatal = RMS._replace(seed=1)
    assert isolated.judged_apart([RMS, RMS], die) is None
    assert isolated.judged_apart([RMS, fatal, RMS], die) == (1, Finding("crash", "SIGSEGV"))
    monkeypatch.setattr(isolated, "PATIENCE", 0.2)
    found = isolated.judged_apart([RMS], lambda call: time.sleep(60))
    assert found is not None
    assert found[1].kind == "hangs"


OUTSIDE = """
extern "C" float nw_look(const float* p, long i) { return p[i]; }
extern "C" void nw_scribble(float* p, long i) { p[i] = 1; }
"""
PROGRAM = """
import ctypes, sys, torch
from tests.fuzz.call import Call
from tests.fuzz.isolated import judged_apart
call = Call("rms_norm", (3, 4))
library = ctypes.CDLL(sys.argv[1])
def at(name, i):
    t = torch.ones(6)[:4]
    function = getattr(library, name)
    function.argtypes = [ctypes.c_void_p, ctypes.c_long]
    function(t.data_ptr(), i)
for name in ("nw_look", "nw_scribble"):
    for i in (5, 6, -1):
        found = judged_apart([call], lambda call: at(name, i))
        print(found and tuple(found[1]))
torch.use_deterministic_algorithms(True)
from normwise.backends.huge_pages import empty_like
print(empty_like(torch.ones(3)).isnan().all().item(), torch.ones(1).new_empty(2).isnan().all().item())
"""


@pytest.mark.slow
@needs_kernels
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="preloads the sanitizer's library")
def test_an_access_behind_a_tensor_of_torch_s_is_a_find(tmp_path):
    """And memory that nobody has written holds NaN."""
    try:
        watched = environment()
    except RuntimeError as reason:
        pytest.skip(str(reason))
    source, library = tmp_path / "outside.cpp", tmp_path / "outside.so"
    source.write_text(OUTSIDE)
    subprocess.run(["g++", *FLAGS.split(), "-shared", "-fPIC", source, "-o", library], check=True)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, library], capture_output=True, text=True, cwd=ROOT, env=watched, check=False
    )
    assert done.stdout.splitlines() == [
        "None",  # within the memory
        "('crash', 'heap-buffer-overflow READ', 'nw_look')",
        "('crash', 'heap-buffer-overflow READ', 'nw_look')",
        "None",
        "('crash', 'heap-buffer-overflow WRITE', 'nw_scribble')",
        "('crash', 'heap-buffer-overflow WRITE', 'nw_scribble')",
        "True True",
    ], done.stderr[-3000:]
