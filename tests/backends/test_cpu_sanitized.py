"""The kernels under the compiler's sanitizers: no access outside of a tensor, no undefined behaviour."""

import subprocess
from pathlib import Path

import pytest

from normwise.backends import build, cpu
from normwise.backends.cpu_library import ELEMENTS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(cpu.unavailable() is not None, reason=str(cpu.unavailable())),
]


@pytest.mark.parametrize("machine", ["-march=native", "-mtune=generic"], ids=["native", "portable"])
@pytest.mark.parametrize("element", ELEMENTS.values())
def test_addresses_and_undefined_behaviour(tmp_path, machine, element):
    program = tmp_path / "sanitized"
    flags = ["-std=c++17", "-O1", "-g", "-fopenmp", machine, "-fsanitize=address,undefined", "-fno-sanitize-recover"]
    source = Path(__file__).with_name("sanitized.cpp")
    defined = [f"-DNW_ELEMENT={element}", f"-I{build.SOURCES}"]
    command = [*build.find_compiler(), *flags, *defined, str(source), "-o", str(program)]
    subprocess.run(command, check=True, capture_output=True)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "clean\n"
