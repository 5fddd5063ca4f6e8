"""torch.func, forward-mode AD and autocast: the same answers through the plain operations."""

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from layer_cases import CASES, MAP_CASES, gradients, ids, randomize, twins
from torch import nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap
from torch.testing import assert_close

import normwise as nw

# torch itself compiles its forward-mode rules with torch.jit.script on their first use.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

#: Layers that have no memory to update: a transformed function must be pure.
PURE = [case for case in CASES if not case.remembers]
REMEMBERING = [case for case in CASES if case.remembers]
ROW_CASES = [case for case in CASES if case not in MAP_CASES]


def pure_twins(case, **options):
    """In float64; evaluation mode where the layer remembers."""
    return [layer.double().train(not case.remembers) for layer in twins(case, **options)]


def inputs(case, count=1):
    return [torch.randn(case.shape, dtype=torch.float64) for _ in range(count)]


def mask_of(case):
    shape = case.shape if case in ROW_CASES else (case.shape[0], *case.shape[2:])
    mask = torch.rand(shape) < 0.6
    mask.view(shape[0], -1)[:, :3] = True
    return mask


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_grad_and_vjp(case, backend):
    ours, theirs = pure_twins(case, activation="silu")
    x, cotangent = inputs(case, 2)
    parameters = {name: p.detach() for name, p in ours.named_parameters()}

    def loss(layer, finish):
        return lambda p, x: (finish(functional_call(layer, p, (x,))) * cotangent).sum()

    with backend():
        found = grad(loss(ours, lambda y: y), argnums=(0, 1))(parameters, x)
        y, back = vjp(ours, x)
    expected = grad(loss(theirs, nn.functional.silu), argnums=(0, 1))(parameters, x)
    assert_close(found, expected)
    assert_close(y, nn.functional.silu(theirs(x)))
    assert_close(back(cotangent)[0], expected[1])


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_jvp_and_forward_mode(case, backend):
    """Against the double-backward trick on torch's layer: the tangent is a derivative of the transposed product."""
    ours, theirs = pure_twins(case, activation="gelu")
    x, tangent = inputs(case, 2)
    expected = torch.autograd.functional.jvp(lambda x: nn.functional.gelu(theirs(x)), x, tangent)
    with backend():
        assert_close(jvp(ours, (x,), (tangent,)), expected)
        with forward_ad.dual_level():
            y = forward_ad.unpack_dual(ours(forward_ad.make_dual(x, tangent)))
    assert_close((y.primal, y.tangent), expected)


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_jvp_with_mask_and_residual(case, backend):
    layer = randomize(case.build(activation="tanh")).double().train(not case.remembers)
    x, residual, tangent, residual_tangent = inputs(case, 4)
    mask = mask_of(case)
    with backend():

        def call(x, residual):
            return layer(x, residual, mask)

        found = jvp(call, (x, residual), (tangent, residual_tangent))
        expected = torch.autograd.functional.jvp(call, (x, residual), (tangent, residual_tangent))
    assert_close(found, expected)


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_vmap(case, backend):
    """Over the input, over masks and residuals, and over an ensemble of parameters."""
    layer = randomize(case.build(activation="relu")).double().train(not case.remembers)
    xs, residuals = (torch.stack(inputs(case, 3)) for _ in range(2))
    masks = torch.stack([mask_of(case) for _ in range(3)])
    with backend():
        assert_close(vmap(layer)(xs), torch.stack([layer(x) for x in xs]))
        assert_close(
            vmap(layer, in_dims=1, out_dims=1)(xs.transpose(0, 1).contiguous()), vmap(layer)(xs).transpose(0, 1)
        )
        found = vmap(layer)(xs, residuals, masks)
        expected = [layer(x, r, m) for x, r, m in zip(xs, residuals, masks, strict=True)]
    assert_close(found, torch.stack(expected))


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_an_ensemble_of_layers(case, backend):
    layers = [randomize(case.build()).double().train(not case.remembers) for _ in range(3)]
    parameters, buffers = stack_module_state(layers)
    x = inputs(case)[0]
    if not parameters and not buffers:
        return
    with backend():
        found = vmap(lambda p, b: functional_call(layers[0], (p, b), (x,)))(parameters, buffers)
        expected = torch.stack([layer(x) for layer in layers])
    assert_close(found, expected)


@pytest.mark.parametrize("case", [case for case in CASES if case.family != "BatchNorm"], ids=ids)
def test_gradients_per_sample(case, backend):
    """vmap of grad, as differential privacy needs it: each sample's own gradient."""
    layer = randomize(case.build(activation="silu")).double().train(not case.remembers)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    x, cotangent = inputs(case, 2)

    def loss(p, x, c):
        return (functional_call(layer, p, (x[None],)) * c).sum()

    with backend():
        found = vmap(grad(loss, argnums=(0, 1)), in_dims=(None, 0, 0))(parameters, x, cotangent)
        for n in range(len(x)):
            one = x[n : n + 1].clone().requires_grad_()
            grads = gradients(layer(one), [one, *layer.parameters()], cotangent[n : n + 1])
            assert_close(found[1][n], grads[0][0])
            assert_close([g[n] for g in found[0].values()], grads[1:])


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_jacobians(case, backend):
    ours, theirs = pure_twins(case)
    x = inputs(case)[0][:2, ..., :2] if case in MAP_CASES and case.rank else inputs(case)[0][:2]
    expected = torch.autograd.functional.jacobian(theirs, x)
    with backend():
        assert_close(jacrev(ours)(x), expected)
        assert_close(jacfwd(ours)(x), expected)


@pytest.mark.parametrize("case", [case for case in PURE if case.rank < 3], ids=ids)
def test_hessian(case, backend):
    ours, theirs = pure_twins(case)
    x = inputs(case)[0][:2, ..., :2] if case in MAP_CASES and case.rank else inputs(case)[0][:2]
    expected = torch.autograd.functional.hessian(lambda x: theirs(x).pow(3).sum(), x)
    with backend():
        assert_close(hessian(lambda x: ours(x).pow(3).sum())(x), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("transform", ["grad", "jvp", "vmap"])
@pytest.mark.parametrize("case", REMEMBERING, ids=ids)
def test_a_hidden_update_inside_a_transform_is_refused(case, transform, backend):
    """torch: an error about in-place operations, or none. A transformed function has no side effects."""
    layer = case.build()
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    x = torch.randn(case.shape)
    calls = {
        "grad": lambda: grad(lambda x: layer(x).square().sum())(x),
        "jvp": lambda: jvp(layer, (x,), (x,)),
        "vmap": lambda: vmap(layer)(x[None]),
    }
    with backend(), pytest.raises(RuntimeError, match=r"cannot be updated from inside a torch\.func transform.*eval"):
        calls[transform]()
    assert_close(layer.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("case", REMEMBERING, ids=ids)
def test_updates_of_buffers_that_are_passed_in(case, backend):
    """What the error advises: training with the buffers as arguments of the transformed function."""
    layer, plain = (case.build().double() for _ in range(2))
    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    buffers = {name: b.clone() for name, b in layer.named_buffers()}
    x, cotangent = inputs(case, 2)

    def loss(parameters, buffers):
        y = functional_call(layer, (parameters, buffers), (x,))
        return (y * cotangent).sum(), buffers

    with backend():
        grads, updated = grad(loss, has_aux=True)(parameters, buffers)
        y = plain(x)
    assert_close(updated, dict(plain.named_buffers()))
    assert_close(list(grads.values()), gradients(y, list(plain.parameters()), cotangent))


@pytest.mark.parametrize("case", REMEMBERING, ids=ids)
def test_an_ensemble_in_training(case, backend):
    layers = [randomize(case.build()) for _ in range(3)]
    parameters, buffers = stack_module_state(layers)
    x = torch.randn(case.shape)

    def call(p, b):
        return functional_call(layers[0], (p, b), (x,)), b

    with backend():
        y, updated = vmap(call)(parameters, buffers)
        expected = torch.stack([layer(x) for layer in layers])
    assert_close(y, expected)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert_close(updated[name], torch.stack([getattr(layer, name) for layer in layers]))


def test_a_network_under_autocast(backend):
    """Convolutions give bf16; the parameters of the normalizer stay fp32."""
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nw.BatchNorm2d(6, activation="relu"), nn.Conv2d(6, 6, 3), nw.GroupNorm(2, 6)
    )
    with backend(), torch.autocast("cpu", dtype=torch.bfloat16):
        y = net(torch.randn(2, 3, 9, 9))
    y.float().square().sum().backward()
    assert y.dtype == torch.bfloat16
    assert net[1].running_var.dtype == torch.float32
    assert all(p.grad.dtype == torch.float32 for p in net.parameters())
