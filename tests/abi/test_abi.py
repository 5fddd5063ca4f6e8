"""The kernels' C interface alone: the program in this folder on each library, and on ones that are wrong."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest
from marks import needs_kernels

from normwise.backends import build

pytestmark = needs_kernels

_SPEC = importlib.util.spec_from_file_location("abi", Path(__file__).parents[2] / "tools" / "abi.py")
abi = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(abi)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return abi.program(build.find_compiler(), tmp_path_factory.mktemp("abi") / "abi")


def library(element):
    """The one that serves every day."""
    compiler = build.find_compiler()
    return next(build.cache_folders()) / f"kernels-{element}-{build.fingerprint(compiler)}.so"


@pytest.mark.parametrize("element", ["fp32", *(pytest.param(e, marks=pytest.mark.slow) for e in build.ELEMENTS[1:])])
def test_every_kernel_is_right_and_refuses_what_does_not_fit(program, element):
    from normwise.backends.cpu_library import ELEMENTS, kernels

    assert kernels({name: dtype for dtype, name in ELEMENTS.items()}[element])[1] is None
    assert abi.run(program, library(element), element, cases=2)


#: A line of the sources, what stands there instead, and the word that the program must say.
WRONG = {
    "a size that nobody checks": (
        "arguments.hpp",
        "return require(count == wanted && (data != nullptr || count == 0));",
        "return require(data != nullptr || count == 0 || wanted == -1);",
        "is answered by 0",
    ),
    "a pointer that nobody checks": (
        "arguments.hpp",
        "return require(count == wanted && (data != nullptr || count == 0));",
        "return data ? require(count == wanted) : *this;",
        "",
    ),
    "an eps that is left out": (
        "kernels.cpp",
        "{groups, known_mean != nullptr, eps,",
        "{groups, known_mean != nullptr, 0,",
        "standardize",
    ),
    "a slope of the wrong sign": (
        "responses.hpp",
        "to[kLeast] = by_other - per_larger;",
        "to[kLeast] = by_other;",
        "respond_reduce",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_library_is_noticed(fault, program, tmp_path, monkeypatch, capfd):
    name, right, wrong, said = WRONG[fault]
    sources = tmp_path / "sources"
    shutil.copytree(build.SOURCES, sources)
    text = (sources / name).read_text()
    assert text.count(right) == 1, "the line is another one now"
    (sources / name).write_text(text.replace(right, wrong))
    monkeypatch.setattr(build, "MAIN", sources / "kernels.cpp")
    build._build(build.find_compiler(), "fp32", "0123456", tmp_path / "wrong.so")
    assert not abi.run(program, tmp_path / "wrong.so", "fp32")
    assert said in capfd.readouterr().err


def test_results_of_two_machines_are_compared_value_by_value(tmp_path, program, capsys):
    if sys.byteorder != "little":
        pytest.skip("the results are written as they are in memory")
    one, other = tmp_path / "one", tmp_path / "other"
    assert abi.run(program, library("fp32"), "fp32", cases=1, dump=one)
    shutil.copy(one, other)
    assert abi.compare(one, other) is None
    content = bytearray(other.read_bytes())
    length = int.from_bytes(content[:8], "little")
    content[16 + length + 7] ^= 0x80  # the sign of the first value
    other.write_bytes(content)
    assert "differ by more than" in abi.compare(one, other)
