"""One cell: every layer is right, what is wrong is not timed, and the figures follow from the times."""

import math

import pytest
import torch
from torch import nn

from normwise.bench import measure as module
from normwise.bench.cases import Case
from normwise.bench.check import error, make_data, oracle, randomize, take_over
from normwise.bench.measure import FAILED, OK, WRONG, Options, measure, step
from normwise.bench.subjects import SUBJECTS, baselines, ours
from normwise.bench.timing import cpu_timer, cuda_timer


def timer(times):
    """A timer that runs every function once and says what it was told."""

    def run(functions, rounds):
        for function in functions.values():
            function()
        return {name: times.get(name, 1.0) for name in functions}

    return run


def options(**more):
    return Options(torch.device("cpu"), more.pop("timer", timer({})), **more)


def case(layer="batch", shape=None, dtype="fp32", layout="contiguous", direction="both", **more):
    default = (5, 8) if layer.startswith("token") else (3, 8, 5, 4)
    return Case(layer, "test", shape or default, dtype, layout, direction, 1, **more)


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp64"])
@pytest.mark.parametrize("layer", SUBJECTS)
def test_every_layer_is_right_and_timed(layer, dtype, layout, direction):
    if layer.startswith("token") and layout == "channels_last":
        pytest.skip("rows have one layout")
    row = measure(case(layer, dtype=dtype, layout=layout, direction=direction), options())
    assert row["status"] == OK, row
    assert row["ours_ms"] == 1000
    assert ("native_ms" in row) is (SUBJECTS[layer].native is not None)
    assert ("paper_ms" in row) is (SUBJECTS[layer].paper is not None)
    assert row["ratio"] == 1


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "silu"])
@pytest.mark.parametrize("layer", ["batch", "batch-eval", "group", "instance", "layer"])
def test_fused_epilogues_are_right(layer, activation, residual):
    row = measure(case(layer, activation=activation, residual=residual), options())
    assert row["status"] == OK, row


@pytest.mark.parametrize("shape", [(3, 8, 7), (2, 8, 3, 4, 5)])
@pytest.mark.parametrize("layer", ["batch", "group", "switchable", "renorm", "batch-instance", "evo-b0"])
def test_sequences_and_volumes(layer, shape):
    assert measure(case(layer, shape), options())["status"] == OK


@pytest.mark.parametrize("layer", [name for name, subject in SUBJECTS.items() if subject.paper])
def test_a_transcription_and_the_layer_share_every_parameter(layer):
    """Otherwise the two would be compared with different parameters, or with some at their first values."""
    one = case(layer)
    (paper,) = baselines(one).values()
    assert dict(paper.inner.named_parameters()).keys() == dict(ours(one).named_parameters()).keys()


def broken(change):
    """torch's BatchNorm with a defect."""

    class Broken(nn.BatchNorm2d):
        def forward(self, input):
            return change(super().forward(input))

    return lambda channels, rank: Broken(channels)


DEFECTS = {
    "one value": lambda y: y + torch.zeros_like(y).index_fill_(0, torch.tensor([1]), 1e-3),
    "NaN": lambda y: y / torch.ones_like(y).index_fill_(3, torch.tensor([2]), 0),
    "gradient only": lambda y: y.detach() + 0.99 * (y - y.detach()),
}


@pytest.mark.parametrize("defect", DEFECTS.values(), ids=DEFECTS)
def test_a_wrong_layer_is_reported_and_not_timed(defect, monkeypatch):
    subject = SUBJECTS["batch"]._replace(ours=broken(defect))
    monkeypatch.setitem(SUBJECTS, "batch", subject)

    def refuse(functions, rounds):
        raise AssertionError("timed")

    row = measure(case(), options(timer=refuse))
    assert row["status"] == WRONG
    assert row["error"] > 1e-4
    assert not any(name.endswith("_ms") for name in row)


def test_where_only_the_gradient_is_wrong_the_forward_pass_is_timed(monkeypatch):
    monkeypatch.setitem(SUBJECTS, "batch", SUBJECTS["batch"]._replace(ours=broken(DEFECTS["gradient only"])))
    assert measure(case(direction="forward"), options())["status"] == OK


def test_a_layer_that_fails_says_why_and_the_sweep_can_go_on(monkeypatch):
    def no_memory(y):
        raise torch.OutOfMemoryError("tried to allocate 80 GiB\nand more")

    monkeypatch.setitem(SUBJECTS, "batch", SUBJECTS["batch"]._replace(ours=broken(no_memory)))
    row = measure(case(), options())
    assert row == {"status": FAILED, "message": "OutOfMemoryError: tried to allocate 80 GiB"}


def test_a_defect_of_the_program_is_not_swallowed(monkeypatch):
    monkeypatch.setattr(module, "make_data", lambda case, device: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        measure(case(), options())


def test_the_figures_by_hand():
    """3 reads and writes forward + backward of 4 KiB: batch-eval moves 5 x 4096 bytes; a copy moves 2 x 4096 in 2 s."""
    times = {"ours": 4.0, "native": 10.0, "copy": 2.0}
    row = measure(case("batch-eval", (4, 8, 8, 4)), options(timer=timer(times)))
    assert (row["ours_ms"], row["native_ms"], row["ratio"]) == (4000, 10_000, 2.5)
    assert row["copy_gb_per_s"] == pytest.approx(2 * 4096 / 2 / 1e9)
    assert row["gb_per_s"] == pytest.approx(5 * 4096 / 4 / 1e9)
    assert row["x_of_floor"] == pytest.approx(4 / 5)


def test_the_compiled_baseline_is_a_contestant(monkeypatch):
    seen = []

    def compile(layer, mode):
        seen.append((type(layer.inner), mode))
        return layer

    monkeypatch.setattr(torch, "compile", compile)
    row = measure(case("group"), options(compiled=("compiled", "autotuned"), timer=timer({"compiled": 3.0})))
    assert seen == [(nn.GroupNorm, None), (nn.GroupNorm, "max-autotune-no-cudagraphs")]
    assert (row["compiled_ms"], row["autotuned_ms"]) == (3000, 1000)


@pytest.mark.parametrize("backend", ["reference", "automatic"])
def test_the_backend_that_served_is_in_the_row(backend):
    from normwise import use_backend
    from normwise.backends import select

    row = measure(case(), options(backend=backend))
    expected = select(torch.zeros(2, 3)).name if backend == "automatic" else backend
    assert row["served_by"] == expected
    with use_backend("reference"):
        assert measure(case(), options())["served_by"] == "reference"


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_what_is_timed_needs_no_gradient_or_all_of_them(direction):
    one = case("group", direction=direction)
    layer, data = ours(one), make_data(one, torch.device("cpu"))
    found = step(one, layer, data)()
    if direction == "forward":
        assert not found.requires_grad
    else:
        assert [g.shape for g in found] == [data.x.shape, (8,), (8,)]


def test_kinks_do_not_decide():
    """A ReLU whose input is 0 has two gradients; the check asks for none there."""
    one = case("group", activation="relu", residual=True)
    data = make_data(one, torch.device("cpu"))
    native = baselines(one)["native"]
    with torch.no_grad():
        z = native.inner(data.x)
        data.residual[0] = -z[0]
    layer = ours(one)
    take_over(native.inner, layer)
    exact = oracle(one, native, data)
    assert (exact.grad_y[0] == 0).all()
    assert (exact.grad_y[1] != 0).float().mean() > 0.9
    assert error(one, layer, data, exact) < 1e-6


class TestAGradientOfZero:
    """One sample: the batch's statistics are the instance's, and the gate between them has no gradient."""

    ONE = case("batch-instance", (1, 8, 16, 16))

    def oracle_of(self, layer):
        data = make_data(self.ONE, torch.device("cpu"))
        randomize(layer)
        paper = baselines(self.ONE)["paper"]
        take_over(paper.inner, layer)
        return data, oracle(self.ONE, paper, data)

    def test_is_compared_with_the_size_of_its_terms(self):
        layer = ours(self.ONE)
        data, exact = self.oracle_of(layer)
        assert exact.wanted["gate"].abs().max() < 1e-12
        # Each of 8 values is a sum over 256 products of grad_y with something of the size of y.
        assert 4 < exact.sizes["gate"] < 64
        assert exact.sizes["weight"] == exact.wanted["weight"].abs().max()
        assert error(self.ONE, layer, data, exact) < 1e-6

    def test_and_a_wrong_one_is_still_wrong(self):
        class Broken(type(ours(self.ONE))):
            def forward(self, x):
                return super().forward(x) + (self.gate - self.gate.detach()).view(-1, 1, 1) * x * 1e-3

        layer = Broken(8)
        data, exact = self.oracle_of(layer)
        assert error(self.ONE, layer, data, exact) > 1e-4


def test_random_parameters_differ_from_their_first_values_and_variances_stay_positive():
    layer = ours(case("switchable", (3, 64, 5, 4)))
    randomize(layer)
    assert layer.running_var.min() >= 1
    for name, parameter in layer.named_parameters():
        assert parameter.unique().numel() == parameter.numel(), name


class TestTimer:
    def test_every_contestant_runs_in_every_round_and_medians_are_taken(self, monkeypatch):
        clock = iter(range(10**6))
        monkeypatch.setattr("normwise.bench.timing.CLOCKS", {"steps": lambda: next(clock)})
        order = []
        functions = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
        found = cpu_timer("steps")(functions, 5)
        assert found == {"a": 1, "b": 1}
        assert order == [*"ab", *"ab", *"ab", *"ba", *"ab", *"ba", *"ab"], "warm-up, repeats, and rounds that rotate"

    def test_short_functions_are_repeated_so_that_the_clock_can_see_them(self, monkeypatch):
        now = [0.0]
        monkeypatch.setattr("normwise.bench.timing.CLOCKS", {"fake": lambda: now[0]})
        calls = []

        def short():
            calls.append(1)
            now[0] += 1e-4

        found = cpu_timer("fake")({"short": short}, 5)
        assert found["short"] == pytest.approx(1e-4)
        assert len(calls) == 2 + 5 * 50 or math.isclose(len(calls), 2 + 5 * 49)

    def test_the_cpu_clock_does_not_count_waiting(self):
        import time

        found = cpu_timer("cpu")({"sleep": lambda: time.sleep(0.02)}, 1)
        assert found["sleep"] < 0.015

    def test_a_gpu_is_timed_by_events_around_each_run_with_cold_caches(self, monkeypatch):
        """Without a GPU: stand-ins for events whose clock moves when something runs."""
        now, order = [0.0], []

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.time = now[0]

            def elapsed_time(self, end):
                return end.time - self.time

        class Flush:
            def zero_(self):
                order.append("flush")
                now[0] += 100

        def work():
            order.append("work")
            now[0] += 2.0

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
        monkeypatch.setattr(torch, "empty", lambda *size, **options: Flush())
        found = cuda_timer(torch.device("cuda"))({"work": work}, 3)
        assert found == {"work": pytest.approx(2e-3)}
        assert order[0] == "work", "a warm-up"
        assert order[1:] == ["flush", "work"] * (len(order) // 2)
