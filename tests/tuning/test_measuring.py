"""The contests and their clock, and the command."""

import json
from itertools import cycle

import pytest
import torch
from marks import needs_kernels

from normwise.backends import triton_kernels, use_backend
from normwise.backends.tunings import stored
from normwise.backends.tunings.record import from_data
from normwise.operations.context import context_of
from normwise.operations.request import layout_of, operation_of
from normwise.operations.ways import by_graph, by_kernels, by_torch
from normwise.operations.ways.along_dense_rows import AlongDenseRows
from normwise.tuning import command as tuning_command
from normwise.tuning import contests as contests_module
from normwise.tuning import measuring
from normwise.tuning.contests import contests
from normwise.tuning.measuring import measure, ratio

CPU = torch.device("cpu")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("graph", [False, True])
def test_a_contest_has_the_name_that_the_choice_asks_for(device, graph):
    for contest in contests(device):
        for size in (10, 12, 14):
            request = contest.request(size, CPU, torch.float32, graph=graph)
            context = context_of(request)
            assert operation_of(request, context.pool) == contest.operation
            assert layout_of(request.x) == contest.layout
            assert context.graph is graph
            assert request.x.numel() == 2**size


class Clock:
    """Counts what steps say that they take."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def step(self, *seconds):
        durations = cycle(seconds)

        def step():
            self.now += next(durations)

        return step


@pytest.mark.parametrize(("theirs", "ours", "found"), [(2e-3, 1e-3, 2.0), (1e-3, 2e-3, 0.5), (1.1e-3, 1e-3, 1.1)])
def test_the_ratio_is_their_time_by_ours(theirs, ours, found):
    clock = Clock()
    assert ratio(clock.step(theirs), clock.step(ours), clock) == pytest.approx(found)


def test_where_rounds_disagree_or_a_processor_was_missing_there_is_none():
    clock = Clock()
    assert ratio(clock.step(1e-1), clock.step(1e-3), clock) is None
    assert ratio(clock.step(1e-3), clock.step(1e-1), clock) is None
    assert ratio(clock.step(2e-3, 1e-3, 2e-3, 0.5e-3, 3e-3), clock.step(1.4e-3), clock) is None


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("contest", contests("cpu"), ids=lambda contest: f"{contest.operation}, {contest.layout}")
@needs_kernels
def test_a_step_goes_both_ways_and_leaves_no_gradients(contest, graph, monkeypatch):
    ways = []
    of_torch, of_kernels = (
        (by_torch.OverPools, by_torch.AlongRows, by_torch.FewRows),
        (by_kernels.OverPools, AlongDenseRows),
    )
    for taken, kinds in (("torch", of_torch), ("kernels", of_kernels)):
        for kind in kinds:
            monkeypatch.setattr(kind, "run", lambda *a, r=kind.run, taken=taken: ways.append(taken) or r(*a))
    request = contest.request(12, CPU, torch.float32, graph=graph)
    for step in measuring.steps_of(request, graph=graph):
        step()
    assert ways == ["torch", "kernels"]
    assert all(t is None or t.grad is None for t in (request.x, *request.parameters))


@pytest.mark.parametrize("contest", contests("cuda"), ids=lambda contest: f"{contest.operation}, {contest.layout}")
def test_a_contest_of_a_gpu_is_one_of_its_kernels(contest):
    """As far as it can be told without one: Triton's kernels, chosen, take what is measured there."""
    if triton_kernels.unavailable() is not None:
        pytest.skip(str(triton_kernels.unavailable()))
    request = contest.request(10, CPU, torch.float32, graph=True)
    with use_backend("triton"):
        context = context_of(request)
        way = by_kernels.bind(request, context)
        if contest.operation == "formula":
            way = by_graph.bind(request, context)
    assert not isinstance(way, str)
    assert getattr(way, "backend", triton_kernels) is triton_kernels


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Few sizes and rounds; a cache of its own, with the kernels that this process has loaded."""
    monkeypatch.setenv("NORMWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(stored.SWITCH, "1")
    monkeypatch.setitem(contests_module.SIZES, "cpu", (10, 12))
    monkeypatch.setattr(measuring, "SHARE", 1e-5)
    monkeypatch.setattr(measuring, "ROUNDS", 3)
    monkeypatch.setattr(stored, "_held", {})
    return tmp_path / "cache"


@needs_kernels
def test_measuring_leaves_torchs_threads_and_random_numbers_alone(small):
    before, state = torch.get_num_threads(), torch.get_rng_state()
    seen = []
    found = measure("cpu", "fp32", 2, lambda contest, graph, ratios: seen.append((contest.operation, graph)))
    assert torch.get_num_threads() == before
    assert torch.equal(torch.get_rng_state(), state)
    assert found.threads == 2
    assert found.element == "fp32"
    assert found[:3] == stored.machine_of("cpu")
    assert len(seen) == 2 * len(list(contests("cpu")))
    assert {size for ratios in found.ratios.values() for size in ratios} <= {10, 12}


@needs_kernels
def test_the_command_shows_and_stores_what_the_choice_reads(command, small):
    code, text, errors = command("tune", "--dtypes", "fp32", "--threads", "1,2")
    assert (code, errors) == (0, "")
    paths = [stored.path_of("cpu", "fp32", threads) for threads in (1, 2)]
    for path in paths:
        assert f"Stored: {path}\n" in text
    assert text.endswith("They apply to processes that start from now on.\n")
    for threads in (1, 2):
        assert f"{stored.machine_of('cpu').name}, {stored.instructions()}, fp32, threads: {threads}, torch" in text
        held = stored.on_cpu("fp32", threads)
        assert not held.shipped
        for cell in held.ratios:
            assert held.choice(cell) in text
    assert not list(small.glob("*.lock"))


@needs_kernels
@pytest.mark.slow
def test_the_command_as_json_is_what_is_shipped_and_stored(command, small):
    code, text, errors = command("tune", "--dtypes", "fp64", "--threads", "1", "--json")
    assert (code, errors) == (0, "")
    (found,) = map(from_data, json.loads(text))
    assert found == stored.read("cpu", "fp64", 1)


@needs_kernels
def test_switched_off_the_command_says_that_it_does_not_hold(command, small, monkeypatch):
    monkeypatch.setenv(stored.SWITCH, "0")
    code, text, _ = command("tune", "--dtypes", "fp32", "--threads", "1")
    assert code == 0
    assert text.endswith("NORMWISE_TUNING=0 is set: processes use the tunings of the package until it is unset.\n")


BAD = {
    "a narrow type": (("--dtypes", "bf16"), "write some of fp32, fp64; of narrower types"),
    "an unknown type": (("--dtypes", "fp8"), "dtypes='fp8': write some of fp32, fp64"),
    "no number": (("--threads", "two"), "--threads two: write integers such as 1,2."),
    "no threads": (("--threads", "0"), "threads=0: each must be at least 1."),
    "an unknown device": (("--device", "tpu"), "device='tpu' is unknown; write one of cpu, cuda."),
}


@needs_kernels
@pytest.mark.parametrize("bad", BAD)
def test_what_the_command_cannot_do(bad, command, small):
    arguments, said = BAD[bad]
    code, output, errors = command("tune", *arguments)
    assert (code, output) == (2, "")
    (line,) = errors.splitlines()
    assert said in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(command, small):
    code, _, errors = command("tune", "--device", "cuda")
    assert code == 2
    assert "torch finds no CUDA device" in errors


@needs_kernels
def test_a_wrong_switch_and_a_cache_that_cannot_be_written(command, small, monkeypatch, tmp_path):
    monkeypatch.setattr(stored, "can_write", lambda folder: False)
    code, _, errors = command("tune")
    assert code == 2
    assert errors == f"normwise: {small} cannot be written; set NORMWISE_CACHE to a folder that can.\n"
    monkeypatch.setenv(stored.SWITCH, "yes")
    for name in ("tune", "doctor"):
        code, _, errors = command(name)
        assert code == 2
        assert errors.startswith("normwise: NORMWISE_TUNING=yes: write 0 for")


def test_without_kernels_the_command_says_why(command, small, monkeypatch):
    monkeypatch.setattr(tuning_command, "available_backends", lambda: {"cpu": "no compiler was found."})
    code, _, errors = command("tune")
    assert (code, errors) == (2, "normwise: There are no kernels to measure on cpu: no compiler was found.\n")


def test_a_gpu_is_asked_for_its_own_types_and_no_threads(small, monkeypatch):
    monkeypatch.setattr(tuning_command, "check_device", lambda device: None)
    monkeypatch.setattr(tuning_command, "available_backends", lambda: {"triton": None})
    monkeypatch.setattr(stored, "_of_gpu", lambda device: ("cuda", "A GPU", "9.0"))
    found = tuning_command.wanted("cuda", (), ())
    assert [(one.device, one.element, one.threads) for one in found] == [
        ("cuda:0", element, 0) for element in ("fp32", "bf16", "fp16")
    ]
    assert len({one.path for one in found}) == 3
    assert found[0].path.name.startswith("tuning-cuda-fp32-")
    with pytest.raises(ValueError, match="a GPU has none to choose"):
        tuning_command.wanted("cuda", (), (2,))
    assert tuning_command.wanted("cuda:1", ("fp64",), ())[0].device == "cuda:1"


def test_one_process_measures_at_a_time(small, monkeypatch):
    held = []
    monkeypatch.setattr(
        tuning_command, "measure", lambda *a: held.append(list(small.glob("*.lock"))) or stored.shipped("fp32")
    )
    path = small / "tuning-cpu-fp32-1-x.json"
    small.mkdir()
    list(tuning_command.tune([tuning_command.Wanted("cpu", "fp32", 1, path)]))
    assert held == [[path.with_suffix(".lock")]]
    assert path.exists()
