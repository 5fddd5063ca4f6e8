"""Which tuning holds: stored, shipped, switched off, spoilt, of somebody else, while processes come and go."""

import json
import os
import time
from pathlib import Path

import pytest
import torch
from forked import Forked
from marks import needs_kernels

from normwise.backends import background, build
from normwise.backends.tunings import stored
from normwise.backends.tunings.record import Tuning, to_text
from normwise.errors import InputError

CELL = ("rows", "contiguous", False)


def tuning(ratio, element="fp32", threads=1):
    about = stored.machine_of("cpu")
    return Tuning(*about, element, threads, torch.__version__, "2026-11-30", {CELL: {10: ratio}})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache, nothing held yet, and tunings switched on; what would be started is listed instead."""
    monkeypatch.setenv("NORMWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(stored.SWITCH, raising=False)
    monkeypatch.setattr(stored, "_held", {})
    return tmp_path / "cache"


@pytest.fixture
def started(monkeypatch):
    found = []
    monkeypatch.setattr(
        background, "measure", lambda arguments, what, wait=False: found.append((arguments, what, wait))
    )
    return found


def put(ratio, **kind):
    one = tuning(ratio, **kind)
    path = stored.path_of("cpu", one.element, one.threads)
    path.parent.mkdir(exist_ok=True)
    path.write_text(to_text(one))
    return path


def test_what_is_stored_holds_and_nothing_is_measured(folder, started):
    put(0.5)
    assert stored.on_cpu("fp32", 1) == tuning(0.5)
    assert started == []


def test_each_type_and_number_of_threads_has_its_own(folder, started):
    put(0.5)
    put(0.25, threads=2)
    put(2.0, element="fp64")
    found = [stored.on_cpu(*kind).ratios[CELL][10] for kind in (("fp32", 1), ("fp32", 2), ("fp64", 1))]
    assert found == [0.5, 0.25, 2.0]


def test_without_one_the_shipped_holds_and_one_is_measured_in_the_background(folder, started):
    found = stored.on_cpu("fp32", 1)
    assert found.shipped
    ((arguments, what, wait),) = started
    assert arguments[0] == str(stored.path_of("cpu", "fp32", 1))
    assert what == "fp32, threads: 1"
    assert not wait


def test_what_holds_in_a_process_never_changes(folder, started):
    before = stored.on_cpu("fp32", 1)
    put(0.5)
    assert stored.on_cpu("fp32", 1) is before
    stored.measure_first("fp32", 1)
    assert len(started) == 1
    assert stored.find("cpu", "fp32", 1) == tuning(0.5), "a new process would take it"


def test_switched_off_the_shipped_holds_and_nothing_is_measured(folder, started, monkeypatch):
    put(0.5)
    monkeypatch.setenv(stored.SWITCH, "0")
    assert stored.on_cpu("fp32", 1).shipped
    assert stored.to_measure("fp64", 1) == started == []


@pytest.mark.parametrize("value", ["off", "2", "no", " 0"])
def test_another_value_of_the_switch_is_an_error(value, folder, monkeypatch):
    monkeypatch.setenv(stored.SWITCH, value)
    with pytest.raises(InputError, match=f"NORMWISE_TUNING={value}: write 0 for the shipped tunings, or 1 for those"):
        stored.on_cpu("fp32", 1)


@pytest.mark.parametrize("element", ["bf16", "fp16"])
def test_narrow_types_are_no_contest(element, folder, started):
    assert stored.on_cpu(element, 1) is None
    assert started == []


SPOILT = {
    "empty": "",
    "torn": to_text(tuning(0.5))[:-20],
    "no text": "\0\1\2",
    "other JSON": '{"learning_rate": 0.1}',
    "of another machine": to_text(tuning(0.5)._replace(machine="Another Processor")),
    "of other instructions": to_text(tuning(0.5)._replace(instructions="armv8-a")),
    "of another torch": to_text(tuning(0.5)._replace(torch="1.0")),
    "of two threads": to_text(tuning(0.5, threads=2)),
    "of another type": to_text(tuning(0.5, element="fp64")),
}


@pytest.mark.parametrize("spoilt", SPOILT)
def test_a_spoilt_file_is_said_once_and_measured_anew(spoilt, folder, started, caplog):
    path = put(0.5)
    path.write_text(SPOILT[spoilt])
    for _ in range(3):
        assert stored.on_cpu("fp32", 1).shipped
    (line,) = [record.getMessage() for record in caplog.records]
    assert str(path) in line
    assert line.endswith("it is measured anew.")
    assert [arguments[0] for arguments, *_ in started] == [str(path)]
    assert not path.exists()


def test_bytes_that_are_no_text_too(folder, started, caplog):
    path = put(0.5)
    path.write_bytes(b"\xff\xfe\x80")
    assert stored.on_cpu("fp32", 1).shipped
    assert len(caplog.records) == len(started) == 1


def test_a_folder_that_cannot_be_written(folder, started, monkeypatch, caplog):
    """What lies in it holds; a spoilt file stays there, and nothing is measured that could not be kept."""
    put(0.5)
    put(0.5, threads=2).write_text("spoilt")
    monkeypatch.setattr(stored, "can_write", lambda folder: False)
    assert stored.on_cpu("fp32", 1) == tuning(0.5)
    assert stored.on_cpu("fp32", 2).shipped
    assert stored.on_cpu("fp32", 3).shipped
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == ["the shipped one is used."]
    assert started == []


def test_a_cache_that_is_no_folder(tmp_path, folder, started, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NORMWISE_CACHE", str(tmp_path / "file"))
    assert stored.on_cpu("fp32", 1).shipped
    assert started == []


def test_sources_in_no_folder_leave_the_shipped_one(folder, started, monkeypatch):
    stored._of_processor.cache_clear()
    monkeypatch.setattr(build, "SOURCES", Path("nowhere"))
    assert stored.on_cpu("fp32", 1).shipped
    assert started == []
    stored._of_processor.cache_clear()


@pytest.mark.parametrize(
    ("level", "taken"), [("x86-64-v4", "x86-64-v4"), ("x86-64-v3", "x86-64-v3"), ("armv8-a", "x86-64-v3")]
)
def test_the_shipped_one_is_that_of_the_instructions(level, taken, monkeypatch):
    monkeypatch.setattr(stored, "instructions", lambda: level)
    assert {stored.shipped(element).instructions for element in stored.CONTESTED} == {taken}
    assert stored.shipped("bf16") is None


def test_the_instructions_are_those_that_the_kernels_use(monkeypatch):
    stored.instructions.cache_clear()
    can = {"x86-64-v3", "x86-64"}
    monkeypatch.setattr(build, "can_run", lambda level: level in can)
    assert stored.instructions() == "x86-64-v3"
    stored.instructions.cache_clear()


PROGRAM = """
import os, sys, torch, normwise as nw
torch.set_num_threads(1)
if "build" in sys.argv:
    nw.build_kernels(torch.float32)
layer, x = nw.LayerNorm(256), torch.randn(4, 256)
said = []
for _ in range(3):
    with torch.no_grad():
        layer(x)
        said += [str(explained) for explained in nw.explain_way(layer, x)]
assert len(set(said)) == 1
print(said[0].splitlines()[0] if "by the tuning" in said[0] else said[0].splitlines()[2])
"""


@pytest.fixture
def environment(tmp_path):
    """A cache with the kernels in it, as after a first run without tunings."""
    cache = tmp_path / "cache"
    cache.mkdir()
    for path in next(build.cache_folders()).glob("kernels-fp32-*.so"):
        os.link(path, cache / path.name) if os.stat(path).st_dev == os.stat(cache).st_dev else None
        if not (cache / path.name).exists():
            (cache / path.name).write_bytes(path.read_bytes())
    return {**os.environ, "NORMWISE_CACHE": str(cache), stored.SWITCH: "1", "OMP_NUM_THREADS": "1"}


def start(environment, *arguments):
    return Forked(PROGRAM, *arguments, environment=environment)


def ended(process):
    done = process.ended()
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


@needs_kernels
def test_two_processes_at_once_measure_once_and_later_ones_go_by_it(environment):
    cache = Path(environment["NORMWISE_CACHE"])
    outputs = [ended(process) for process in [start(environment) for _ in range(2)]]
    for said, errors in outputs:
        assert "the tuning shipped for" in said
        assert errors.count("Measuring for fp32, threads: 1 in the background") == 1
    deadline = time.monotonic() + 240
    while not (found := list(cache.glob("tuning-*.json"))) and time.monotonic() < deadline:
        time.sleep(0.2)
    (path,) = found
    first = path.read_bytes()
    assert json.loads(first)["threads"] == 1
    said, errors = ended(start(environment, "build"))
    assert "the tuning measured on this machine" in said
    assert errors == ""
    while list(cache.glob("*.lock")):
        time.sleep(0.1)
    assert path.read_bytes() == first
    assert {p.suffix for p in cache.iterdir()} == {".so", ".json"}, "something temporary was left"


@needs_kernels
@pytest.mark.slow
def test_build_kernels_waits_for_it(environment):
    said, errors = ended(start(environment, "build"))
    assert "the tuning measured on this machine" in said
    assert errors.count("Measuring for fp32, threads: 1 which way is faster") == 1


@needs_kernels
def test_switched_off_no_file_appears(environment):
    said, errors = ended(start(environment | {stored.SWITCH: "0"}, "build"))
    assert "the tuning shipped for" in said
    assert errors == ""
    assert list(Path(environment["NORMWISE_CACHE"]).glob("tuning*")) == []


@needs_kernels
def test_a_wrong_switch_is_an_error_of_the_first_call(environment):
    done = start(environment | {stored.SWITCH: "never"}).ended()
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("normwise.errors.InputError: NORMWISE_TUNING=never: write 0 for")
