"""The kernels under the compiler's sanitizers: no access outside of a tensor, no undefined behaviour."""

import subprocess
from pathlib import Path

import pytest

from normwise.backends import build, cpu

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(cpu.unavailable() is not None, reason=str(cpu.unavailable())),
]


@pytest.mark.parametrize("machine", ["-march=native", "-mtune=generic"], ids=["native", "portable"])
def test_addresses_and_undefined_behaviour(tmp_path, machine):
    program = tmp_path / "sanitized"
    flags = ["-std=c++17", "-O1", "-g", "-fopenmp", machine, "-fsanitize=address,undefined", "-fno-sanitize-recover"]
    source = Path(__file__).with_name("sanitized.cpp")
    command = [*build.find_compiler(), *flags, f"-I{build.SOURCES}", str(source), "-o", str(program)]
    subprocess.run(command, check=True, capture_output=True)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "clean\n"
