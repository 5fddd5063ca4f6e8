"""`normwise doctor`: what it looks at, what it calls a problem, and what it advises."""

import json
import os
import subprocess
import sys

import pytest
import torch

from normwise import available_backends, huge_pages, machine
from normwise.backends import allocator
from normwise.backends.tunings import Tuning, stored
from normwise.bench.allocation import Cost
from normwise.machine import NOTE, OK, PROBLEM, Check, examine
from normwise.machine_summary import MachineReport


def found(name):
    """The checks of this name, or that begin with it."""
    return [check for check in examine() if check.name.startswith(name)]


def one(name):
    (check,) = found(name)
    return check


def test_every_part_is_looked_at_once():
    names = [check.name for check in examine()]
    wanted = [
        "normwise",
        "Python",
        "torch",
        "C++ compiler",
        "cache",
        "huge pages",
        "memory",
        "threads",
        "optional packages",
    ]
    assert [name for name in wanted if names.count(name) != 1] == []
    assert [name for name in available_backends() if names.count(f"backend {name}") != 1] == []


def test_versions_are_those_of_this_process():
    assert one("torch").found.startswith(torch.__version__)
    assert os.path.dirname(machine.__file__) in one("normwise").found


def test_notes_are_no_problem_and_problems_are():
    fine = [Check("a", OK, ""), Check("b", NOTE, "")]
    assert MachineReport(tuple(fine)).healthy
    assert not MachineReport((*fine, Check("c", PROBLEM, ""))).healthy


@pytest.mark.parametrize(("version", "level"), [("2.9.1", PROBLEM), ("2.10.0", OK), ("2.13.0+cpu", OK), ("3.0", OK)])
def test_an_old_torch_is_a_problem(version, level, monkeypatch):
    monkeypatch.setattr(torch, "__version__", version)
    assert one("torch").level == level


def test_missing_kernels_say_what_to_install(monkeypatch):
    reasons = {"cpu": "no C++ compiler was found; install g++.", "triton": "no GPU", "reference": None}
    monkeypatch.setattr(machine, "available_backends", lambda: reasons)
    checks = {check.name: check for check in found("backend")}
    assert checks["backend cpu"].level == PROBLEM
    assert "install g++" in checks["backend cpu"].found
    assert checks["backend triton"] == Check("backend triton", NOTE, "not available: no GPU")
    assert checks["backend reference"].level == OK


@pytest.mark.parametrize(("threaded", "said"), [(False, 1), (True, 0), (None, 0)])
def test_kernels_on_one_thread_are_a_note(threaded, said, monkeypatch):
    monkeypatch.setattr(machine.cpu, "threaded", lambda: threaded)
    checks = found("kernels' threads")
    assert len(checks) == said
    assert all(check.level == NOTE and "no OpenMP" in check.found for check in checks)


@pytest.mark.skipif(available_backends()["cpu"] is not None, reason=str(available_backends()["cpu"]))
@pytest.mark.skipif(not machine.MAPS.exists(), reason="needs Linux's /proc")
def test_the_library_that_serves_is_named():
    paths = one("backend cpu").found.partition(": ")[2].split(", ")
    assert [path for path in paths if not (os.path.exists(path) and "kernels-" in path)] == []


def test_no_compiler(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    assert one("C++ compiler") == Check(
        "C++ compiler", NOTE, "no C++ compiler was found (looked for g++, c++ and clang++)"
    )


def test_the_compiler_is_run(monkeypatch, tmp_path):
    compiler = tmp_path / "mine"
    compiler.write_text("#!/bin/sh\necho mine 1.2\necho more\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr(machine.build, "MARCH", "native")
    assert one("C++ compiler") == Check("C++ compiler", OK, f"{compiler} ({compiler}): mine 1.2")
    monkeypatch.setattr(machine.build, "MARCH", "x86-64-v3")
    advice = "unset NORMWISE_MARCH to compile for this processor"
    assert one("C++ compiler") == Check(
        "C++ compiler", NOTE, f"{compiler} ({compiler}): mine 1.2, for x86-64-v3", advice
    )


def test_the_cache_counts_its_libraries(monkeypatch, tmp_path):
    monkeypatch.setenv("NORMWISE_CACHE", str(tmp_path / "new"))
    assert one("cache") == Check("cache", OK, f"{tmp_path / 'new'}, compiled libraries: 0, 0.0 MB")
    (tmp_path / "new" / "kernels-1.so").write_bytes(bytes(3 << 20))
    assert one("cache").found.endswith("compiled libraries: 1, 3.0 MB")


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NORMWISE_CACHE", str(tmp_path / "file"))
    check = one("cache")
    assert check.level == PROBLEM
    assert "cannot be written" in check.found
    assert "NORMWISE_CACHE" in check.advice


def test_a_full_disk(monkeypatch, tmp_path):
    monkeypatch.setenv("NORMWISE_CACHE", str(tmp_path))
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: machine.shutil._ntuple_diskusage(100, 98, 2 << 20))
    assert one("cache").found.endswith("only 2 MB are free")
    assert one("cache").level == PROBLEM


@pytest.fixture
def switch():
    before = huge_pages()
    yield
    huge_pages(before)


@pytest.mark.parametrize(
    ("text", "enabled", "level", "said"),
    [
        ("always [madvise] never", True, OK, "on for large outputs (system: madvise)"),
        ("[always] madvise never", True, OK, "on for large outputs (system: always)"),
        ("always madvise [never]", True, NOTE, "the system gives none"),
        ("always [madvise] never", False, NOTE, "switched off in normwise (system: madvise)"),
        (None, True, NOTE, "this system has none"),
    ],
)
def test_huge_pages(text, enabled, level, said, monkeypatch, tmp_path, switch):
    if text is not None:
        (tmp_path / "enabled").write_text(f"{text}\n")
    monkeypatch.setattr("normwise.backends.huge_pages.SYSTEM_FILE", tmp_path / "enabled")
    huge_pages(enabled)
    check = one("huge pages")
    assert check.level == level
    assert said in check.found


@pytest.mark.parametrize(
    ("faults", "reason", "level", "said"),
    [
        ((0, 0), None, OK, "allocator 1.0 reuses what is freed: 64 MB allocated, written and freed in 9.0 ms (0 page"),
        ((16385, 3), None, NOTE, "gives back what is freed: 64 MB allocated, written and freed in 9.0 ms (16385 page"),
        (
            (16385, 3),
            "needs glibc.",
            NOTE,
            "written and freed in 9.0 ms (16385 page faults), kept and written again in",
        ),
        ((None, None), None, NOTE, "written and freed in 9.0 ms, kept and written again in 5.0 ms"),
    ],
)
def test_what_the_allocator_costs(faults, reason, level, said, monkeypatch):
    monkeypatch.setattr(machine.allocation, "measure", lambda: Cost(64 << 20, 9.0, 5.0, *faults))
    monkeypatch.setattr(machine, "allocator", lambda: "allocator 1.0")
    monkeypatch.setattr(machine, "unavailable", lambda: reason)
    check = one("memory")
    assert check.level == level
    assert said in check.found
    settings = "call normwise.reuse_memory() before the first large tensor, or from outside: " + allocator.VARIABLES
    wanted = settings if reason is None else f"normwise.reuse_memory() {reason}"
    assert check.advice == ("" if level == OK else wanted)


WITHOUT = allocator.unavailable()


@pytest.mark.skipif(WITHOUT is not None, reason=f"reuse_memory() {WITHOUT}")
def test_the_settings_that_it_names_end_what_it_notes(monkeypatch):
    variables = dict(setting.split("=") for setting in allocator.VARIABLES.split())
    code = 0 if available_backends()["cpu"] is None else 1
    for name in (*variables, "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)  # set to nothing, they are numbers: 0
    for settings, level in (({}, NOTE), (variables, OK)):
        checks = json.loads(run("--json", code=code, **settings).stdout)["checks"]
        (check,) = (check for check in checks if check["name"] == "memory")
        assert check["level"] == level, check


@pytest.fixture
def tunings(monkeypatch, tmp_path):
    """An empty cache, and kernels."""
    monkeypatch.setenv("NORMWISE_CACHE", str(tmp_path))
    monkeypatch.setenv(stored.SWITCH, "1")
    monkeypatch.setattr(machine, "available_backends", lambda: {"cpu": None})
    return tmp_path


def test_which_tuning_holds(tunings, monkeypatch):
    threads = torch.get_num_threads()
    for element, check in zip(("fp32", "fp64"), machine._tunings(), strict=True):
        assert check.level == NOTE
        assert check.found.startswith(f"the tuning shipped for {stored.shipped(element).instructions} (")
        assert check.advice == "normwise tune measures this machine"
    about = Tuning(*stored.machine_of("cpu"), "fp32", threads, torch.__version__, "2026-11-30", {})
    stored.write(about, stored.path_of("cpu", "fp32", threads))
    found = f"the tuning measured on this machine (2026-11-30, fp32, threads: {threads})"
    assert next(machine._tunings()) == Check("tuning", OK, found)
    monkeypatch.setenv(stored.SWITCH, "0")
    check = next(machine._tunings())
    assert check.level == NOTE
    assert "shipped" in check.found
    assert check.advice == "NORMWISE_TUNING=0 is set; unset it to use what is measured on this machine"
    monkeypatch.setattr(machine, "available_backends", lambda: {"cpu": "no compiler"})
    assert list(machine._tunings()) == []


def test_which_tuning_holds_for_a_gpu(tunings, monkeypatch):
    monkeypatch.setattr(machine, "available_backends", lambda: {"cpu": "no compiler"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    about = Tuning("cuda", "A GPU", "compute capability 9.0", "bf16", 0, torch.__version__, "2026-11-30", {})
    monkeypatch.setattr(stored, "find", lambda device, element, threads: None)
    advice = "normwise tune --device cuda:0 measures Triton's kernels"
    assert list(machine._tunings()) == [Check("tuning cuda:0", NOTE, "none: torch's operators serve", advice)]
    monkeypatch.setattr(stored, "find", lambda device, element, threads: about if element == "bf16" else None)
    assert list(machine._tunings()) == [
        Check("tuning cuda:0", OK, "the tuning measured on this machine (2026-11-30, bf16)")
    ]


def test_more_threads_than_cores_is_noted():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert one("threads").level == OK
        torch.set_num_threads(4 * (os.cpu_count() or 1))
        assert one("threads").level == NOTE
    finally:
        torch.set_num_threads(before)


MAPS = """\
7f00-7f01 r-xp 00000000 00:1f 1 {torch}/libgomp.so.1
7f01-7f02 r--p 00001000 00:1f 1 {torch}/libgomp.so.1
7f02-7f03 rw-p 00000000 00:00 0
7f03-7f04 r-xp 00000000 00:1f 2 {torch}/libcompress.so
"""


@pytest.mark.parametrize("second", ["libiomp5.so", "libomp.so", "libgomp-a34b3233.so.1.0.0", "a b/libgomp.so.1"])
def test_a_second_openmp_runtime_is_a_problem(second, monkeypatch, tmp_path):
    maps = tmp_path / "maps"
    monkeypatch.setattr(machine, "MAPS", maps)
    maps.write_text(MAPS.format(torch=tmp_path))
    assert one("OpenMP") == Check("OpenMP", OK, f"{tmp_path}/libgomp.so.1")
    maps.write_text(maps.read_text() + f"7f05-7f06 r-xp 00000000 00:1f 3 {tmp_path}/other/{second}\n")
    assert one("OpenMP").level == PROBLEM
    assert f"other/{second}" in one("OpenMP").found


def test_packages_are_named_as_pip_knows_them():
    present, absent = one("optional packages").found, "".join(check.found for check in found("not installed"))
    for distribution, _ in machine.PACKAGES.values():
        assert (f"{distribution} " in present) != (f"{distribution} (" in absent)


def run(*arguments, code=0, **environment):
    command = [sys.executable, "-W", "error", "-m", "normwise", "doctor", *arguments]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=settings, timeout=300, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_the_command_without_a_compiler(tmp_path):
    (tmp_path / "bin").mkdir()
    without = {"PATH": str(tmp_path / "bin"), "CXX": "", "NORMWISE_CACHE": str(tmp_path / "cache")}
    if available_backends()["cpu"] is None and "prebuilt" in one("backend cpu").found:
        pytest.skip("this installation brings its kernels along")
    text = run(code=1, **without).stdout
    (line,) = (line for line in text.splitlines() if line.startswith("!!"))
    assert "backend cpu" in line
    assert "install g++" in line
    assert text.endswith("\n1 problem, marked !!.\n")
    data = json.loads(run("--json", code=1, **without).stdout)
    assert data["healthy"] is False
    assert [check["name"] for check in data["checks"] if check["level"] == PROBLEM] == ["backend cpu"]


@pytest.fixture(scope="module")
def fresh():
    """What `normwise doctor --json` says; not in this process, where scikit-learn may have brought another OpenMP."""
    return run("--json", code=0 if available_backends()["cpu"] is None else 1)


@pytest.mark.skipif(not machine.MAPS.exists(), reason="needs Linux's /proc")
def test_a_fresh_process_has_one_openmp_runtime(fresh):
    (check,) = (check for check in json.loads(fresh.stdout)["checks"] if check["name"] == "OpenMP")
    assert check["level"] == OK
    assert "omp" in check["found"]


@pytest.mark.skipif(available_backends()["cpu"] is not None, reason=str(available_backends()["cpu"]))
def test_the_command_on_a_machine_that_has_everything(fresh):
    assert fresh.stderr == ""
    assert json.loads(fresh.stdout)["healthy"] is True
    assert run().stdout.endswith("\nNo problem.\n")
