"""When `normalize` is expressed in plain operations, and that it says the same as the fused path."""

from functools import partial

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import grad, jacfwd, jacrev, jvp, vmap
from torch.testing import assert_close

from normwise import Affine, Moments, normalize, use_backend
from normwise.core import formulas
from normwise.core.transforms import under_function_transform
from normwise.operations.context import plain_operations_wanted, without_autocast

# torch itself compiles its forward-mode rules with torch.jit.script on their first use.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


def mixture(moments, weight, mix):
    """Batch and instance statistics in learned proportion: a formula that no shortcut serves."""
    batch = moments.over_batch()
    mean = mix * batch.mean + (1 - mix) * moments.mean
    var = mix * batch.var + (1 - mix) * moments.var
    return Affine(mean, weight * (var + 1e-3).rsqrt(), 0.0)


def arguments():
    x = torch.randn(3, 4, 5, dtype=torch.float64)
    return x, torch.rand(4, dtype=torch.float64) + 0.5, torch.tensor(0.3, dtype=torch.float64)


def call(x, weight, mix, **options):
    return normalize(x, mixture, weight, mix, activation="silu", **options)


def test_nobody_is_looking():
    assert not plain_operations_wanted()
    assert not under_function_transform()


def test_function_transforms_and_forward_mode_are_seen_and_left():
    seen = []

    def probe(x):
        seen.append(under_function_transform() and plain_operations_wanted())
        return x.sum()

    x = torch.ones(2)
    grad(probe)(x)
    vmap(probe)(x[None])
    jvp(probe, (x,), (x,))
    with forward_ad.dual_level():
        probe(x)
    assert seen == [True] * 4
    assert not plain_operations_wanted()


@pytest.mark.filterwarnings("ignore:.torch.jit.trace.* is deprecated:DeprecationWarning")
def test_tracing_compiling_and_exporting_are_seen():
    seen = []

    class Probe(torch.nn.Module):
        def forward(self, x):
            seen.append(plain_operations_wanted())
            return x + 1

    torch.jit.trace(Probe(), torch.ones(2), check_trace=False)
    assert seen
    assert all(seen)
    graph = torch.compile(lambda x: x * (2.0 if plain_operations_wanted() else 3.0), backend="eager", fullgraph=True)
    assert graph(torch.ones(1)).item() == 2.0
    torch.compiler.reset()


def test_the_fused_path_and_the_plain_operations_agree():
    x, weight, mix = arguments()
    inputs = [t.clone().requires_grad_() for t in (x, weight, mix)]
    residual = torch.randn_like(x)
    mask = torch.rand(3, 5) < 0.7
    cotangent = torch.randn_like(x)
    fused = torch.autograd.grad(call(*inputs, residual=residual, mask=mask), inputs, cotangent)

    def loss(*inputs):
        return (call(*inputs, residual=residual, mask=mask) * cotangent).sum()

    assert_close(grad(loss, argnums=(0, 1, 2))(x, weight, mix), fused)


def test_forward_and_reverse_mode_agree():
    x, weight, mix = arguments()
    for argument in range(3):
        assert_close(jacfwd(call, argument)(x, weight, mix), jacrev(call, argument)(x, weight, mix))


def test_each_gradient_of_a_batch_of_mixtures():
    x, weight, _ = arguments()
    mixes = torch.linspace(0, 1, 5, dtype=torch.float64)
    found = vmap(grad(lambda mix: call(x, weight, mix).pow(3).sum()))(mixes)
    for mix, one in zip(mixes, found, strict=True):
        leaf = mix.clone().requires_grad_()
        assert_close(torch.autograd.grad(call(x, weight, leaf).pow(3).sum(), leaf)[0], one)


def test_known_moments_under_a_transform_are_constants():
    x, weight, _ = arguments()
    known = Moments(torch.zeros(1, 4).double(), torch.full((1, 4), 4.0).double(), 1)
    formula = partial(formulas.standardized, eps=0.0)
    tangent = torch.randn_like(x)
    y, dy = jvp(lambda x: normalize(x, formula, weight, None, moments=known), (x,), (tangent,))
    assert_close(y, x * weight[:, None] / 2)
    assert_close(dy, tangent * weight[:, None] / 2)


def test_a_chosen_backend_does_not_hide_from_a_transform():
    x, weight, mix = arguments()
    with use_backend("reference"):
        inside = vmap(call, in_dims=(0, None, None))(x[None], weight, mix)
    assert_close(inside[0], call(x, weight, mix))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_autocast_is_switched_off_where_there_is_one(device):
    x = torch.ones(2, device=device)
    with torch.autocast("cpu", dtype=torch.bfloat16), without_autocast(x):
        assert torch.is_autocast_enabled("cpu") == (device != "cpu")
