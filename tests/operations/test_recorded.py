"""Recorded formulas give what autograd gives operator by operator, for every formula of the package."""

from __future__ import annotations

import importlib
import inspect
import logging
import math
import threading
from functools import partial
from typing import ClassVar

import pytest
import torch
from marks import needs_kernels
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import normwise as nw
from normwise.backends import cpu
from normwise.core import formulas
from normwise.core.formulas import RenormTarget
from normwise.core.moments import Moments
from normwise.operations.formula import recorded
from normwise.operations.formula.lowering import Lowering, NotRecordableError
from normwise.operations.formula.recording import Recording, aten
from normwise.operations.ways import by_graph, choosing, plain

pytestmark = needs_kernels

C = 6


@pytest.fixture(autouse=True)
def by_the_formula(monkeypatch):
    """Also what one kernel standardizes goes the way of all formulas here."""
    monkeypatch.setattr(choosing, "WAYS", (by_graph.bind, plain.bind))


def _known(dtype=torch.float64):
    return Moments(torch.linspace(-1, 1, C, dtype=dtype)[None], torch.linspace(0.5, 2, C, dtype=dtype)[None], 1)


#: Every formula of `core.formulas` that has options, with those of them that lead another way.
FORMULAS = {
    "batch": partial(formulas.batch_norm, eps=1e-5),
    "ghost": partial(formulas.ghost_batch_norm, ghost_size=2, eps=1e-5),
    "layer": partial(formulas.layer_norm, eps=1e-5),
    "instance": partial(formulas.instance_norm, eps=1e-5),
    "group": partial(formulas.group_norm, groups=3, eps=1e-5),
    "renorm": partial(formulas.batch_renorm, target=RenormTarget(*_known()[:2], 1.5, 0.5), eps=1e-5),
    "renorm, tensors": partial(
        formulas.batch_renorm,
        target=RenormTarget(*_known()[:2], torch.tensor(1.5).double(), torch.tensor(0.5).double()),
        eps=1e-5,
    ),
    "switchable": partial(formulas.switchable_norm, branches=("instance", "layer", "batch"), eps=1e-5),
    "switchable, known": partial(formulas.switchable_norm, branches=("layer", "batch"), eps=1e-5, known=_known()),
    "batch instance": partial(formulas.batch_instance_norm, eps=1e-5),
    "batch instance, known": partial(formulas.batch_instance_norm, eps=1e-5, known=_known()),
    "root mean square": partial(formulas.rms_norm, eps=1e-6),
    "response": partial(formulas.filter_response_norm, eps=1e-6),
    "evo b0": partial(formulas.evo_norm_b0, eps=1e-5),
    "evo b0, known": partial(formulas.evo_norm_b0, eps=1e-5, known=_known()),
    "evo s0": partial(formulas.evo_norm_s0, groups=2, eps=1e-5),
    "global response": partial(formulas.global_response_norm, eps=1e-6),
}
EXTRA = {"switchable": 2, "batch instance": 1, "response": 1, "evo b0": 1, "evo s0": 1}


def test_the_table_has_every_formula():
    written = {
        function
        for function in vars(formulas).values()
        if inspect.isfunction(function) and next(iter(inspect.signature(function).parameters)) == "moments"
    }
    # Of rows and pixels, which have kernels of their own.
    rows = {
        getattr(formulas, f"{name}_norm") for name in ("modulated_layer", "modulated_rms", "gated_rms", "positional")
    }
    assert written - {formulas._power} - rows == {formula.func for formula in FORMULAS.values()}


def parameters_of(name, dtype=torch.float32):
    kind = name.partition(",")[0]
    found = [torch.randn(C), torch.randn(C)]
    if kind == "switchable":
        found += [torch.randn(2 if "known" in name else 3) for _ in range(2)]
    else:
        found += [torch.rand(C) for _ in range(EXTRA.get(kind, 0))]
    return [p.to(dtype).requires_grad_() for p in found]


def both_ways(monkeypatch, run):
    """What ``run`` gives by the recorded formula, whose use is checked, and by autograd."""
    used = []
    with monkeypatch.context() as patch, nw.use_backend("cpu"):
        real = by_graph.recorded_run

        def watched(*args, **options):
            used.append(real(*args, **options))
            return used[-1]

        patch.setattr(by_graph, "recorded_run", watched)
        mine = run()
        assert used, "the general path was not taken"
        assert None not in used, "not recorded"
        patch.setattr(by_graph, "recorded_run", lambda *_, **__: None)
        return mine, run()


def assert_same(mine, other, dtype):
    tolerance = {torch.float64: 1e-11, torch.float32: 2e-5}.get(dtype, 1e-2)
    for a, b in zip(mine, other, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            largest = b.detach().double().abs().max().item()
            torch.testing.assert_close(a.double(), b.double(), rtol=tolerance, atol=tolerance * max(largest, 1.0))


def values_and_gradients(name, x, parameters, **options):
    y, table = nw.normalize_and_measure(x, FORMULAS[name], *parameters, **options)
    wanted = [t for t in (x, options.get("residual"), *parameters) if t is not None and t.requires_grad]
    torch.manual_seed(1)
    grads = torch.autograd.grad(y, wanted, torch.randn_like(y), allow_unused=True) if wanted else ()
    count = [table.count] if isinstance(table.count, torch.Tensor) else [torch.tensor(table.count)]
    return [y, table.mean, table.var, *count, *grads]


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("way", ["plain", "offset", "masked", "last", "moments", "one"])
def test_every_formula_is_recorded_and_gives_the_same(name, dtype, way, monkeypatch):
    torch.manual_seed(0)
    x = torch.randn(1 if way == "one" else 5, C, 3, 4)
    x = (x + 1000 if way == "offset" and dtype != torch.bfloat16 else x).to(dtype)
    options = {}
    if way == "last":
        x = x.to(memory_format=torch.channels_last)
        options = {"residual": torch.randn_like(x).requires_grad_(), "activation": "silu"}
    if way == "masked":
        options["mask"] = torch.rand(5, 3, 4) > 0.4
    if way == "moments":
        options["moments"] = _known()
    x.requires_grad_()
    mine, other = both_ways(monkeypatch, lambda: values_and_gradients(name, x, parameters_of_(name, dtype), **options))
    assert_same(mine, other, dtype)


def parameters_of_(name, dtype):
    torch.manual_seed(2)
    return parameters_of(name, dtype)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("needs", ["nothing", "only x", "only parameters", "one parameter"])
def test_only_the_gradients_that_are_wanted(name, needs, monkeypatch):
    torch.manual_seed(0)
    x = torch.randn(4, C, 5).requires_grad_(needs == "only x")
    parameters = parameters_of(name)
    for i, p in enumerate(parameters):
        p.requires_grad_(needs == "only parameters" or (needs == "one parameter" and i == 0))
    mine, other = both_ways(monkeypatch, lambda: values_and_gradients(name, x, parameters))
    assert_same(mine, other, torch.float32)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("kinds", [(torch.float32, torch.float64), (torch.bfloat16, torch.float32)], ids=str)
def test_parameters_wider_than_the_input(name, kinds, monkeypatch):
    torch.manual_seed(0)
    x = torch.randn(64, C, 5).to(kinds[0]).requires_grad_()
    parameters = parameters_of_(name, kinds[1])
    mine, other = both_ways(monkeypatch, lambda: values_and_gradients(name, x, parameters))
    assert_same(mine, other, kinds[0])


def test_without_parameters_and_with_those_that_are_views(monkeypatch):
    x = torch.randn(4, C, 5).requires_grad_()
    table = torch.randn(2, 2 * C, requires_grad=True)
    for parameters in ((None, None), (table[0, ::2], None), (None, table[1, 1::2])):
        mine, other = both_ways(monkeypatch, lambda p=parameters: [nw.normalize(x, FORMULAS["group"], *p)])
        assert_same(mine, other, torch.float32)


def test_what_changes_between_calls_is_not_kept():
    torch.manual_seed(0)
    x = torch.randn(4, C, 5)
    with nw.use_backend("cpu"):
        for shift in (0.0, 3.0):
            known = Moments(torch.full((1, C), shift).double(), torch.ones(1, C).double(), 1)
            formula = partial(formulas.batch_instance_norm, eps=0.0, known=known)
            y = nw.normalize(x, formula, None, None, torch.ones(C))
            torch.testing.assert_close(y, x - shift)


@pytest.mark.parametrize("name", FORMULAS)
def test_the_size_of_the_planes_is_no_part_of_a_kind(name, monkeypatch):
    monkeypatch.setattr(recorded, "_kinds", {})
    parameters = parameters_of_(name, torch.float32)
    for size in (7, 1, 12, 2, 30):
        torch.manual_seed(size)
        x = torch.randn(5, C, size, requires_grad=True)
        mine, other = both_ways(monkeypatch, lambda x=x: values_and_gradients(name, x, parameters))
        assert_same(mine, other, torch.float32)
    assert len(recorded._kinds) == 2  # planes of one value may be something else


@pytest.mark.parametrize("way", ["moments", "constant"])
def test_given_statistics_may_not_change_before_the_backward(way):
    x = torch.randn(4, C, 5, requires_grad=True)
    known = _known()
    formula = partial(formulas.batch_instance_norm, eps=0.0, known=known)
    with nw.use_backend("cpu"):
        if way == "constant":
            y = nw.normalize(x, formula, None, None, torch.ones(C))
        else:
            y = nw.normalize(x, FORMULAS["batch"], None, None, moments=known)
    known.var.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_formulas_of_others_are_run_each_time():
    state = {"scale": 1.0}

    def scaled(moments):
        return nw.Affine(0.0, torch.full_like(moments.mean, state["scale"]), 0.0)

    x = torch.randn(2, C, 5)
    with nw.use_backend("cpu"):
        torch.testing.assert_close(nw.normalize(x, scaled), x)
        state["scale"] = 2.0
        torch.testing.assert_close(nw.normalize(x, scaled), 2 * x)
        torch.testing.assert_close(nw.normalize(x, partial(scaled)), 2 * x)


def test_an_operation_without_an_instruction_is_said_once_and_served_by_autograd(monkeypatch, caplog):
    x, weight = torch.randn(3, C, 7).requires_grad_(), torch.randn(C).requires_grad_()
    monkeypatch.setattr(recorded, "_kinds", {})
    formula = partial(formulas.instance_norm, eps=1e-5)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "normwise"), nw.use_backend("cpu"):
        patch.setattr(importlib.import_module("normwise.operations.formula.lowering"), "_ELEMENTWISE", {})
        found = [nw.normalize(x, formula, weight, None) for _ in range(2)]
    torch.testing.assert_close(found[0], torch.nn.functional.instance_norm(x, weight=weight, bias=torch.zeros(C)))
    torch.testing.assert_close(*found)
    assert len([r for r in caplog.records if "instance_norm runs operator by operator" in r.message]) == 1


def test_kinds_are_not_kept_without_end(monkeypatch):
    monkeypatch.setattr(recorded, "_kinds", {})
    monkeypatch.setattr(recorded, "_MOST_KINDS", 4)
    with nw.use_backend("cpu"):
        for samples in range(1, 12):
            nw.normalize(torch.randn(samples, C, 3), FORMULAS["layer"], None, None)
            assert 1 <= len(recorded._kinds) <= 4


@pytest.mark.parametrize("name", ["batch-instance", "switchable", "renorm", "evo-b0"])
def test_a_checkpoint_recomputes_the_first_call(name, monkeypatch):
    monkeypatch.setattr(recorded, "_kinds", {})
    torch.manual_seed(0)
    layer, x = nw.make_norm(name, C), torch.randn(4, C, 3, 3, requires_grad=True)
    state = {key: t.clone() for key, t in layer.state_dict().items()}
    found = []
    for run in (lambda: checkpoint(layer, x, use_reentrant=False), lambda: layer(x)):
        layer.load_state_dict(state)
        with nw.use_backend("cpu"):
            y = run()
            found.append(torch.autograd.grad(y.square().sum(), [x, *layer.parameters()], allow_unused=True))
    assert_same(*found, torch.float32)


def test_the_first_call_by_several_threads_at_once(monkeypatch):
    monkeypatch.setattr(recorded, "_kinds", {})
    torch.manual_seed(0)
    x, parameters = torch.randn(4, C, 9), parameters_of("switchable")
    found, failed = [], []

    def work():
        try:
            with nw.use_backend("cpu"):
                found.append(nw.normalize(x, FORMULAS["switchable"], *parameters))
        except Exception as error:
            failed.append(error)

    workers = [threading.Thread(target=work) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failed
    assert len(found) == 6
    assert all(torch.equal(y, found[0]) for y in found)


def test_somebody_elses_dispatch_mode_sees_the_operations():
    """A kernel would be opaque to it: under `make_fx` the graph would hold memory that nobody wrote."""

    class Counting(TorchDispatchMode):
        seen: ClassVar[list] = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.seen.append(func)
            return func(*args, **(kwargs or {}))

    x, parameters = torch.randn(4, C, 9, requires_grad=True), parameters_of("batch instance")
    expected = values_and_gradients("batch instance", x, parameters)
    with Counting() as counting:
        found = values_and_gradients("batch instance", x, parameters)
    assert torch.ops.aten.rsqrt.default in counting.seen
    assert_same(found, expected, torch.float32)


def lower(calls, inputs, outputs):
    lowering = Lowering(inputs)
    lowering.take(calls)
    return lowering.program(inputs, outputs)


OPERATIONS = {
    "arithmetic": lambda a, b: (a + b, a - b, a * b, a / b, a + 2, 3 - a, a * 0.5, a / 4, -a, 1 / a),
    "alone": lambda a, b: (a.abs(), a.abs().sqrt(), a.square().rsqrt(), a.exp(), a.sign(), a**2, a**3, b.abs() ** 1.5),
    "clamped": lambda a, b: (a.clamp(-0.5, 0.5), a.clamp_min(0.1), a.clamp(b - 1, b + 1), a.clamp(max=0.2)),
    "chosen": lambda a, b: (
        torch.where(a > b, a, b),
        torch.where(a <= 0, 0, b),
        torch.where((a < b) & (a >= 0), a, -b),
    ),
    "masked": lambda a, b: (a.masked_fill((a == a) & (b > 0), 0), a.masked_fill((a < 0) | (b < 0), 2.0)),
    "sums": lambda a, b: (a.sum(), a.sum(0), a.sum(1, keepdim=True), a.mean((0, 1)), a.mean(-1), b.sum((0, 1), True)),
    "softmax": lambda a, b: (a.softmax(0), (a * b).softmax(-1).unbind(0)[1]),
    "shapes": lambda a, b: (a.T * 2, a.unflatten(1, (2, 2)).mean(1), a[1:] * b[:-1], a.expand(2, -1, -1).flatten(0, 1)),
    "joined": lambda a, b: (torch.stack([a, b]).mean(0), torch.cat([a, b[:1]]).sum(0)),
    "new": lambda a, b: (a.float().double() * 3, b.to(torch.float64).clone(), a.new_zeros(2) + 1, a.new_full((2,), 7)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_instructions_do_what_the_operations_do(name):
    torch.manual_seed(0)
    special = torch.tensor([math.nan, math.inf, -math.inf, 0.0])
    for values in (torch.randn(2, 3, 4), torch.cat([torch.randn(2, 2, 4), special.repeat(2, 1, 1)], 1)):
        a, b = (t.double().clone().requires_grad_() for t in values)
        with Recording() as recording:
            outputs = OPERATIONS[name](a, b)
            total = torch.stack([o.sum() for o in outputs]).sum()
            grads = torch.autograd.grad(total, [a, b], allow_unused=True)
        expected = [t.detach() for t in (*outputs, *grads) if t is not None]
        program = lower(recording.calls, [a, b], expected)
        found = [torch.empty(t.shape, dtype=t.dtype) for t in expected]
        cpu.run(program, torch.float32, [a.detach(), b.detach()], found)
        for mine, right in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, right, rtol=1e-12, atol=1e-12, equal_nan=True)


def test_what_cannot_be_lowered_says_what_it_is():
    a, hidden = torch.randn(3, 3).double(), torch.randn(3, 3).double()
    for operation, message in ((lambda: a @ a, "mm"), (lambda: a.argmax(), "argmax"), (lambda: a + hidden, "before")):
        with Recording() as recording:
            y = operation()
        with pytest.raises(NotRecordableError, match=message):
            lower(recording.calls, [a], [y])


def test_places_are_used_again():
    a = torch.randn(100).double()
    with Recording() as recording:
        y = a
        for _ in range(50):
            y = y * 1.01 + 1
    program = lower(recording.calls, [a], [y])
    assert len(program.instructions) == 101  # and the output's copy
    assert program.size <= 5 * 100 + len(program.constants)


def test_what_nothing_depends_on_is_left_out():
    a = torch.randn(7).double()
    with Recording() as recording:
        unused = a.exp().sum()
        y = aten.mul.Tensor(a, 2.0)
    assert [i.operation for i in lower(recording.calls, [a], [y]).instructions] == ["mul", "copy"]
    assert "exp" in [i.operation for i in lower(recording.calls, [a], [unused]).instructions]
