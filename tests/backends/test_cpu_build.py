"""How the compiled kernels come to be: the cache, what may lie in it, no compiler, several processes, forks."""

import multiprocessing
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import forked
import pytest
import torch
from forked import Forked

from normwise.backends import build, cpu, cpu_library
from normwise.backends.cpu_library import kernels
from normwise.core.activations import Activation

needs_compiler = pytest.mark.skipif(cpu.unavailable() is not None, reason=str(cpu.unavailable()))

PROGRAM = """
import torch, normwise as nw
print(nw.available_backends()["cpu"])
x = torch.arange(30000.).view(2, 3, 50, 100).remainder(7)
print(nw.GroupNorm(3, 3)(x).square().mean().item() > 0.99)
"""


@pytest.fixture(scope="module")
def compiler(tmp_path_factory):
    """A compiler that takes no time: it copies the library that the real one made.

    What the cache does with a library is tested here; that the sources compile, by every other test of the kernels.
    """
    if cpu.unavailable() is not None:
        pytest.skip(str(cpu.unavailable()))
    real = build.find_compiler()
    paths = [
        *build.prebuilt("fp32"),
        *(f / f"kernels-fp32-{build.fingerprint(real)}.so" for f in build.cache_folders()),
    ]
    folder = tmp_path_factory.mktemp("compiler")
    library, script = folder / "library", folder / "compiler"
    library.write_bytes(next(path for path in paths if build.intact(path)).read_bytes()[: -build._DIGEST_SIZE])
    script.write_text(
        f'#!/bin/sh\nwhile [ $# -gt 0 ]; do\n  [ "$1" = -o ] && {{ sleep 0.3; cp "{library}" "$2"; }}\n  shift\ndone\n'
    )
    script.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXX", str(script))
        yield


def in_cache(folder, **environment):
    return {**os.environ, "NORMWISE_CACHE": str(folder), "OMP_NUM_THREADS": "1", **environment}


def run(folder, program=PROGRAM, **environment):
    """What a process prints, its cache in ``folder``."""
    return forked.run(program, environment=in_cache(folder, **environment))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_where_there_is_a_compiler_there_are_kernels(dtype):
    """Or else sources that do not compile would skip every test of them."""
    try:
        build.find_compiler()
    except build.BuildError as reason:
        pytest.skip(str(reason))
    assert kernels(dtype)[1] is None


def library_in(folder):
    (found,) = Path(folder).glob("*.so")
    return found


@pytest.fixture(scope="module")
def built(compiler, tmp_path_factory):
    """A cache with the library in it, built by two processes at once."""
    folder = tmp_path_factory.mktemp("cache")
    for process in [Forked(PROGRAM, environment=in_cache(folder)) for _ in range(2)]:
        assert process.ended().stdout.splitlines() == ["None", "True"]
    return folder


def test_two_processes_that_build_at_once_leave_one_whole_library(built):
    assert build.intact(library_in(built))
    assert [p.name for p in built.iterdir()] == [library_in(built).name], "something temporary was left"


SECOND = """
import os, torch
from normwise.backends import cpu
def threads():
    return len(os.listdir("/proc/self/task"))
def started():
    before = threads()
    cpu.moments(torch.ones(8, 8, 200, 200), None)
    return threads() - before
if os.path.exists("/proc/self/maps"):
    torch.set_num_threads(1)
    one = started()
    torch.set_num_threads(3)
    print(one, started())
    print(*{line.split()[-1] for line in open("/proc/self/maps") if "omp" in line.split()[-1]})
"""


@pytest.fixture(scope="module")
def second(built):
    """What a second process prints, which must not compile; its setting of OpenMP is not torch's."""
    before = library_in(built).stat().st_mtime_ns
    command = [sys.executable, "-W", "error", "-c", SECOND + PROGRAM]  # OpenMP reads its setting as it is loaded
    settings = in_cache(built, OMP_NUM_THREADS="4")
    done = subprocess.run(command, capture_output=True, text=True, env=settings, check=True)
    assert library_in(built).stat().st_mtime_ns == before
    return done.stdout.splitlines()


def test_the_second_process_compiles_nothing(second):
    assert second[-2:] == ["None", "True"]


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:-100] + bytes(100)])
def test_a_damaged_library_is_noticed_before_it_is_loaded(built, tmp_path, damage):
    good = library_in(built)
    bad = tmp_path / good.name
    bad.write_bytes(damage(good.read_bytes()))
    assert not build.intact(bad)


def test_a_damaged_library_is_built_anew(built, tmp_path, monkeypatch):
    monkeypatch.setenv("NORMWISE_CACHE", str(tmp_path))
    good = library_in(built)
    (tmp_path / good.name).write_bytes(good.read_bytes()[:5000])
    loaded = []
    build.load("fp32", loaded.append)
    assert [Path(library._name) for library in loaded] == [tmp_path / good.name]
    assert (tmp_path / good.name).read_bytes() == good.read_bytes()


def test_a_library_that_computes_wrongly_is_built_anew_once(built, monkeypatch):
    monkeypatch.setenv("NORMWISE_CACHE", str(built))
    builds, checks = [], []
    monkeypatch.setattr(build, "_build", lambda *a: builds.append(a[-1]) or a[-1].write_bytes(content))
    content = library_in(built).read_bytes()

    def check(library):
        checks.append(library)
        if len(checks) == 1:
            raise ArithmeticError("the self-test failed")

    build.load("fp32", check)
    assert (len(builds), len(checks)) == (1, 2)


def test_a_library_that_never_works_is_reported(built, monkeypatch):
    monkeypatch.setenv("NORMWISE_CACHE", str(built))
    content = library_in(built).read_bytes()
    monkeypatch.setattr(build, "_build", lambda *a: a[-1].write_bytes(content))

    def check(library):
        raise ArithmeticError("the self-test failed for torch.float32")

    with pytest.raises(build.BuildError, match=r"do not work: the self-test failed for torch\.float32"):
        build.load("fp32", check)
    library_path = built / f"kernels-fp32-{build.fingerprint(build.find_compiler())}.so"
    library_path.write_bytes(content)  # as it was


def test_without_a_compiler_the_reference_serves_and_says_why(tmp_path):
    (tmp_path / "bin").mkdir()
    reason, works = run(tmp_path, PATH=str(tmp_path / "bin"), CXX="")
    assert "no C++ compiler was found" in reason
    assert "install g++" in reason
    assert works == "True"


def test_a_compiler_that_fails_is_quoted(tmp_path, monkeypatch):
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\necho 'error: no such target' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("NORMWISE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(build.BuildError, match="could not compile the kernels: error: no such target"):
        build.load("fp32", lambda library: None)


#: What Apple's clang says.
REFUSAL = 'case " $* " in *" -fopenmp "*) echo "error: unsupported option -fopenmp" >&2; exit 1;; esac'


@needs_compiler
def test_a_compiler_without_openmp_is_asked_for_serial_kernels(built, tmp_path, monkeypatch):
    """The sources are right for it; code is made of them in the slow test below."""
    monkeypatch.delenv("CXX", raising=False)  # of the one that copies
    compiler, library = tmp_path / "apple", tmp_path / "library"
    library.write_bytes(library_in(built).read_bytes()[: -build._DIGEST_SIZE])
    look = f'{shlex.join(build.find_compiler())} "$@" -fsyntax-only || exit 1'
    copy = f'while [ $# -gt 0 ]; do [ "$1" = -o ] && cp "{library}" "$2"; shift; done'
    compiler.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/log"\n{REFUSAL}\n{look}\n{copy}\n')
    compiler.chmod(0o755)
    build._build([str(compiler)], "fp32", "0123456", tmp_path / "kernels.so")
    first, second = (line.split() for line in (tmp_path / "log").read_text().splitlines())
    assert "-fopenmp" in first
    assert [flag.replace("-fopenmp-simd", "-fopenmp") for flag in second] == first
    assert build.intact(tmp_path / "kernels.so")


@needs_compiler
@pytest.mark.slow
def test_a_compiler_without_openmp_makes_kernels_on_one_thread(tmp_path, monkeypatch):
    """Without optimizing, which takes a third of the time."""
    monkeypatch.delenv("CXX", raising=False)  # of the one that copies
    compiler = tmp_path / "apple"
    command = shlex.join(build.find_compiler())
    compiler.write_text(f'#!/bin/sh\n{REFUSAL}\nexec {command} "$@" -O0\n')
    compiler.chmod(0o755)
    program = (
        PROGRAM
        + """
from normwise.backends import cpu
from normwise.machine import examine
torch.set_num_threads(3)
cpu.moments(torch.ones(8, 8, 200, 200), None)
print(cpu.threaded(), *[check.level for check in examine() if check.name == "kernels' threads"])
"""
    )
    assert run(tmp_path / "cache", program, CXX=str(compiler)) == ["None", "True", "False note"]


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("place", ["/proc/normwise", "/dev/null/normwise"])
def test_a_cache_folder_that_cannot_be_written_is_replaced_by_a_temporary_one(place):
    assert run(place) == ["None", "True"]


def test_no_process_sees_half_a_library(tmp_path, monkeypatch):
    """While the compiler writes, there is nothing in the place where others look; then there is all of it."""
    target = tmp_path / "cache" / "kernels-fp32-key.so"

    def compile_slowly(command, **options):
        written = Path(command[command.index("-o") + 1])
        written.write_bytes(b"the first half")
        assert written != target
        assert not target.exists()
        written.write_bytes(b"the first half and the second")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(build.subprocess, "run", compile_slowly)
    build._build(["g++"], "fp32", "0123456", target)
    assert build.intact(target)
    assert target.read_bytes().startswith(b"the first half and the second")
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("free", [0, 2**30], ids=["full", "not full"])
def test_a_full_disk_is_not_taken_for_a_broken_compiler(tmp_path, monkeypatch, free):
    """The first is a reason to build somewhere else, the second is not."""
    failed = subprocess.CompletedProcess([], 1, "", "fatal error: cannot write")
    monkeypatch.setattr(build.subprocess, "run", lambda *a, **k: failed)
    monkeypatch.setattr(build.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(2**40, 2**40 - free, free))
    with pytest.raises(OSError if free == 0 else build.BuildError, match="full" if free == 0 else "cannot write"):
        build._build(["g++"], "fp32", "0123456", tmp_path / "kernels-fp32-key.so")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("problem", [PermissionError(13, "read-only"), OSError(28, "No space left on device")], ids=str)
def test_a_cache_that_cannot_be_written_leaves_what_is_there_and_a_temporary_one_serves(
    built, tmp_path, monkeypatch, problem
):
    good = library_in(built)
    (tmp_path / good.name).write_bytes(b"damaged")
    monkeypatch.setenv("NORMWISE_CACHE", str(tmp_path))
    monkeypatch.setattr(build, "_writable", lambda folder: False)
    places = []

    def build_outside(compiler, element, key, path):
        if path.parent == tmp_path:
            raise problem
        places.append(path.parent)
        path.write_bytes(good.read_bytes())

    monkeypatch.setattr(build, "_build", build_outside)
    assert build.load("fp32", lambda library: None) is not None
    assert len(places) == 1
    assert not places[0].exists(), "the temporary folder was left"
    assert (tmp_path / good.name).read_bytes() == b"damaged"


def test_the_fingerprint_depends_on_sources_flags_and_compiler(tmp_path, monkeypatch):
    compiler = [sys.executable]
    first = build.fingerprint(compiler)
    assert build.fingerprint(compiler) == first
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-g"))
    second = build.fingerprint(compiler)
    for source in build.SOURCES.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes() + b"\n")
    monkeypatch.setattr(build, "SOURCES", tmp_path)
    assert len({first, second, build.fingerprint(compiler), build.fingerprint(["sh", "-c", "true"])}) == 4


def test_the_environment_names_the_instruction_set(tmp_path):
    program = f"import runpy; m = runpy.run_path({build.__file__!r}); print(m['FLAGS'][-1], m['fingerprint'](['true']))"
    native, older, empty = (
        run(tmp_path, program, NORMWISE_MARCH=march)[0].split() for march in ("native", "x86-64", "")
    )
    assert (native[0], older[0]) == ("-march=native", "-march=x86-64")
    assert native == empty
    assert native[1] != older[1]


needs_proc = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")


@needs_proc
def test_there_is_one_openmp_runtime(second):
    runtimes = second[1]
    assert runtimes.count(".so") == 1, runtimes


def _normalize(pipe):
    x = torch.randn(4, 8, 100, 100, generator=torch.Generator().manual_seed(0))
    pipe.send(cpu.moments(x, None).mean.sum().item())


@needs_compiler
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_computes_the_same():
    """OpenMP's threads do not survive a fork; a child that waited for them would hang."""
    x = torch.randn(4, 8, 100, 100, generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = cpu.moments(x, None).mean.sum().item()  # the pool of threads exists now
        context = multiprocessing.get_context("fork")
        receive, send = context.Pipe(duplex=False)
        child = context.Process(target=_normalize, args=(send,))
        child.start()
        assert receive.poll(60), "the forked process hangs"
        assert receive.recv() == expected
        child.join(10)
        assert child.exitcode == 0
    finally:
        torch.set_num_threads(before)


class Normalized(torch.utils.data.Dataset):
    """A dataset that normalizes in the worker, with as many threads as its author fancied."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        torch.set_num_threads(2)
        x = torch.randn(4, 8, 100, 100, generator=torch.Generator().manual_seed(index))
        return cpu.moments(x, None).mean.sum().item()


@needs_compiler
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_of_a_data_loader_normalize():
    before = torch.get_num_threads()
    try:
        expected = [Normalized()[index] for index in range(2)]  # the pool of threads exists now
        loader = torch.utils.data.DataLoader(
            Normalized(), batch_size=None, num_workers=1, timeout=60, multiprocessing_context="fork"
        )
        assert list(loader) == expected
    finally:
        torch.set_num_threads(before)


@needs_proc
def test_the_number_of_threads_is_torch_s(second):
    """Seen from outside: one thread starts no other, three start two, whatever OpenMP's own setting is."""
    assert second[0] == "0 2"


@needs_compiler
@pytest.mark.parametrize("list_of", ["_ACTIVATIONS", "_RESPONSES", "OPERATIONS"])
@pytest.mark.parametrize(
    "change", [lambda names: names[::-1], lambda names: (*names, "another"), lambda names: names[1:]]
)
def test_a_number_means_the_same_to_the_package_and_to_the_library(monkeypatch, list_of, change):
    """Otherwise an inserted row would silently compute another function."""
    functions, _ = kernels(torch.float32)
    cpu_library._check_names(functions)
    monkeypatch.setattr(cpu_library, list_of, change(getattr(cpu_library, list_of)))
    with pytest.raises(ArithmeticError, match="where the package has"):
        cpu_library._check_names(functions)


@needs_compiler
def test_an_activation_that_the_kernels_do_not_know_is_an_error():
    unknown = Activation("unknown", torch.sin, torch.cos)
    with pytest.raises(ValueError, match="do not know the activation 'unknown'"):
        cpu.standardize(torch.randn(2, 3, 4), 0, None, None, 1e-5, None, unknown, None, False)
