"""A parameter or buffer that does not fit is refused before a kernel reads it, whatever put it there."""

import pytest
import torch
from covering import covering
from torch import nn
from torch.testing import assert_close
from wrong_tensors import (
    FUNCTIONS,
    LAYERS,
    WAYS,
    C,
    is_needed,
    is_required,
    owner,
    replace,
    takes_rows_of_samples,
    tensors_of,
    wrong_values,
)

import normwise as nw

OF_LAYERS = [(case, name) for case in LAYERS for name in tensors_of(case.make())]
OF_FUNCTIONS = [(name, tensor) for name, function in FUNCTIONS.items() for tensor in function.tensors]


def by_id(value):
    return getattr(value, "id", value)


def refusal(way, call, shape):
    """What the ValueError or TypeError of a call says."""
    try:
        way(call, shape)
    except (ValueError, TypeError) as error:
        return str(error)
    return "nothing"


def trainable(wrong, graph):
    """The wrong tensor as one that a graph would differentiate, where it can be."""
    able = isinstance(wrong, torch.Tensor) and (wrong.is_floating_point() or wrong.is_complex())
    return wrong.clone().requires_grad_(graph) if able else wrong


every_or_pairs = pytest.mark.parametrize(
    "every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["pairs", "every"]
)


def combinations(values, ways, *, every):
    """What is wrong, in all ways to call, or so that it meets each backend, mode and with or without a graph."""
    found = [(kind, wrong, *way) for kind, wrong in values for way in ways]
    if every:
        return found
    chosen = covering([(kind, *more, way.backend, way.graph) for kind, _, *more, way in found])
    return [found[number] for number in sorted(chosen)]


@every_or_pairs
@pytest.mark.parametrize(("case", "name"), OF_LAYERS, ids=by_id)
def test_a_tensor_of_a_layer(case, name, every):
    """Also after a clean call of the same kind, whose recorded programs must not serve the wrong one."""
    module, leaf = owner(case.make(), name)
    is_buffer, right = leaf in module._buffers, getattr(module, leaf)
    ways = [(training, way) for training in (True, False) for way in WAYS]
    for training, way in ways:
        layer = case.make().train(training)
        way(lambda x, layer=layer: case.run(layer, x), case.shape)
    values = wrong_values(right, required=is_required(case.id, name))
    for kind, wrong, training, way in combinations(values, ways, every=every):
        layer = case.make().train(training)
        replace(layer, name, wrong if is_buffer else trainable(wrong, way.graph))
        said = refusal(way, lambda x, layer=layer: case.run(layer, x), case.shape)
        assert leaf in said, f"{kind}, {training=}, {way}: {said}"


def test_the_functions_are_found():
    assert {"batch_norm", "layer_norm", "dynamic_tanh"} < FUNCTIONS.keys()


@every_or_pairs
@pytest.mark.parametrize(("name", "tensor"), OF_FUNCTIONS)
def test_a_tensor_of_a_function(name, tensor, every):
    function = FUNCTIONS[name]
    right = function.tensors[tensor]
    for way in WAYS:
        way(function.run, function.shape)
    values = wrong_values(right, required=is_needed(name, tensor))
    for kind, wrong, way in combinations(values, [(way,) for way in WAYS], every=every):
        if kind == "row" and takes_rows_of_samples(name, right):
            continue
        tensors = {tensor: trainable(wrong, way.graph)}
        said = refusal(way, lambda x, tensors=tensors: function.run(x, **tensors), function.shape)
        assert tensor in said, f"{kind}, {way}: {said}"


@pytest.mark.parametrize("case", LAYERS, ids=by_id)
def test_a_residual_elsewhere(case):
    for training in (True, False):
        for way in WAYS:
            layer = case.make().train(training)
            for convert in (lambda x: x.to("meta"), lambda x: x.to_sparse(), lambda x: x.to(torch.complex64)):
                call = lambda x, c=convert, n=layer: case.run(n, x, residual=c(x.detach()))  # noqa: E731
                assert "residual" in refusal(way, call, case.shape)


@pytest.mark.parametrize("case", LAYERS, ids=by_id)
def test_an_input_that_is_not_dense(case):
    with pytest.raises(TypeError, match=r"expects a dense tensor, received torch\.sparse_coo.*to_dense"):
        case.run(case.make(), torch.ones(case.shape).to_sparse())


@pytest.mark.parametrize(
    ("way", "wrong"),
    [
        ("data", lambda t: t.new_ones(1)),
        ("assign", lambda t: t.new_ones(3)),
        ("functional_call", lambda t: t.new_ones(2 * C)),
        ("moved alone", lambda t: t.to("meta")),
    ],
)
@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var"])
def test_the_ways_to_put_a_tensor_in_place(way, wrong, name):
    layer, x = nw.BatchNorm2d(C), torch.randn(4, C, 5, 3)
    state = {name: wrong(getattr(layer, name).detach())}
    if way == "functional_call":
        with pytest.raises(ValueError, match=f"BatchNorm2d: {name} must be"):
            torch.func.functional_call(layer, state, (x,))
        return
    if way == "data":
        getattr(layer, name).data = state[name]
    else:
        layer._parameters.update({k: nn.Parameter(v) for k, v in state.items() if k in layer._parameters})
        layer._buffers.update({k: v for k, v in state.items() if k in layer._buffers})
    with pytest.raises(ValueError, match=f"BatchNorm2d: {name} must be"):
        layer(x)


def test_the_error_says_what_to_write():
    layer, x = nw.BatchNorm2d(C), torch.randn(4, C, 5, 3)
    for wrong, error, message in (
        (
            torch.ones(1),
            ValueError,
            r"BatchNorm2d: weight must be \[6\] for .*received \[1\]; write weight\.expand\(\[6\]\)",
        ),
        (torch.ones(6, 1), ValueError, r"must be \[6\] for .*received \[6, 1\]; write weight\.reshape\(\[6\]\)"),
        (torch.ones(12), ValueError, r"must be \[6\] for .*received \[12\]; .* a layer of another size"),
        (torch.ones(6) + 1j, TypeError, r"weight must hold real .*received torch\.complex64; take weight\.real"),
        (torch.ones(6).int(), TypeError, r"must hold real .*received torch\.int32; convert it with weight\.float\(\)"),
        (torch.ones(6, device="meta"), ValueError, r"weight must be on the input's device, cpu, .*meta; move it"),
        (torch.ones(6).to_sparse(), TypeError, r"weight must be dense, received torch\.sparse_coo; .*to_dense"),
        (1.0, TypeError, r"weight must be a tensor \[6\], received float"),
    ):
        replace(layer, "weight", wrong)
        with pytest.raises(error, match=message):
            layer(x)
        layer = nw.BatchNorm2d(C)


def test_a_memory_holds_both_statistics_or_none():
    layer, x = nw.BatchNorm2d(C), torch.randn(4, C, 5, 3)
    layer.running_var = None
    with pytest.raises(ValueError, match=r"BatchNorm2d: .*both be tensors or both be None; running_var is None"):
        layer(x)
    layer.running_mean = None
    assert_close(layer.eval()(x), nn.BatchNorm2d(C)(x))


def test_a_bank_is_checked_as_the_layers_own_memory():
    layer, x = nw.BatchNorm2d(C), torch.randn(4, C, 5, 3)
    with nw.statistics_bank(layer, "night"):
        layer(x)
        layer.banks["night"].running_var = torch.ones(3)
        with pytest.raises(ValueError, match=r"running_var must be \[6\] .*received \[3\]"):
            layer(x)
    layer(x)


def test_statistics_that_are_pooled_meet_the_memory_as_it_is_at_the_end():
    layer, x = nw.BatchNorm2d(C), torch.randn(4, C, 5, 3)
    block = nw.pool_updates(layer)
    block.__enter__()
    layer(x)
    layer.running_var = torch.ones(1)
    with pytest.raises(ValueError, match=r"running_var must be \[6\] .*received \[1\]"):
        block.__exit__(None, None, None)


def test_a_counter_may_have_a_dimension():
    layer = nw.BatchNorm2d(C)
    layer.num_batches_tracked = torch.zeros(1, dtype=torch.int64)
    layer(torch.randn(4, C, 5, 3))
    assert layer.num_batches_tracked.tolist() == [1]
