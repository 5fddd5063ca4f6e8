"""The libraries that a platform wheel brings along: which one serves, and what happens if none can."""

import os
import platform
import shutil
import subprocess
import sys

import pytest

from normwise.backends import build, cpu, cpu_library

needs_compiler = pytest.mark.skipif(cpu.unavailable() is not None, reason=str(cpu.unavailable()))

V4 = "flags : sse2 avx2 fma f16c bmi1 bmi2 avx512f avx512bw avx512cd avx512dq avx512vl"
V3 = "flags : sse2 avx2 fma f16c bmi1 bmi2"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A package folder for prebuilt libraries, empty."""
    monkeypatch.setattr(build, "PREBUILT", tmp_path / "prebuilt")
    monkeypatch.setattr(build, "MARCH", "native")
    (tmp_path / "prebuilt").mkdir()
    return tmp_path / "prebuilt"


def sealed(path, content=b"a library"):
    """A file that ends with its checksum, as `build` writes them."""
    import hashlib

    path.write_bytes(content + hashlib.sha256(content).digest())
    return path


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        (V4, ["x86-64-v4", "x86-64-v3", "x86-64"]),
        (V3, ["x86-64-v3", "x86-64"]),
        (V3.replace("f16c", ""), ["x86-64"]),
        (V4.replace("avx512vl", ""), ["x86-64-v3", "x86-64"]),
        ("flags : sse2", ["x86-64"]),
        ("Features : fp asimd", ["armv8-a"]),
        ("", []),
    ],
)
def test_the_best_that_the_processor_can_run_comes_first(processor, expected, folder, monkeypatch):
    monkeypatch.setattr(build, "processor", lambda: processor)
    for level in build.LEVELS:
        sealed(folder / f"kernels-fp32-{level}.so")
    assert [path.name for path in build.prebuilt("fp32")] == [f"kernels-fp32-{level}.so" for level in expected]


def test_a_level_that_was_named_is_the_only_one(folder, monkeypatch):
    monkeypatch.setattr(build, "processor", lambda: V4)
    monkeypatch.setattr(build, "MARCH", "x86-64-v3")
    for level in build.LEVELS:
        sealed(folder / f"kernels-fp32-{level}.so")
    assert [path.name for path in build.prebuilt("fp32")] == ["kernels-fp32-x86-64-v3.so"]


def test_a_level_that_the_processor_cannot_run_is_refused_before_anything_is_loaded(folder, monkeypatch):
    """Its first instruction would end the process."""
    monkeypatch.setattr(build, "processor", lambda: V3)
    monkeypatch.setattr(build, "MARCH", "x86-64-v4")
    monkeypatch.setattr(build.ctypes, "CDLL", lambda name: pytest.fail("a library was loaded"))
    with pytest.raises(
        build.BuildError, match=r"NORMWISE_MARCH=x86-64-v4 needs a processor with avx512bw, .*; unset it"
    ):
        build.load("fp32", lambda library: None)


def test_a_source_tree_brings_none_along():
    assert list(build.PREBUILT.glob("*")) == []


def test_a_truncated_one_is_passed_over(folder, monkeypatch):
    monkeypatch.setattr(build, "processor", lambda: V4)
    for level in build.LEVELS:
        sealed(folder / f"kernels-fp32-{level}.so")
    damaged = folder / "kernels-fp32-x86-64-v4.so"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert [path.name for path in build.prebuilt("fp32")] == ["kernels-fp32-x86-64-v3.so", "kernels-fp32-x86-64.so"]


def test_no_compiler_is_looked_for_where_one_works(folder, monkeypatch):
    monkeypatch.setattr(build, "processor", lambda: V4)
    path = sealed(folder / "kernels-fp32-x86-64.so")
    monkeypatch.setattr(build, "find_compiler", lambda: pytest.fail("a compiler was looked for"))
    monkeypatch.setattr(build.ctypes, "CDLL", lambda name: name)
    checked = []
    assert build.load("fp32", checked.append) == str(path)
    assert checked == [str(path)]


@pytest.mark.parametrize("failure", [OSError("not an ELF file"), ArithmeticError("the self-test failed")])
def test_one_that_does_not_work_here_is_replaced_by_the_next_and_then_by_the_compiler(failure, folder, monkeypatch):
    monkeypatch.setattr(build, "processor", lambda: V3)
    for level in ("x86-64-v3", "x86-64"):
        sealed(folder / f"kernels-fp32-{level}.so")
    monkeypatch.setattr(build.ctypes, "CDLL", lambda name: name)
    seen = []

    def check(library):
        seen.append(library)
        if "x86-64-v3" in library:
            raise failure

    assert build.load("fp32", check).endswith("kernels-fp32-x86-64.so")
    assert len(seen) == 2

    def refuse(library):
        raise failure

    monkeypatch.setattr(build, "find_compiler", lambda: (_ for _ in ()).throw(build.BuildError("no compiler")))
    with pytest.raises(build.BuildError, match="no compiler"):
        build.load("fp32", refuse)


def test_other_element_types_are_no_substitute(folder, monkeypatch):
    monkeypatch.setattr(build, "processor", lambda: V4)
    sealed(folder / "kernels-fp32-x86-64.so")
    assert build.prebuilt("bf16") == []


def test_there_is_a_library_for_every_element_type():
    assert set(build.ELEMENTS) == set(cpu_library.ELEMENTS.values())


PROGRAM = """
import sys
from pathlib import Path
from normwise.backends import build
build.PREBUILT = Path(sys.argv[1])
import torch, normwise as nw
assert nw.available_backends()["cpu"] is None
for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(3, 24, 17, 19).to(dtype).to(memory_format=layout)
        exact = torch.nn.GroupNorm(6, 24).double()(x.double())
        with nw.use_backend("cpu"):
            error = (nw.GroupNorm(6, 24).to(dtype)(x).double() - exact).abs().max()
        assert error < 32 * torch.finfo(dtype).eps, (dtype, layout, error)
if Path("/proc/self/maps").exists():
    mapped = Path("/proc/self/maps").read_text().splitlines()
    print(*sorted({line.split()[-1] for line in mapped if "/kernels-" in line}))
"""


@needs_compiler
@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="prebuilt for x86-64 only")
def test_every_level_is_right_and_needs_no_compiler(tmp_path):
    built = build.prebuild(tmp_path / "all")
    assert len(built) == len(build.MACHINES["x86_64"]) * len(build.ELEMENTS)
    (tmp_path / "bin").mkdir()
    settings = {**os.environ, "PATH": str(tmp_path / "bin"), "CXX": "", "NORMWISE_CACHE": str(tmp_path / "cache")}
    listed = set(build.processor().split())
    for level in (level for level, needed in build.LEVELS.items() if needed <= listed):
        (tmp_path / level).mkdir()
        mine = [shutil.copy(path, tmp_path / level) for path in built if path.name.endswith(f"-{level}.so")]
        command = [sys.executable, "-W", "error", "-c", PROGRAM, str(tmp_path / level)]
        done = subprocess.run(command, capture_output=True, text=True, env=settings, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() in ([], sorted(map(str, mine)))
    assert not (tmp_path / "cache").exists(), "something was compiled"
