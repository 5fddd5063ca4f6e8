"""The choice follows the tuning, at every size and in both directions, and says so."""

import pytest
import torch
from marks import needs_kernels

import normwise as nw
from normwise import backends
from normwise.backends.tunings import Tuning, stored
from normwise.operations.ways import along_dense_rows, by_graph, by_kernels, by_torch, choosing, plain
from normwise.tuning.contests import contests
from normwise.tuning.measuring import steps_of

pytestmark = needs_kernels
IMAGES = torch.randn(2, 8, 8, 8)
LAYERS = {
    "batch": (nw.BatchNorm2d(8), IMAGES),
    "known statistics": (nw.BatchNorm2d(8).eval(), IMAGES),
    "instance": (nw.InstanceNorm2d(8), IMAGES),
    "rows": (nw.LayerNorm(8), torch.randn(64, 8)),
    "rows, root mean square": (nw.RMSNorm(8), torch.randn(64, 8)),
    "pixels": (nw.LayerNorm2d(8), IMAGES),
    "pixels, root mean square": (nw.RMSNorm2d(8), IMAGES),
}


@pytest.fixture
def hold(monkeypatch):
    """Let a ratio hold for every contest, of one direction or both."""

    def hold(ratio, graphs=(False, True), threads=None):
        cells = {(c.operation, c.layout, graph): {10: ratio} for c in contests("cpu") for graph in graphs}
        held = {
            ("cpu", element, count): Tuning("cpu", "", "x86-64-v3", element, count, "", "2026-11-30", cells)
            for element in stored.CONTESTED
            for count in ([torch.get_num_threads()] if threads is None else [threads])
        }
        monkeypatch.setattr(stored, "_held", held)
        monkeypatch.setattr(choosing, "_kept", {})

    return hold


def explained(layer, x, **options):
    (found,) = nw.explain_way(layer, x, **options)
    return found


def test_every_contest_of_the_cpu_is_here():
    assert {contest.operation for contest in contests("cpu")} == set(LAYERS)


@pytest.mark.parametrize("name", LAYERS)
def test_the_faster_one_is_the_way(name, hold):
    layer, x = LAYERS[name]
    hold(0.5)
    found = explained(layer, x)
    assert found.way == by_torch.OverPools.name
    assert "0.50 times a kernel's time" in found.because
    assert str(found).startswith("torch's operator, by the tuning measured on this machine (2026-11-30, fp32")
    hold(1.5)
    found = explained(layer, x)
    assert found.way.startswith(by_kernels.OverPools.name)
    assert found.because == ""
    assert any("1.50 times a kernel's time" in reason for reason in found.reasons)


@pytest.mark.parametrize("name", LAYERS)
def test_both_ways_give_the_same(name, hold):
    """In fp64 the two differ by roundings alone; values, gradients of x and of the parameters."""
    layer, x = LAYERS[name]
    layer, found = layer.double(), []
    for ratio in (0.5, 1.5):
        hold(ratio)
        leaf = x.double().requires_grad_()
        y = layer(leaf)
        grads = torch.autograd.grad(
            y, [leaf, *layer.parameters()], torch.linspace(-1, 1, y.numel()).view_as(y).double()
        )
        found.append((y, *grads))
    layer.float()
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_each_direction_has_its_own(hold):
    layer, x = LAYERS["rows"]
    hold(0.5, graphs=[True])
    assert explained(layer, x).way == "torch's operator"
    with torch.no_grad():
        found = explained(layer, x)
    assert found.way.startswith("one kernel each way")
    assert "no speed was measured for rows of torch.float32, contiguous" in found.reasons[1]


@pytest.mark.parametrize(
    ("layer", "x", "options"),
    [
        (nw.LayerNorm(8, activation="gelu"), torch.randn(64, 8), {}),
        (nw.LayerNorm(8), torch.randn(64, 8), {"residual": torch.randn(64, 8)}),
        (nw.InstanceNorm2d(8), IMAGES, {"residual": IMAGES.clone()}),
        (nw.LayerNorm(8).bfloat16(), torch.randn(64, 8).bfloat16(), {}),
        (nw.LayerNorm(8), torch.randn(64, 8).bfloat16(), {}),
        (nw.GroupNorm(2, 8), IMAGES, {}),
        (nw.BatchNorm2d(8), IMAGES.contiguous(memory_format=torch.channels_last), {}),
    ],
    ids=["activation", "residual", "planes' residual", "bf16", "mixed", "groups", "batch, channels_last"],
)
def test_what_is_no_contest_goes_by_the_kernels(layer, x, options, hold):
    hold(0.5)
    assert explained(layer, x, **options).way.startswith("one kernel each way")


def test_a_chosen_backend_a_mask_and_a_transform_do_not_ask(hold):
    hold(0.5)
    layer, x = LAYERS["instance"]
    with nw.use_backend("cpu"):
        assert explained(layer, x).way == by_kernels.OverPools.name
    assert explained(layer, x, mask=torch.ones(2, 8, 8, dtype=torch.bool)).way == by_graph.ByFormula.name


def test_another_number_of_threads_is_another_kind(hold):
    layer, x = LAYERS["rows"]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        hold(0.5, threads=1)
        stored._held["cpu", "fp32", 2] = stored._held["cpu", "fp32", 1]._replace(ratios={})
        layer(x)
        torch.set_num_threads(2)
        layer(x)
        torch.set_num_threads(1)
        layer(x)
        assert sorted(type(way).__module__ for kept in choosing._kept.values() for _, way in kept) == [
            along_dense_rows.__name__,
            by_torch.__name__,
        ]
    finally:
        torch.set_num_threads(before)


def test_a_gpu_without_a_tuning_has_torchs_operators(monkeypatch):
    """And with one the kernels where they were ahead: by what `select` and the formula's way make of it."""
    x = torch.randn(2, 8, 8, 8)
    fake = type(
        "OnGpu", (), {"is_cuda": True, "is_cpu": False, "device": "cuda:0", "dtype": x.dtype, "numel": x.numel}
    )()
    monkeypatch.setattr(backends.triton_kernels, "serves", lambda x: True)
    monkeypatch.setattr(backends.cpu, "serves", lambda x: False)
    monkeypatch.setattr(stored, "on_gpu", lambda device, element: None)
    assert backends.select(fake) is backends.reference
    ratios = {("formula", "contiguous", graph): {12: 2.0, 20: 0.5} for graph in (False, True)}
    tuned = Tuning("cuda", "A GPU", "compute capability 9.0", "fp32", 0, "", "2026-11-30", ratios)
    monkeypatch.setattr(stored, "on_gpu", lambda device, element: tuned)
    assert backends.select(fake) is backends.triton_kernels


#: A mean of 1000 deviations: the values themselves are rounded to 2^-14 of a deviation.
ROUNDING = 2**-14


@pytest.mark.parametrize("contest", contests("cpu"), ids=lambda contest: f"{contest.operation}, {contest.layout}")
def test_torchs_operator_keeps_the_digits_that_the_values_have(contest, hold):
    """What makes it a contestant on the CPU: far from zero its error is no larger than the rounding of its input."""
    request = contest.request(14, torch.device("cpu"), torch.float32, graph=True)
    x = (request.x.detach() + 1000).requires_grad_()
    known = request.known
    if known is not None:
        known = known._replace(mean=torch.full_like(known.mean, 1000))
    request = request._replace(x=x, known=known)
    exact = request._replace(
        x=x.detach().double().requires_grad_(),
        parameters=tuple(None if p is None else p.detach().double().requires_grad_() for p in request.parameters),
        known=None if known is None else known._replace(mean=known.mean.double(), var=known.var.double()),
    )
    grad_y = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    found = []
    for one in (request, exact):
        way = by_torch.bind(one, choosing.context_of(one)) if one is request else plain.Plainly()
        y = way.run(one)[0]
        leaves = [t for t in (one.x, *one.parameters) if t is not None]
        found.append((y, *torch.autograd.grad(y, leaves, grad_y.to(y.dtype))))
    assert steps_of(request, graph=True) is not None
    for ours, want in zip(*found, strict=True):
        error = (ours - want).abs().max() / want.abs().max()
        assert error < 4 * ROUNDING
