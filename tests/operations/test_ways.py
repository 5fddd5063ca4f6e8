"""The one choice: which way a kind of call goes, and that a kept one serves its own kind only."""

import pytest
import torch
from marks import needs_kernels

import normwise as nw
from normwise.backends import cpu
from normwise.backends.tunings import Tuning, stored
from normwise.core import formulas, kinds
from normwise.core.bound import bound as bound_formula
from normwise.operations.context import context_of
from normwise.operations.request import Request
from normwise.operations.ways import along_rows, by_graph, by_kernels, by_torch, choosing, plain

KERNELS = cpu.unavailable() is None


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(choosing, "_kept", {})


#: torch's layer_norm is ahead for few values, kernels for many and for all else.
ROWS = {("rows", "contiguous", graph): {10: 0.5, 20: 1.5} for graph in (False, True)}


@pytest.fixture
def tuned(monkeypatch):
    one = Tuning("cpu", "", "x86-64-v3", "fp32", torch.get_num_threads(), "", "2026-11-30", ROWS)
    monkeypatch.setattr(stored, "_held", {("cpu", "fp32", one.threads): one})


@pytest.fixture
def bound(monkeypatch):
    """How often a way was bound."""
    times = []
    real = choosing.choose
    monkeypatch.setattr(choosing, "choose", lambda *a: times.append(1) or real(*a))
    return times


def way_of(layer, *inputs, **options):
    explained = nw.explain_way(layer, *inputs, **options)
    assert len(explained) == 1
    return explained[0].way


IMAGES, TOKENS = torch.randn(2, 8, 5, 5), torch.randn(2, 5, 8)
MASK = torch.ones(2, 5, 5, dtype=torch.bool)


@needs_kernels
@pytest.mark.parametrize(
    ("layer", "x", "options", "way"),
    [
        (nw.BatchNorm2d(8), IMAGES, {}, by_kernels.OverPools.name),
        (nw.BatchNorm2d(8).eval(), IMAGES, {"residual": IMAGES.clone()}, by_kernels.OverPools.name),
        (nw.GroupNorm(2, 8, activation="gelu"), IMAGES, {}, by_kernels.OverPools.name),
        (nw.InstanceNorm2d(8, track_running_stats=True), IMAGES, {}, by_kernels.OverPools.name),
        (nw.InstanceNorm2d(8, track_running_stats=True).eval(), IMAGES, {}, by_kernels.OverPools.name),
        (nw.GroupNorm(2, 8), IMAGES, {}, by_kernels.OverPools.name),
        (nw.GroupNorm(2, 8), torch.randn(8, 8, 64, 64), {}, by_kernels.OverPools.name),
        (nw.LayerNorm(8), TOKENS, {}, by_torch.AlongRows.name),
        (nw.LayerNorm(256), torch.randn(4096, 256), {}, along_rows.AlongRows.name),
        (nw.RMSNorm(8), TOKENS, {}, along_rows.AlongRows.name),
        (nw.LayerNorm2d(8), IMAGES, {}, along_rows.AlongRows.name),
        (nw.SwitchableNorm2d(8), IMAGES, {}, by_graph.ByFormula.name),
        (nw.GroupNorm(2, 8), IMAGES, {"mask": MASK}, by_graph.ByFormula.name),
        (nw.LayerNorm(8), TOKENS, {"mask": torch.ones(2, 5, 8, dtype=torch.bool)}, plain.Plainly.name),
        (nw.GroupNorm(2, 8), IMAGES[:0], {}, by_graph.ByFormula.name),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, torch.nn.Module) else None,
)
def test_the_way_of_a_layer(layer, x, options, way, tuned):
    assert way_of(layer, x, **options) == way


@needs_kernels
@pytest.mark.parametrize("name", ["batch_norm", "group_norm", "instance_norm"])
def test_a_function_goes_the_way_of_its_layer(name, bound, monkeypatch):
    taken = []
    real = by_kernels.OverPools.run
    monkeypatch.setattr(by_kernels.OverPools, "run", lambda *a: taken.append(1) or real(*a))
    extra = (2,) if name == "group_norm" else ()
    y, moments = getattr(nw.functional, name)(IMAGES, *extra)
    assert taken
    layer = {"batch_norm": nw.BatchNorm2d(8), "group_norm": nw.GroupNorm(2, 8), "instance_norm": nw.InstanceNorm2d(8)}
    torch.testing.assert_close(y, layer[name](IMAGES), rtol=0, atol=1e-6)
    assert moments.mean.shape == ((1, 8) if name == "batch_norm" else (2, 8))
    pools = {"batch_norm": (0, 2, 3), "instance_norm": (2, 3)}
    exact = IMAGES.double()
    if name == "group_norm":
        want = exact.view(2, 2, -1).mean(2).repeat_interleave(4, dim=1)
    else:
        want = exact.mean(pools[name]).view(moments.mean.shape)
    torch.testing.assert_close(moments.mean, want, rtol=0, atol=1e-7)


def test_another_backend_and_a_transform_go_their_own_way():
    layer = nw.GroupNorm(2, 8)
    with nw.use_backend("reference"):
        explained = nw.explain_way(layer, IMAGES)[0]
    assert explained.way == by_graph.ByFormula.name
    assert "by_torch.bind: the backend 'reference' was chosen" in explained.reasons
    seen = []
    torch.func.vmap(lambda x: seen.extend(nw.explain_way(layer, x)) or x)(IMAGES[None])
    assert seen[0].way == plain.Plainly.name


@needs_kernels
@pytest.mark.parametrize("other", [torch.ones(8, device="meta"), torch.ones(8).to_sparse(), torch.ones(8).long()])
def test_kernels_get_plain_floating_tensors_of_one_device(other):
    formula = bound_formula(formulas.group_norm, groups=2, eps=1e-5)
    asked = [Request(IMAGES, formula, pair) for pair in ((torch.ones(8), None), (other, None), (None, other))]
    found = [by_kernels.bind(request, context_of(request)) for request in asked]
    assert isinstance(found[0], by_kernels.OverPools)
    assert all("goes with x" in str(reason) for reason in found[1:])


def test_without_kernels_torchs_operators_serve(monkeypatch):
    monkeypatch.setattr(cpu, "serves", lambda x: False)
    for layer in (nw.BatchNorm2d(8), nw.BatchNorm2d(8).eval(), nw.GroupNorm(2, 8), nw.LayerNorm2d(8)):
        assert way_of(layer, IMAGES) == by_torch.OverPools.name == by_torch.AlongRows.name


def test_a_kind_of_call_is_looked_at_once(bound):
    layer = nw.GroupNorm(2, 8)
    for _ in range(3):
        layer(torch.randn(2, 8, 5, 5))
    assert len(bound) == 1
    other = nw.GroupNorm(2, 8)  # whose tensors are of the same kinds
    other(torch.randn(2, 8, 5, 5))
    assert len(bound) == 1


def test_a_chosen_backend_makes_another_kind(bound):
    layer, x = nw.GroupNorm(2, 8), torch.randn(2, 8, 5, 5)
    layer(x)
    for times in (2, 2):
        with nw.use_backend("reference"):
            layer(x)
        assert len(bound) == times
    layer(x)
    assert len(bound) == 2


CHANGES = {
    "shape": lambda layer, x: layer(x[:, :, :4]),
    "strides": lambda layer, x: layer(x.mT),
    "dtype": lambda layer, x: layer(x.double()),
    "gradient": lambda layer, x: layer(x.clone().requires_grad_()),
    "no gradient": lambda layer, x: torch.no_grad()(layer)(x),
    "residual": lambda layer, x: layer(x, residual=x.clone()),
    "eps": lambda layer, x: (setattr(layer, "eps", 0.5), layer(x)),
    "activation": lambda layer, x: (setattr(layer, "activation", "relu"), layer(x)),
    "a parameter's dtype": lambda layer, x: (
        setattr(layer, "weight", torch.nn.Parameter(torch.ones(8).double())),
        layer(x),
    ),
    "no parameter": lambda layer, x: (setattr(layer, "weight", None), layer(x)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_makes_another_kind(change, bound):
    layer, x = nw.GroupNorm(2, 8), torch.randn(2, 8, 5, 5)
    layer(x)
    CHANGES[change](layer, x)
    assert len(bound) == 2


WRONG = {
    "fewer values": torch.ones(3),
    "more values": torch.ones(16),
    "another rank": torch.ones(2, 4),
    "complex": torch.ones(8, dtype=torch.complex64),
    "another device": torch.ones(8, device="meta"),
    "sparse": torch.ones(8).to_sparse(),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", ["batch", "group", "pixel-layer", "evo-s0", "filter-response"])
def test_a_kept_kind_does_not_serve_a_wrong_tensor(name, wrong):
    layer, x = nw.make_norm(name, 8), torch.randn(2, 8, 5, 5)
    layer(x)
    layer.weight = torch.nn.Parameter(WRONG[wrong], requires_grad=False)
    with pytest.raises((TypeError, ValueError), match="weight"):
        layer(x)
    layer.weight = torch.nn.Parameter(torch.ones(8))
    layer(x)


def test_a_kept_kind_serves_its_own_layer_only():
    x = torch.randn(2, 4, 5, 5)
    nw.GroupNorm(2, 4, affine=False)(x)
    with pytest.raises(ValueError, match="expected 8 channels"):
        nw.GroupNorm(2, 8, affine=False)(x)
    nw.BatchNorm2d(4, affine=False)(x)
    with pytest.raises(ValueError, match="expected 6 channels"):
        nw.BatchNorm2d(6, affine=False)(x)


def test_a_wrong_counter_is_an_error_in_evaluation_too():
    layer, x = nw.BatchNorm2d(8).eval(), torch.randn(2, 8, 5, 5)
    layer(x)
    layer.num_batches_tracked = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match="num_batches_tracked"):
        layer(x)


@pytest.mark.parametrize("name", ["batch", "group", "instance"])
def test_released_memory_is_an_error_for_a_kept_kind(name):
    layer, x = nw.make_norm(name, 8), torch.randn(2, 8, 5, 5)
    layer(x)
    x.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="released"):
        layer(x)


def test_a_slice_of_a_storage_is_read_where_it_lies():
    layer, whole = nw.GroupNorm(2, 8), torch.randn(3, 2, 8, 5, 5)
    for x in whole:
        torch.testing.assert_close(layer(x), torch.nn.functional.group_norm(x, 2), rtol=0, atol=1e-6)
    cut = whole[2]
    whole.untyped_storage().resize_(whole.untyped_storage().nbytes() - 4)
    with pytest.raises(RuntimeError, match="cut"):
        layer(cut)


def test_one_tensor_in_two_places():
    layer, x = nw.GroupNorm(2, 8), torch.randn(2, 8, 5, 5)
    for _ in range(3):
        want = torch.nn.functional.group_norm(x, 2) + x
        torch.testing.assert_close(layer(x, residual=x), want, rtol=0, atol=1e-6)
    assert sum(map(len, choosing._kept.values())) == 0


@pytest.mark.parametrize("change", ["fewer", "another dtype", "released", "cut"])
@pytest.mark.parametrize("which", ["x", "weight"])
def test_what_few_rows_saved_is_looked_at_before_their_backward(which, change, tuned):
    layer, x = nw.LayerNorm(8), torch.randn(4, 8, requires_grad=True)
    y = layer(x)
    t = {"x": x, "weight": layer.weight}[which]
    if change == "fewer":
        t.data = torch.ones(1)
    elif change == "another dtype":
        t.data = t.data.double()
    else:
        t.untyped_storage().resize_(0 if change == "released" else t.nbytes - 4)
    with pytest.raises(RuntimeError, match=r"backward pass|released or cut"):
        y.sum().backward()


def test_kinds_are_not_kept_without_end(monkeypatch):
    monkeypatch.setattr(choosing, "_MOST_KINDS", 4)
    layer = nw.GroupNorm(2, 8)
    for size in range(2, 14):
        layer(torch.randn(2, 8, size))
        assert 1 <= len(choosing._kept) <= 4


def test_an_explanation_changes_nothing():
    layer, x = nw.BatchNorm2d(8), torch.randn(2, 8, 5, 5)
    nw.explain_way(layer, x)
    assert layer.num_batches_tracked == 0
    assert torch.equal(layer.running_mean, torch.zeros(8))
    with pytest.raises(ValueError, match="expected 8 channels"):
        nw.explain_way(layer, x[:, :3])
    with pytest.raises(TypeError, match="takes a layer, a model or a function, received int"):
        nw.explain_way(3, x)
    assert choosing._explanations is None


def test_kinds_without_torchs_guards():
    ours = kinds._Kinds
    a, b = torch.randn(2, 3), torch.nn.Parameter(torch.ones(3))
    for make in (ours, lambda *t: kinds.kinds_of(*t)):
        seen = make(a, b)
        assert seen.check(torch.zeros(2, 3), torch.nn.Parameter(torch.zeros(3)))
        wrong = [
            (a.t(), b),
            (a.double(), b),
            (a.to("meta"), b),
            (a, b.detach()),
            (a, torch.nn.Parameter(torch.ones(4))),
            (a.clone().requires_grad_(), b),
            (torch._neg_view(a), b),
        ]
        assert not any(seen.check(*t) for t in wrong)
        assert not make(a, a).check(a, a)
