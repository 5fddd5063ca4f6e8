"""`watch` during training: every so-many-th step as it is, nothing in between, nothing left behind."""

import copy
import csv
import sys

import pytest
import signal_nets as nets
import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack

import normwise as nw


class Log(list):
    def __call__(self, step, trace):
        self.append((step, trace))

    @property
    def steps(self):
        return [step for step, _ in self]


def step(model, batch, optimizer=None):
    loss = model(batch).square().mean()
    loss.backward()
    if optimizer is not None:
        optimizer.step()
        optimizer.zero_grad()
    return loss


def hooks_of(model):
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]


def test_the_training_step_itself():
    """The numbers are those of the step, after the updates so far: the trace of a copy in the same state."""
    log, batch = Log(), torch.randn(8, 3, 8, 8).double()
    model = nets.NormFreeNet().double()
    for block in model.blocks:
        block.stochastic_depth.p = 0.0
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    states = []
    with nw.watch(model, log, every=2, histograms=True):
        for _ in range(5):
            states.append(copy.deepcopy(model.state_dict()))
            step(model, batch, optimizer)
    assert log.steps == [0, 2, 4]
    for number, watched in log:
        twin = nets.NormFreeNet().double()
        twin.load_state_dict(states[number])
        expected = nw.trace(twin, batch, backward=True, histograms=True, forward=lambda m, x: m(x).square().mean())
        assert len(watched.taps) == len(expected.taps)
        for a, b in zip(watched.taps, expected.taps, strict=True):
            assert (a.name, a.kind, a.type, a.shape) == (b.name, b.kind, b.type, b.shape)
            assert a.variance == pytest.approx(b.variance, rel=1e-12)
            assert a.squared_mean == pytest.approx(b.squared_mean, rel=1e-12)
            assert a.gradient == pytest.approx(b.gradient, rel=1e-12)
            assert a.histogram == b.histogram
        assert watched.input == f"step {number}"


def test_training_is_the_same_with_and_without():
    """Bit for bit: losses, weights, buffers, and the random numbers after it."""

    def train(watched):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.3))
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        watch = nw.watch(model, Log(), every=1, histograms=True) if watched else None
        losses = [step(model, torch.randn(4, 3, 8, 8), optimizer) for _ in range(4)]
        if watch is not None:
            watch.close()
            assert hooks_of(model) == [0] * 5
        return [*losses, *model.state_dict().values(), torch.get_rng_state()]

    for a, b in zip(train(True), train(False), strict=True):
        assert torch.equal(a, b)


def test_between_the_logged_steps_there_is_nothing():
    model, log = nets.ResNet(), Log()
    watch = nw.watch(model, log, every=100)
    step(model, torch.randn(2, 3, 16, 16))
    assert hooks_of(model) == [2] + [0] * (len(hooks_of(model)) - 1)
    seen = []
    model.conv1.register_forward_hook(lambda *_: seen.append(len(_get_current_function_mode_stack())))
    step(model, torch.randn(2, 3, 16, 16))
    assert seen == [0]
    watch.close()
    assert len(log) == 1


def test_evaluation_is_not_watched():
    model, log = nets.ResNet(), Log()
    with nw.watch(model, log, every=1):
        model.eval()(torch.randn(2, 3, 16, 16))
        nw.trace(model.train(), (2, 3, 16, 16))
        step(model, torch.randn(2, 3, 16, 16))
    assert log.steps == [0]


def test_a_step_without_backward_pass():
    model, log = nn.Sequential(nn.Linear(3, 3)), Log()
    with nw.watch(model, log, every=1):
        with torch.no_grad():
            model(torch.randn(4, 3))
        assert log.steps == [0]
        model(torch.randn(4, 3))
        assert log.steps == [0], "its backward pass may still come"
        model(torch.randn(4, 3)).sum().backward()
        assert log.steps == [0, 1, 2]
        model(torch.randn(4, 3))
    assert log.steps == [0, 1, 2, 3]
    assert [trace.layers[0].gradient is None for _, trace in log] == [True, True, False, True]


def test_two_forward_passes_and_one_backward_pass():
    """As a discriminator trains: the later of two logged passes has the gradients, and none is lost."""
    model, log = nn.Sequential(nn.Linear(3, 1)), Log()
    with nw.watch(model, log, every=2):
        (model(torch.randn(4, 3)) - model(torch.randn(4, 3))).mean().backward()
    assert log.steps == [0]
    assert log[0][1].layers[0].gradient == pytest.approx(1 / 16)


def test_errors_in_forward():
    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)
            self.error = None

        def forward(self, x):
            x = self.layer(x)
            if self.error is not None:
                raise self.error
            return x

    model, log = Breaks(), Log()
    with nw.watch(model, log, every=1):
        model.error = RuntimeError("half-way")
        with pytest.raises(RuntimeError, match="half-way"):
            model(torch.randn(2, 3))
        assert _get_current_function_mode_stack() == []
        assert hooks_of(model) == [2, 0]
        model.error = KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):
            model(torch.randn(2, 3))
        model.error = None
        step(model, torch.randn(2, 3))
        assert hooks_of(model) == [2, 0]
        model.error = KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):
            model(torch.randn(2, 3))
    assert _get_current_function_mode_stack() == []
    assert hooks_of(model) == [0, 0]
    assert log.steps == [2]


def test_an_interrupted_step_is_over_at_the_next():
    class Interrupted(nn.Module):
        def forward(self, x):
            seen.append(len(_get_current_function_mode_stack()))
            if len(seen) == 1:
                raise KeyboardInterrupt
            return x

    seen, log, model = [], Log(), Interrupted()
    with nw.watch(model, log, every=3):
        with pytest.raises(KeyboardInterrupt):
            model(torch.ones(2, 3))
        for _ in range(3):
            model(torch.ones(2, 3))
    assert seen == [1, 0, 0, 1]
    assert log.steps == [3]


def test_copies_of_a_watched_model():
    model, log = nets.ResNet(), Log()
    with nw.watch(model, log, every=1):
        twin = copy.deepcopy(model)
        step(twin, torch.randn(2, 3, 16, 16))
        assert log == []
        step(model, torch.randn(2, 3, 16, 16))
        assert log.steps == [0]


def test_compiled_models():
    graphs = []

    def backend(graph, example):
        graphs.append(graph)
        return graph.forward

    model, log = nets.NormFreeNet(), Log()
    compiled = torch.compile(model, backend=backend)
    with nw.watch(compiled, log, every=3):
        for i in range(7):
            step(compiled, torch.randn(2, 3, 8, 8))
            if i == 1:
                count = len(graphs)
    assert count > 0
    assert len(graphs) == count, "a logged step does not make the next one compile again"
    assert log.steps == [0, 3, 6]
    assert [tap.name for tap in log[0][1].blocks] == ["blocks.0", "blocks.1", "blocks.2"]
    assert log[1][1].blocks[0].gradient > 0
    model.compile(backend=backend)
    with pytest.raises(TypeError, match=r"compiled in place; use model = torch.compile\(model\)"):
        nw.watch(model, log)


def test_distributed_data_parallel(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped, log = nn.parallel.DistributedDataParallel(nets.ResNet()), Log()
        with nw.watch(wrapped, log, every=2):
            for _ in range(3):
                step(wrapped, torch.randn(2, 3, 16, 16))
        assert log.steps == [0, 2]
        assert [tap.name for tap in log[0][1].blocks] == ["layer1.0", "layer1.1", "layer2.0", "layer2.1"]
        assert all(tap.gradient is not None for tap in log[0][1].taps)
        assert all(p.grad is not None for p in wrapped.parameters())
    finally:
        torch.distributed.destroy_process_group()


def test_a_recomputed_forward_pass_is_not_seen_twice():
    class Checkpointed(nets.NormFreeNet):
        def forward(self, x):
            x = torch.utils.checkpoint.checkpoint(self.blocks, self.stem(x), use_reentrant=False)
            return self.fc(x.mean((2, 3)))

    model, log = Checkpointed(), Log()
    with nw.watch(model, log, every=1):
        step(model, torch.randn(2, 3, 8, 8))
    assert len(log) == 1
    assert len(log[0][1].blocks) == 3
    assert all(tap.gradient is not None for tap in log[0][1].taps)


def test_named_taps():
    model, log = nn.Sequential(nn.Linear(3, 3), nn.ReLU()), Log()
    with nw.watch(model, log, taps={"1": "0"}):
        step(model, torch.randn(4, 3))
    assert [tap.name for tap in log[0][1].blocks] == ["1"]


def test_csv(tmp_path):
    path = tmp_path / "logs" / "signal.csv"
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    for _ in range(2):  # a second run continues the file
        with nw.watch(model, path, every=2):
            for _ in range(3):
                step(model, torch.randn(4, 3))
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["0", "0", "2", "2"] * 2
    assert float(rows[1]["gradient"]) > 0
    assert rows[1]["shape"] == "4×3"
    path.write_text("a,b\n")
    with pytest.raises(ValueError, match=r"signal.csv has other columns \(a, b\)"):
        nw.watch(model, path)
    assert hooks_of(model) == [0, 0, 0]


class Writer:
    """The two methods of a SummaryWriter that are used."""

    def __init__(self):
        self.scalars, self.histograms, self.closed = {}, {}, False

    def add_scalar(self, tag, value, step):
        self.scalars[tag, step] = value

    def add_histogram_raw(self, tag, **values):
        self.histograms[tag, values["global_step"]] = values

    def close(self):
        self.closed = True


def test_tensorboard():
    model, writer = nets.NormFreeNet(), Writer()
    with nw.watch(model, writer, every=1, histograms=True):
        step(model, torch.randn(2, 3, 8, 8))
    assert not writer.closed, "the caller's own"
    assert writer.scalars["blocks/variance/blocks.0", 0] > 0
    assert writer.scalars["branches/squared_mean/blocks.2", 0] >= 0
    assert writer.scalars["layers/gradient/fc", 0] > 0
    histogram = writer.histograms["layers/histogram/fc", 0]
    assert histogram["num"] == 8 == sum(histogram["bucket_counts"])
    assert len(histogram["bucket_limits"]) == len(histogram["bucket_counts"])
    assert histogram["min"] < histogram["max"] == histogram["bucket_limits"][-1]


def test_tensorboard_files(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = nn.Sequential(nn.Linear(3, 3))
    with nw.watch(model, tmp_path / "run", every=1, histograms=True):
        step(model, torch.randn(4, 3))
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert events.Scalars("layers/variance/0")[0].value > 0
    assert events.Histograms("layers/histogram/0")[0].histogram_value.num == 12


def test_tensorboard_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    with pytest.raises(ImportError, match=r"needs the package tensorboard; install it, or pass the path of a .csv"):
        nw.watch(nn.Linear(3, 3), tmp_path / "run")


@pytest.mark.parametrize("every", [0, -1, 2.5, None])
def test_intervals_that_are_none(every):
    with pytest.raises(ValueError, match="must be a positive integer"):
        nw.watch(nn.Linear(3, 3), Log(), every=every)


def test_wrong_arguments():
    with pytest.raises(TypeError, match=r"watch\(to=...\) takes a function .* received int"):
        nw.watch(nn.Linear(3, 3), 3)
    with pytest.raises(TypeError, match="watch cannot observe the replicas of DataParallel"):
        nw.watch(nn.DataParallel(nn.Linear(3, 3)), Log())
    with pytest.raises(ValueError, match="has no module 'x'"):
        nw.watch(nn.Linear(3, 3), Log(), taps=["x"])
    with pytest.raises(TypeError, match=r"watch expects a torch.nn.Module, received str"):
        nw.watch("model", Log())


def test_a_watched_model_is_saved_and_copied_without_the_watch(tmp_path):
    model, log = nn.Sequential(nn.Linear(3, 3), nn.ReLU()), Log()
    with nw.watch(model, log, every=1):
        step(model, torch.randn(4, 3))
        torch.save(model, tmp_path / "model.pt")
        others = [torch.load(tmp_path / "model.pt", weights_only=False), copy.deepcopy(model)]
        assert b"normwise" not in (tmp_path / "model.pt").read_bytes(), "who loads it needs no normwise"
        x = torch.randn(4, 3)
        for other in others:
            assert torch.equal(other(x), model.eval()(x))
            step(other.train(), x)
        step(model.train(), x)
    assert log.steps == [0, 1]
    assert hooks_of(model) == [0, 0, 0]


CONVERSIONS = {
    "export": lambda net, x: torch.export.export(net, (x,)),
    "strict export": lambda net, x: torch.export.export(net, (x,), strict=True),
    "compile": lambda net, x: torch.compile(net, backend="eager")(x),
    "jit.trace": lambda net, x: torch.jit.trace(net, x, check_trace=False),
    "fx": lambda net, x: torch.fx.symbolic_trace(net)(x),
    "grad": lambda net, x: torch.func.grad(lambda x: net(x).sum())(x),
    "vmap": lambda net, x: torch.vmap(net)(x[None]),
}


@pytest.mark.filterwarnings("ignore")  # of torch.jit
@pytest.mark.parametrize("name", CONVERSIONS)
def test_what_is_converted_or_transformed_is_no_step(name):
    """Of a net between two steps: neither is endangered, and the next step is counted and logged."""
    net, x, steps = nn.Sequential(nn.Linear(4, 3), nw.LayerNorm(3), nn.ReLU()), torch.randn(5, 4), []
    with nw.watch(net, lambda step, trace: steps.append((step, len(trace.taps))), every=1):
        net(x).sum().backward()
        CONVERSIONS[name](net, x)
        net(x).sum().backward()
    assert steps == [(0, 3), (1, 3)]
