"""Each regime of memory in a process of its own, and what the allocator costs in each."""

import os
import pickle

import pytest
import torch

from normwise.backends import allocator
from normwise.backends.huge_pages import system_huge_pages
from normwise.bench import allocation, regimes
from normwise.bench.allocation import Cost
from normwise.bench.entry import Request
from normwise.bench.regimes import AS_IT_COMES, REUSED, Processes

WITHOUT = allocator.unavailable()
needs_glibc = pytest.mark.skipif(WITHOUT is not None, reason=f"reuse_memory() {WITHOUT}")
BOTH = (AS_IT_COMES, REUSED)
PAGES, HUGE_PAGES = allocation.SIZE // 4096, allocation.SIZE // (2 << 20) - 1


@needs_glibc
def test_each_regime_has_a_process_with_its_own_memory(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("GLIBC_TUNABLES", "MALLOC_"))]:
        monkeypatch.delenv(name)
    with Processes(BOTH) as call:
        pids = [call(memory, os.getpid) for memory in (*BOTH, *BOTH)]
        comes, reused = (call(memory, allocation.measure) for memory in BOTH)
        for _ in range(2):  # rarely, on a loaded machine, a heap takes longer to find its size
            reused = call(BOTH[1], allocation.measure) if reused.anew else reused
    assert pids[:2] == pids[2:]
    assert len({*pids, os.getpid()}) == 3
    assert comes.anew
    assert not reused.anew
    assert reused.fresh_faults < comes.fresh_faults / 20
    assert comes.fresh_faults >= (PAGES if system_huge_pages() != "always" else HUGE_PAGES)
    for pid in pids[:2]:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@needs_glibc
def test_an_error_and_an_end_in_the_other_process_come_back():
    with Processes(BOTH) as call:
        with pytest.raises(ValueError, match="invalid literal"):
            call(AS_IT_COMES, int, "x")
        assert call(AS_IT_COMES, int, "7") == 7
        with pytest.raises(RuntimeError, match=r"measured with memory as it comes ended with exit code 3; -9 means"):
            call(AS_IT_COMES, os._exit, 3)


def test_processes_end_with_an_error_of_the_caller():
    pids = []

    def interrupted():
        with Processes(BOTH) as call:
            pids.append(call(AS_IT_COMES, os.getpid))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


@pytest.mark.parametrize("memories", [("",), (AS_IT_COMES,)])
def test_one_regime_needs_no_other_process(memories):
    with Processes(memories) as call:
        assert call(memories[0], os.getpid) == os.getpid()


def test_without_glibc_there_is_one_regime(monkeypatch):
    monkeypatch.setattr(regimes, "unavailable", lambda: "needs glibc")
    assert regimes.regimes() == (AS_IT_COMES,)
    monkeypatch.setattr(regimes, "unavailable", lambda: None)
    assert regimes.regimes() == BOTH
    assert Request().memory() == BOTH


def test_what_is_sent_to_a_process_can_be_pickled():
    request = Request(quick=True, clock="cpu")
    options = pickle.loads(pickle.dumps(request.options()))
    assert options.timer({"a": lambda: 1}, 3)["a"] >= 0
    assert pickle.loads(pickle.dumps(request.cases())) == request.cases()


@pytest.mark.parametrize(
    ("fresh", "kept", "faults", "anew"),
    [
        (40, 5, 16385, True),  # pages of 4 KB
        (9, 5, 32, True),  # huge pages, cleared anew all the same
        (9, 5, 15, False),  # slow for another reason
        (5, 5, 0, False),
        (9, 5, None, True),
        (7, 5, None, False),
    ],
)
def test_when_memory_counts_as_mapped_anew(fresh, kept, faults, anew):
    assert Cost(64 << 20, fresh, kept, faults, faults and 0).anew is anew


def test_where_faults_are_not_counted(monkeypatch):
    monkeypatch.setattr(allocation, "getrusage", None)
    found = allocation.measure(1 << 20, rounds=1)
    assert (found.fresh_faults, found.kept_faults) == (None, None)
    assert min(found.fresh_ms, found.kept_ms) > 0


def test_a_default_device_is_not_what_is_measured():
    with torch.device("meta"):
        assert allocation.measure(1 << 20, rounds=1).size == 1 << 20
