"""Activation checkpointing of every kind, eager and compiled: the gradients and one update of the statistics."""

import copy
import io
from functools import partial

import pytest
import torch
from conformance.state import every_other
from torch import nn
from torch.testing import assert_close
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

import normwise as nw
from normwise.layers import passes
from normwise.layers.passes import MOST

RENORM = {"r_max": 3.0, "d_max": 5.0, "momentum": 0.5}
#: What keeps running statistics, each by another way of moving them.
LAYERS = {
    "batch": lambda: nw.BatchNorm2d(4, activation="relu"),
    "cumulative": lambda: nw.BatchNorm2d(4, momentum=None),
    "propagating": lambda: nw.BatchNorm2d(4, nonfinite="propagate"),
    "renorm": lambda: nw.BatchRenorm2d(4, **RENORM),
    "instance": lambda: nw.InstanceNorm2d(4, affine=True, track_running_stats=True),
    "batch-instance": lambda: nw.BatchInstanceNorm2d(4),
}
X = torch.randn(6, 4, 5, 5, generator=torch.Generator().manual_seed(0)) * 2 + 1
COTANGENT = torch.randn(6, 4, 5, 5, generator=torch.Generator().manual_seed(1))

again = partial(checkpoint, use_reentrant=False)
reentrant = partial(checkpoint, use_reentrant=True)
NESTED = {
    "once": lambda layer: lambda x: again(layer, x),
    "reentrant": lambda layer: lambda x: reentrant(layer, x),
    "twice": lambda layer: lambda x: again(lambda z: again(layer, z), x),
    "reentrant in reentrant": lambda layer: lambda x: reentrant(lambda z: reentrant(layer, z), x),
    "not reentrant in reentrant": lambda layer: lambda x: reentrant(lambda z: again(layer, z), x),
    "reentrant in not reentrant": lambda layer: lambda x: again(lambda z: reentrant(layer, z), x),
}


def step(layer, run, x=X):
    """Output, gradients and buffers of one training step."""
    x = x.clone().requires_grad_()
    y = run(x)
    (y * COTANGENT[: len(x)]).sum().backward()
    return y.detach(), x.grad, [p.grad for p in layer.parameters()], dict(layer.named_buffers())


def assert_the_same(make, wrap, **tolerance):
    layer = make()
    twin = copy.deepcopy(layer)
    assert_close(step(twin, wrap(twin)), step(layer, layer), **tolerance)


@pytest.mark.parametrize("nesting", NESTED)
@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_eager(make, nesting):
    assert_the_same(make, NESTED[nesting])


@pytest.fixture
def _fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


COMPILED = {
    "around a graph": lambda layer, backend: NESTED["once"](torch.compile(layer, backend=backend)),
    "reentrant around a graph": lambda layer, backend: NESTED["reentrant"](torch.compile(layer, backend=backend)),
    "in a graph": lambda layer, backend: torch.compile(NESTED["once"](layer), backend=backend),
    "none": lambda layer, backend: torch.compile(layer, backend=backend),
}


#: The memory of the batch in each place, and what else a pass remembers in one.
ALWAYS = {("renorm", "around a graph"), *(("batch", where) for where in COMPILED if where != "none")}


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "where"),
    [
        pytest.param(name, where, marks=() if (name, where) in ALWAYS else pytest.mark.slow, id=f"{name}-{where}")
        for name in ("batch", "renorm", "instance")
        for where in COMPILED
    ],
)
def test_compiled(name, where, backend):
    wrap = partial(COMPILED[where], backend=backend)
    assert_the_same(LAYERS[name], wrap, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("name", ["batch", "renorm"])
@pytest.mark.parametrize("saved", [False, True], ids=["at once", "saved and loaded"])
def test_exported(name, saved):
    layer, file = LAYERS[name](), io.BytesIO()
    program = torch.export.export(copy.deepcopy(layer), (X,))
    if saved:
        torch.export.save(program, file)
        file.seek(0)
        program = torch.export.load(file)
    twin = program.module()
    assert_close(step(twin, NESTED["once"](twin))[:3], step(layer, layer)[:3], rtol=1e-4, atol=1e-5)
    assert_close(dict(twin.named_buffers())["running_mean"], layer.running_mean)
    assert dict(twin.named_buffers())["num_batches_tracked"].item() == 1


POLICIES = {
    "everything": lambda: lambda *_, **__: CheckpointPolicy.MUST_SAVE,
    "nothing": lambda: lambda *_, **__: CheckpointPolicy.PREFER_RECOMPUTE,
    "every other": every_other,
    "matrix products": lambda: [torch.ops.aten.mm.default, torch.ops.aten.convolution.default],
}
IN_NETS = {
    **LAYERS,
    "spectral": lambda: nw.spectral_norm(nn.Conv2d(4, 4, 3, padding=1)),
    "operator": lambda: nw.spectral_norm(nn.Conv2d(4, 4, 3, padding=1), operator=True),
    "standardized": lambda: nw.ScaledWSConv2d(4, 4, 3, padding=1),
}


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("make", IN_NETS.values(), ids=IN_NETS)
def test_selective(make, policy):
    """Two layers and two steps: what only a first pass does must not shift what a policy saves."""
    convolution = partial(nn.Conv2d, 4, 4, 1, bias=False)  # a bias before a normalizer has no gradient but rounding
    net = nn.Sequential(convolution(), make(), nn.Sigmoid(), convolution(), make())
    twin = copy.deepcopy(net)
    contexts = lambda: create_selective_checkpoint_contexts(policy())  # noqa: E731
    for _ in range(2):
        found = step(twin, lambda x: checkpoint(twin, x, use_reentrant=False, context_fn=contexts))
        assert_close(found, step(net, net), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("nesting", ["once", "reentrant", "not reentrant in reentrant"])
@pytest.mark.parametrize("alike", [False, True], ids=["different", "the same batch"])
def test_many_passes_of_batch_renorm(nesting, alike):
    """Each finds what it was corrected towards, though it is the same batch each time."""
    generator = torch.Generator().manual_seed(2)
    xs = [torch.randn(8, 4, generator=generator, dtype=torch.float64) + 2 * (i % 5) for i in range(20)]
    layer = nw.BatchRenorm1d(4, **RENORM).double()
    twin = copy.deepcopy(layer)
    results = []
    for one, run in ((layer, layer), (twin, NESTED[nesting](twin))):
        leaves = [(xs[0] if alike else x).clone().requires_grad_() for x in xs]
        for _ in range(2):
            sum((run(x) ** 3).sum() for x in leaves).backward()
        results.append([*(x.grad for x in leaves), *(p.grad for p in one.parameters()), *one.buffers()])
    assert_close(results[1], results[0])


def test_passes_that_are_known_no_more_raise(monkeypatch):
    monkeypatch.setattr(passes, "MOST", 9)
    x = torch.randn(4, 3)
    for alike in (False, True):
        layer = nw.BatchRenorm1d(3, **RENORM)
        leaves = [(x if alike else torch.randn(4, 3)).requires_grad_() for _ in range(passes.MOST + 1)]
        total = sum(reentrant(layer, leaf).sum() for leaf in leaves)
        with pytest.raises(RuntimeError, match=f"first run is not known any more.*The last {MOST} passes are known"):
            total.backward()


def test_old_passes_without_a_backward_do_no_harm():
    layer = nw.BatchRenorm1d(3, **RENORM)
    with torch.no_grad():
        for _ in range(MOST + 9):
            layer(torch.randn(4, 3))
    twin = copy.deepcopy(layer)
    x = torch.randn(6, 3)
    results = []
    for one, run in ((layer, layer), (twin, NESTED["reentrant"](twin))):
        leaf = x.clone().requires_grad_()
        (run(leaf) ** 3).sum().backward()
        results.append([leaf.grad, *one.buffers()])
    assert_close(results[1], results[0])
    assert len(layer._passes._kept) <= MOST
    assert copy.deepcopy(layer)._passes._kept == []


def test_masked_passes_of_batch_renorm():
    x, mask = torch.randn(4, 3, 5), torch.rand(4, 5, generator=torch.Generator().manual_seed(3)) < 0.6
    x[~mask.unsqueeze(1).expand_as(x)] = float("nan")
    layer = nw.BatchRenorm1d(3, **RENORM)
    twin, results = copy.deepcopy(layer), []
    for one, run in ((layer, layer), (twin, lambda x, mask: reentrant(lambda z: twin(z, mask=mask), x))):
        leaf = x.clone().requires_grad_()
        y = run(leaf, mask=mask)
        layer_or_twin = torch.where(mask.unsqueeze(1), y, 0)
        (layer_or_twin**3).sum().backward()
        results.append([leaf.grad.nan_to_num(), *(p.grad for p in one.parameters()), *one.buffers()])
    assert_close(results[1], results[0])


def test_a_layer_with_passes_is_saved(tmp_path):
    layer = nw.BatchRenorm2d(4, **RENORM)
    with torch.no_grad():
        layer(X)
    torch.save(layer, tmp_path / "layer.pt")
    assert_close(torch.load(tmp_path / "layer.pt", weights_only=False)(X), layer(X))


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("name", ["batch", pytest.param("renorm", marks=pytest.mark.slow)])
def test_an_ensemble_in_a_graph(name, capfd):
    """The operators have rules for many at once: each layer of the ensemble finds and updates its own statistics."""
    layers = [LAYERS[name]() for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(layers)
    xs = torch.stack([X + i for i in range(3)])

    def each(parameters, buffers, x):
        return torch.func.functional_call(layers[0], (parameters, buffers), (x,))

    y = torch.compile(torch.vmap(each), backend="aot_eager")(parameters, buffers, xs)
    for i, layer in enumerate(layers):
        assert_close(y[i], layer(xs[i]))
        assert_close(buffers["running_mean"][i], layer.running_mean)
    assert "not yet implemented the batching rule" not in capfd.readouterr().err


def test_kernels_serve_under_a_selective_checkpoint():
    first, second = create_selective_checkpoint_contexts([torch.ops.aten.mm.default])
    way = nw.explain_way(nw.BatchNorm2d(4), X)[0].way
    for context in (first, second):
        with context:
            assert nw.explain_way(nw.BatchNorm2d(4), X)[0].way == way
