"""Kernels that are being compiled: plain PyTorch serves meanwhile, one line says so, and a call waits for them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from forked import Forked

import normwise as nw
from normwise.backends import build, cpu

needs_compiler = pytest.mark.skipif(
    cpu.unavailable() is not None or bool(build.prebuilt("fp32")), reason="needs kernels that were compiled here"
)
needs_sh = pytest.mark.skipif(not Path("/bin/sh").exists(), reason="needs a shell")


@pytest.fixture
def gate(tmp_path, monkeypatch):
    """A compiler that copies the library once the file that this returns is there; a fresh cache."""
    real = build.find_compiler()
    ready = next(f / f"kernels-fp32-{build.fingerprint(real)}.so" for f in build.cache_folders())
    library, script, gate = tmp_path / "library", tmp_path / "compiler", tmp_path / "gate"
    library.write_bytes(ready.read_bytes()[: -build._DIGEST_SIZE])
    script.write_text(
        f"""#!/bin/sh
case " $* " in *" -o "*) ;; *) exit 0;; esac
while [ ! -e "{gate}" ]; do sleep 0.05; done
while [ $# -gt 0 ]; do [ "$1" = -o ] && cp "{library}" "$2"; shift; done
"""
    )
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    monkeypatch.setenv("NORMWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GATE", str(gate))
    return gate


def run(program):
    """In a new Python, whose end is part of the matter."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True, timeout=300
    )


BEFORE_AND_AFTER = """
import os, torch, normwise as nw
from pathlib import Path
from normwise.operations.ways.choosing import _kept as kept
x = torch.randn(2, 32, 64, 64)
norm = nw.GroupNorm(8, 32)
way = lambda: nw.explain_way(norm, x)[0].way
first, first_way = norm(x), way()
norm(x)
Path(os.environ["GATE"]).touch()
print(nw.build_kernels(torch.float32))
second = norm(x)
print(first_way, "|", way(), "|", torch.allclose(first, second, atol=1e-5))
print(*(way.name for ways in kept.values() for _, way in ways), sep="\\n")
"""


@needs_compiler
@needs_sh
def test_plain_pytorch_serves_until_the_kernels_are_there(gate):
    done = Forked(BEFORE_AND_AFTER).ended()
    answer, ways, *kept = done.stdout.splitlines()
    assert answer == "{torch.float32: None}"
    assert ways == "torch's operator | one kernel each way | True"
    assert kept == ["one kernel each way"], "a way that was chosen before the kernels came was kept"
    (line,) = done.stderr.splitlines()
    assert "Compiling the CPU kernels for fp32 in the background" in line
    assert "build_kernels() waits" in line


@needs_compiler
@needs_sh
def test_a_program_that_ends_sooner_leaves_them_to_the_next(gate):
    done = run("import torch, normwise as nw\nnw.BatchNorm2d(4)(torch.randn(2, 4, 8, 8))")
    assert len(done.stderr.splitlines()) == 1
    gate.touch()
    for _ in range(600):
        found = list((gate.parent / "cache").glob("*.so"))
        if found:
            break
        time.sleep(0.1)
    assert build.intact(found[0])
    second = run("import torch, normwise as nw\nnw.BatchNorm2d(4)(torch.randn(2, 4, 8, 8))")
    assert second.stderr == ""


@needs_compiler
@needs_sh
def test_several_processes_compile_once(gate):
    log = gate.parent / "log"
    script = Path(os.environ["CXX"])
    script.write_text(script.read_text().replace("while [ ! -e", f'echo x >> "{log}"\nwhile [ ! -e', 1))
    program = "import torch, normwise as nw; print(nw.build_kernels(torch.float32))"
    started = [Forked(program) for _ in range(3)]
    while not log.exists():
        time.sleep(0.1)
    time.sleep(3)
    gate.touch()
    outputs = [process.ended().stdout for process in started]
    assert outputs == ["{torch.float32: None}\n"] * 3
    assert log.read_text() == "x\n"
    assert [p.suffix for p in (gate.parent / "cache").iterdir()] == [".so"], "something temporary was left"


MEASURED = """
import torch, normwise as nw
norm, x = nw.LayerNorm(8), torch.randn(4, 8)
norm(x)
nw.build_kernels(torch.float32)
print(nw.explain_way(norm, x)[0])
"""


@needs_compiler
@needs_sh
@pytest.mark.slow
def test_what_is_compiled_is_measured_before_it_serves(gate, monkeypatch):
    monkeypatch.setenv("NORMWISE_TUNING", "1")
    gate.touch()
    done = Forked(MEASURED).ended()
    assert "the tuning measured on this machine" in done.stdout
    assert len(done.stderr.splitlines()) == 1


def test_the_kernels_of_other_types_are_no_question():
    with pytest.raises(ValueError, match=r"There are kernels for torch\.float32, .*; received torch\.int64"):
        nw.build_kernels(torch.int64)


def test_build_kernels_answers_for_each_type():
    found = nw.build_kernels(torch.float64, torch.float32)
    assert list(found) == [torch.float64, torch.float32]
    assert found[torch.float32] == cpu.unavailable()
