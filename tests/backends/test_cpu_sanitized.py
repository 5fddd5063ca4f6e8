"""The kernels under the compiler's sanitizers: no access outside of a tensor, no undefined behaviour, no data race."""

import subprocess
from pathlib import Path

import pytest
from marks import needs_kernels

from normwise.backends import build, cpu
from normwise.backends.cpu_library import ELEMENTS

pytestmark = [
    pytest.mark.slow,
    needs_kernels,
]

HERE = Path(__file__).parent
MACHINES = pytest.mark.parametrize("machine", ["-march=native", "-mtune=generic"], ids=["native", "portable"])
EVERY_ELEMENT = pytest.mark.parametrize("element", ELEMENTS.values())


def compiled(sources, *flags):
    """Compile with sanitizers and line numbers; the compiler's complaint is the test's."""
    done = subprocess.run(
        [*build.find_compiler(), "-std=c++17", "-g", *map(str, flags), *map(str, sources)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def kernels(element):
    return f"-DNW_ELEMENT={element}", f"-I{build.SOURCES}"


def with_visible_threads(folder, source, *flags):
    """A program whose OpenMP loops run on threads that the thread sanitizer sees; libgomp's own it does not."""
    pieces = []
    for piece in (HERE / "visible_threads.cpp", source):
        pieces.append(folder / f"{piece.stem}.o")
        compiled([piece], "-O1", "-fsanitize=thread", "-fopenmp", *flags, "-c", "-o", pieces[-1])
    compiled(pieces, "-fsanitize=thread", "-pthread", "-o", folder / "program")
    return folder / "program"


def outcome(program, *arguments):
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


needs_gcc = pytest.mark.skipif(
    cpu.unavailable() is None and "clang" in build._version(build.find_compiler()),
    reason="visible_threads.cpp speaks for gcc's OpenMP",
)


@MACHINES
@EVERY_ELEMENT
def test_addresses_and_undefined_behaviour(tmp_path, machine, element):
    flags = ("-fopenmp", machine, "-fsanitize=address,undefined", "-fno-sanitize-recover")
    compiled([HERE / "sanitized.cpp"], *flags, *kernels(element), "-o", tmp_path / "sanitized")
    done = outcome(tmp_path / "sanitized", "3")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "clean\n"


@needs_gcc
@MACHINES
@EVERY_ELEMENT
def test_threads(tmp_path, machine, element):
    schedule = "-DNW_SCHEDULE=dynamic,1"  # neighbouring tasks on different threads, where a race is likeliest
    done = outcome(with_visible_threads(tmp_path, HERE / "sanitized.cpp", machine, schedule, *kernels(element)), "3")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "clean\n"


@needs_gcc
@pytest.mark.parametrize("racy", [True, False])
def test_a_race_is_reported_and_the_end_of_a_loop_is_none(tmp_path, racy):
    """The two tests above could not fail if the sanitizer did not see the threads, and fail always if not their end."""
    done = outcome(with_visible_threads(tmp_path, HERE / "racy.cpp", f"-DRACY={racy:d}"))
    assert ("WARNING: ThreadSanitizer: data race" in done.stderr) is racy
    assert (done.returncode != 0) is racy
    assert racy or done.stdout == "28\n"


OUTSIDE = """
#include "runs.hpp"
int main() {
  const float* few = new float[7]();
  return int(nw::stats_of(few, nw::Runs{8}).count) - 8;
}
"""


def test_an_access_outside_of_a_tensor_is_reported(tmp_path):
    source = tmp_path / "outside.cpp"
    source.write_text(OUTSIDE)
    program = tmp_path / "outside"
    compiled([source], "-fsanitize=address,undefined", "-mtune=generic", f"-I{build.SOURCES}", "-o", program)
    done = outcome(program)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
