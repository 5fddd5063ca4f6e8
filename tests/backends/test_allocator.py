"""Memory that is kept: what is set, what it saves in page faults, and where it is refused."""

import ctypes
import json
import os
import subprocess
import sys

import pytest
import torch

import normwise as nw
from normwise.backends import allocator as module

WITHOUT = module.unavailable()
needs_glibc = pytest.mark.skipif(WITHOUT is not None, reason=f"reuse_memory() {WITHOUT}")

# In a process of its own, in which the setting stays behind.
PROGRAM = """
import ctypes, json, resource, sys, threading
import torch, normwise as nw
from normwise.backends.allocator import allocator

torch.set_num_threads(1)
x = torch.randn(8, 32, 256, 144).requires_grad_()  # 36 MB, above what glibc keeps by itself
layer, native = nw.GroupNorm(4, 32), torch.nn.GroupNorm(4, 32)
works = {
    "one tensor": lambda: torch.empty(36 << 18).fill_(1.0),
    "native": lambda: torch.autograd.grad(native(x).square().sum(), x),
    "ours": lambda: torch.autograd.grad(layer(x).square().sum(), x),
    "given back": lambda: (torch.empty(36 << 18).fill_(1.0).sum().item(), ctypes.CDLL("libc.so.6").malloc_trim(0)),
}

def faults(work):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def measure():
    # The least of some: gaps between blocks make the heap grow now and then, until it has found its size.
    found.append({name: min(faults(work) for _ in range(4)) for name, work in works.items()})

found, said = [], []
measure()
if "reuse" in sys.argv:
    said = [nw.reuse_memory(), nw.reuse_memory()]
    measure()
other = threading.Thread(target=measure)
other.start()
other.join()
print(json.dumps({"faults": found, "said": said, "allocator": allocator()}))
"""
#: Of 3 tensors of 36 MB in pages of 4 KB.
PAGES = 3 * 36 * 256


def measured(*arguments, **environment):
    settings = {k: v for k, v in os.environ.items() if not k.startswith(("GLIBC_TUNABLES", "MALLOC_"))}
    settings |= {"OMP_NUM_THREADS": "1", "NORMWISE_HUGE_PAGES": "0", **environment}
    command = [sys.executable, "-W", "error", "-c", PROGRAM, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=settings, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def settled(*arguments, **environment):
    """`measured` in a process whose heap found its size: rarely, a small block lies where a large one was."""
    for _ in range(4):
        found = measured(*arguments, **environment)
        after = found["faults"]["reuse" in arguments :]
        reused = (n for faults in after for name, n in faults.items() if name != "given back")
        if max(reused) < PAGES / 20:
            break
    return found


@needs_glibc
def test_page_faults_end_with_the_call_in_every_thread():
    found = settled("reuse")
    before, after, elsewhere = found["faults"]
    assert min(before.values()) >= PAGES
    for faults in (after, elsewhere):
        assert faults.pop("given back") >= PAGES / 2
        assert max(faults.values()) < PAGES / 20
    wanted = {"M_MMAP_MAX": 0, "M_TRIM_THRESHOLD": -1, "M_ARENA_MAX": 1}
    assert found["said"] == [wanted, wanted], "a second call changes nothing"


@needs_glibc
def test_the_same_from_outside():
    variables = dict(setting.split("=") for setting in module.VARIABLES.split())
    found = settled(**variables)
    for faults in found["faults"]:
        assert faults.pop("given back") >= PAGES / 2
        assert max(faults.values()) < PAGES / 20
    assert set(found["allocator"].split(", ")[1:]) == set(module.VARIABLES.split())


@needs_glibc
def test_the_settings_are_those_of_mallopt(monkeypatch):
    """The numbers of <malloc.h>: M_TRIM_THRESHOLD -1, M_MMAP_MAX -4, M_ARENA_MAX -8."""
    calls = []
    monkeypatch.setattr(module, "unavailable", lambda: None)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: fake_library(lambda *given: calls.append(given) or 1))
    assert nw.reuse_memory() == {"M_MMAP_MAX": 0, "M_TRIM_THRESHOLD": -1, "M_ARENA_MAX": 1}
    assert calls == [(-4, 0), (-1, -1), (-8, 1)]


def fake_library(mallopt):
    return type("Library", (), {"mallopt": staticmethod(mallopt)})


def test_a_refusal_of_the_library_is_told(monkeypatch):
    monkeypatch.setattr(module, "unavailable", lambda: None)
    monkeypatch.setattr(module, "allocator", lambda: "glibc 2.99")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: fake_library(lambda number, value: int(number != -8)))
    with pytest.raises(
        RuntimeError, match=r"takes mallopt\(M_ARENA_MAX, 1\), received a refusal from glibc 2\.99; leave"
    ):
        nw.reuse_memory()


def missing(name):
    raise OSError(name)


PLACES = {
    "musl": (
        "linux",
        missing,
        "",
        "another allocator; leave the call out, or start Python with LD_PRELOAD=libjemalloc",
    ),
    "a C library of that name": ("linux", lambda name: object(), "", "another allocator; leave the call out, or"),
    "macOS": ("darwin", missing, "", "Darwin's allocator; leave the call out."),
    "Windows": ("win32", missing, "", "Windows's allocator; leave the call out."),
    "preloaded": ("linux", missing, "/lib/libjemalloc.so.2", "libjemalloc.so.2; leave the call out; tcmalloc keeps"),
}


@pytest.mark.parametrize(("system", "load", "preloaded", "said"), PLACES.values(), ids=PLACES)
def test_where_there_is_no_glibc(system, load, preloaded, said, monkeypatch):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(
        module.platform, "system", lambda: {"darwin": "Darwin", "win32": "Windows"}.get(system, "Linux")
    )
    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setenv("LD_PRELOAD", preloaded)
    with pytest.raises(RuntimeError) as error:
        nw.reuse_memory()
    wanted = f"reuse_memory() needs glibc's malloc behind torch, received memory from {said}"
    assert str(error.value).startswith(wanted)


@needs_glibc
@pytest.mark.parametrize("preloaded", ["", "/lib/x86_64-linux-gnu/libjemalloc.so.2"])
def test_an_allocator_before_glibc_is_noticed(preloaded, monkeypatch):
    """glibc is there and not behind torch: as with jemalloc loaded over it, or mimalloc linked into torch."""
    kept = [torch.empty(size, dtype=torch.uint8) for size in module._PROBES]
    monkeypatch.setenv("LD_PRELOAD", preloaded)
    monkeypatch.setattr(torch, "empty", lambda size, **_: next(t for t in kept if t.nbytes == size))
    assert module.allocator().partition(",")[0] == (preloaded.rpartition("/")[2] or "another allocator")
    with pytest.raises(RuntimeError, match=r"needs glibc's malloc behind torch, received .*; leave the call out"):
        nw.reuse_memory()


@needs_glibc
def test_asking_changes_nothing():
    """A freed block that was mapped would raise glibc's own threshold, and a large one would move the heap."""
    assert max(module._PROBES) < 128 << 10
    assert module.allocator() == module.allocator()
    assert module.allocator().startswith("glibc 2.")


@needs_glibc
def test_an_older_glibc_counts_in_32_bits(monkeypatch):
    """Before 2.33 there is `mallinfo` alone."""

    class Older:
        def __init__(self, name):
            library = real(name)
            self.mallinfo, self.gnu_get_libc_version = library.mallinfo, library.gnu_get_libc_version

    real = ctypes.CDLL
    monkeypatch.setattr(ctypes, "CDLL", Older)
    assert module.unavailable() is None
