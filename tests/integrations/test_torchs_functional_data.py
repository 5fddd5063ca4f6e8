"""torch's own test data of its functions, run on `normwise.functional`: the same, or a documented difference."""

import re

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import normwise.functional as nf

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # torch's own, of its deprecated corners
]

#: Where torch itself has no second derivative: of a layer norm with a bias and without a weight.
RAISED_BY_TORCH = "Expected a proper Tensor but got None"
#: What of torch's data ours refuse, by what they say. One that they do not show any more fails.
REFUSED = {
    "eps must be": "a negative eps is no variance",
    "momentum must be": "the weight of the new value lies in [0, 1]",
    "expects \\[N, C, \\*space\\]": "an input without channels has no statistics of any",
}


def _updated(running_mean, running_var, table, momentum):
    new = nf.update_statistics(
        nf.Running(running_mean.detach(), running_var.detach(), torch.tensor(0)), table, momentum
    )
    return new.mean, new.var


def batch_norm(
    x,
    running_mean=None,
    running_var=None,
    weight=None,
    bias=None,
    training=False,
    momentum=0.1,
    eps=1e-5,
    pool=nf.batch_norm,
):
    """The output and the running statistics behind the call."""
    if not training:
        y, _ = pool(x, nf.Running(running_mean, running_var, torch.tensor(0)), weight, bias, eps=eps)
        return y, running_mean, running_var
    y, table = pool(x, None, weight, bias, eps=eps)
    if running_mean is None:
        return y, None, None
    return y, *_updated(running_mean, running_var, table, momentum)


def instance_norm(
    x, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True, momentum=0.1, eps=1e-5
):
    return batch_norm(x, running_mean, running_var, weight, bias, use_input_stats, momentum, eps, pool=nf.instance_norm)


def layer_norm(x, shape, weight=None, bias=None, eps=1e-5):
    return (nf.layer_norm(x, shape, weight, bias, eps=eps),)


def rms_norm(x, shape, weight=None, eps=None):
    return (nf.rms_norm(x, shape, weight, eps=eps),)


def group_norm(x, groups, weight=None, bias=None, eps=1e-5):
    return (nf.group_norm(x, groups, None, weight, bias, eps=eps)[0],)


def native_batch_norm(x, weight, bias, running_mean, running_var, training, momentum, eps):
    return batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)


def native_group_norm(x, weight, bias, _samples, _channels, _positions, groups, eps):
    return group_norm(x, groups, weight, bias, eps)


FUNCTIONS = {
    "nn.functional.batch_norm": batch_norm,
    "nn.functional.instance_norm": instance_norm,
    "nn.functional.layer_norm": layer_norm,
    "nn.functional.rms_norm": rms_norm,
    "nn.functional.group_norm": group_norm,
    "native_batch_norm": native_batch_norm,
    "native_layer_norm": layer_norm,
    "native_group_norm": native_group_norm,
}
_matched: set[str] = set()


@pytest.fixture(scope="module")
def operators():
    """torch's descriptions, by name."""
    methods = pytest.importorskip("torch.testing._internal.common_methods_invocations")
    return {info.name: info for info in methods.op_db if info.name in FUNCTIONS}


def _unless_refused(function, *given, **options):
    """What the function gives; None where it refuses what the list has."""
    try:
        return function(*given, **options)
    except (ValueError, TypeError) as error:
        found = [entry for entry in REFUSED if re.search(entry, str(error))]
        if not found:
            raise
        _matched.update(found)
        return None


def _leaves(sample):
    """Fresh copies of a sample's arguments, and those of them that have a gradient."""

    def fresh(value):
        return value.detach().clone().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value

    given, options = [fresh(v) for v in (sample.input, *sample.args)], {k: fresh(v) for k, v in sample.kwargs.items()}
    return given, options, [v for v in (*given, *options.values()) if isinstance(v, Tensor) and v.requires_grad]


def _derivatives(y, leaves):
    """Once and twice; of what has no part in it, zero."""
    generator = torch.Generator().manual_seed(0)
    cotangent = torch.randn(y.shape, generator=generator, dtype=y.dtype)
    first = torch.autograd.grad(y, leaves, cotangent, create_graph=True, allow_unused=True)
    again = sum(g.square().sum() for g in first if g is not None and g.requires_grad)
    second = (
        torch.autograd.grad(again, leaves, allow_unused=True) if isinstance(again, Tensor) else [None] * len(leaves)
    )
    return [
        [torch.zeros_like(t) if g is None else g for g, t in zip(gs, leaves, strict=True)] for gs in (first, second)
    ]


def _derivatives_by_torch(y, leaves):
    """The same, where it can."""
    try:
        return _derivatives(y, leaves)
    except RuntimeError as error:
        if RAISED_BY_TORCH not in str(error):
            raise
        _matched.add(RAISED_BY_TORCH)
        return None


def _running_behind(name, given, options):
    """What torch's call has left in the buffers that it was given."""
    if "batch" not in name and "instance" not in name:
        return ()
    first = 3 if name.startswith("native") else 1
    at = given[first : first + 2] if len(given) > first else (options.get("running_mean"), options.get("running_var"))
    return tuple(at)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_derivatives(operators, name, dtype):
    """In fp32 both round the sums of second derivatives."""
    info, compared = operators[name], 0
    tolerance = {"rtol": 1e-9, "atol": 1e-9} if dtype is torch.float64 else {"rtol": 1e-3, "atol": 1e-3}
    tolerance["equal_nan"] = True  # some running variances of torch's data are negative
    for sample in info.reference_inputs("cpu", dtype, requires_grad=True):
        given, options, leaves = _leaves(sample)
        result = _unless_refused(FUNCTIONS[name], *given, **options)
        if result is None:
            continue
        y, *running = result
        mine = _derivatives(y, leaves)
        given, options, leaves = _leaves(sample)
        result = info.op(*given, **options)
        theirs = result[0] if isinstance(result, tuple) else result
        assert_close(y, theirs, **tolerance)
        other = _derivatives_by_torch(theirs, leaves)
        if other is None:
            continue
        assert_close(mine[0], other[0], **tolerance)
        if dtype is torch.float64:
            assert_close(mine[1], other[1], rtol=1e-7, atol=1e-7, equal_nan=True)
        for found, expected in zip(running, _running_behind(name, given, options), strict=True):
            assert_close(found, expected, **tolerance)
        compared += 1
    assert compared


@pytest.mark.parametrize("name", FUNCTIONS)
def test_torchs_derivative_checks(operators, name):
    for sample in operators[name].sample_inputs("cpu", torch.float64, requires_grad=True):
        _, _, leaves = _leaves(sample)
        if not leaves:
            continue

        def call(*changed, sample=sample):
            found = iter(changed)
            given, options, _ = _leaves(sample)
            given = [next(found) if isinstance(v, Tensor) and v.requires_grad else v for v in given]
            options = {k: next(found) if isinstance(v, Tensor) and v.requires_grad else v for k, v in options.items()}
            return FUNCTIONS[name](*given, **options)[0]

        y = _unless_refused(call, *leaves)
        if y is None or y.isnan().any():
            continue
        checks = {"fast_mode": True, "check_batched_grad": True}
        assert torch.autograd.gradcheck(call, leaves, check_forward_ad=True, **checks)
        assert torch.autograd.gradgradcheck(call, leaves, **checks)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_torch_refuses_is_refused(operators, name):
    info = operators[name]
    for case in info.error_inputs("cpu") if info.error_inputs_func else ():
        sample = case.sample_input
        with pytest.raises((ValueError, TypeError)):
            FUNCTIONS[name](sample.input, *sample.args, **sample.kwargs)


def test_every_documented_difference_is_one(operators):
    for name, info in operators.items():
        for sample in info.reference_inputs("cpu", torch.float64, requires_grad=True):
            given, options, leaves = _leaves(sample)
            if _unless_refused(FUNCTIONS[name], *given, **options) is not None and name == "native_layer_norm":
                _derivatives_by_torch(info.op(*given, **options)[0], leaves)
    assert _matched == {*REFUSED, RAISED_BY_TORCH}
