"""Promises of every normalizer of maps, each as one function that proves it for the layer that `make` builds."""

import copy
import io
import warnings

import torch
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from normwise import use_backend

#: Odd sizes for each rank; 8 samples of 6 channels.
SHAPES = {1: (8, 6, 7), 2: (8, 6, 5, 3), 3: (8, 6, 3, 2, 5)}


def data(shape, seed=0, dtype=torch.float64, mean=0.5, std=1.5):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * std + mean).to(dtype)


def trained(layer, rate=0.3):
    """Parameters off their special starting points, within every valid range."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(torch.rand(p.shape, generator=generator, dtype=p.dtype) * rate - rate).abs_()
    return layer


def step(layer, x, cotangent, **options):
    """Output and gradients of one pass; the layer's buffers move as they do in training."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    leaves = [x, *layer.parameters()]
    y = layer(x, **options)
    return [y.detach(), *torch.autograd.grad(y, leaves, cotangent, allow_unused=True)]


def memory(layer):
    return {name: t.clone() for name, t in layer.named_buffers()}


def padded_data_gives_what_unpadded_data_gives(make, rank):
    """Sequences cut at one length: their padding, here NaN, changes nothing, forward, backward and remembered."""
    x, cotangent = data(SHAPES[rank]), data(SHAPES[rank], seed=1)
    wide, wide_cotangent = (torch.nn.functional.pad(t, (0, 4), value=v) for t, v in ((x, torch.nan), (cotangent, 0.0)))
    mask = torch.zeros(wide.shape[0], *wide.shape[2:], dtype=torch.bool)
    mask[..., : x.shape[-1]] = True
    plain, masked = (trained(make(6, dtype=torch.float64)) for _ in range(2))
    for training in (True, False):
        expected = step(plain.train(training), x, cotangent)
        got = step(masked.train(training), wide, wide_cotangent, mask=mask)
        for k in (0, 1):
            got[k] = got[k][..., : x.shape[-1]]
        assert_close(got, expected)
        assert_close(memory(masked), memory(plain))
    if rank == 1:
        lengths = torch.full((x.shape[0],), x.shape[-1])
        assert_close(step(masked, wide, wide_cotangent, lengths=lengths)[0][..., : x.shape[-1]], expected[0])


def an_empty_batch_is_no_batch(make, rank):
    layer = make(6)
    before = memory(layer)
    for training in (True, False):
        grads = step(layer.train(training), torch.zeros(0, *SHAPES[rank][1:]), torch.zeros(0, *SHAPES[rank][1:]))
        assert grads[0].shape == (0, *SHAPES[rank][1:])
        assert all(grad is None or not grad.any() for grad in grads[2:])
    assert_close(memory(layer), before)


def a_mask_with_nothing_in_it_is_harmless(make, rank):
    layer = make(6)
    before = memory(layer)
    x = data(SHAPES[rank], dtype=torch.float32)
    nothing = torch.zeros(x.shape[0], *x.shape[2:], dtype=torch.bool)
    assert all(t is None or t.isfinite().all() for t in step(layer, x, torch.ones_like(x), mask=nothing))
    assert_close(memory(layer), before)


def large_offsets_cost_no_accuracy(make, rank, mean=1e4, std=0.1):
    """fp32 input, statistics as exact as fp32 input allows: against the layer itself in fp64 on the same values."""
    x = data(SHAPES[rank], dtype=torch.float32, mean=mean, std=std)
    for training in (True, False):
        layer, exact = make(6).train(training), make(6, dtype=torch.float64).train(training)
        if not training and memory(layer):
            for one in (layer, exact):
                one.running_mean.fill_(mean)
                one.running_var.fill_(std**2)
        with torch.no_grad():
            y, want = layer(x), exact(x.double())
        # In evaluation torch's operator may serve, which multiplies the mean by the scale and rounds.
        unit = 1e-6 if training else 1e-3
        assert_close(y.double(), want, rtol=unit, atol=unit * float(want.abs().max()))


def narrow_types_round_once(make, rank):
    """bf16 and fp16 in, out, and nothing but the output's own rounding in between; channels_last stays."""
    formats = {2: torch.channels_last, 3: torch.channels_last_3d}
    for dtype, unit in ((torch.bfloat16, 2.0**-8), (torch.float16, 2.0**-11)):
        x = data(SHAPES[rank], dtype=dtype)
        if rank in formats:
            x = x.to(memory_format=formats[rank])
        wide = trained(make(6, dtype=torch.float32))
        narrow = copy.deepcopy(wide)
        y = narrow(x)
        assert y.dtype == dtype
        assert y.stride() == x.stride()
        assert_close(y.double(), wide.double()(x.double()), rtol=unit, atol=1e-5)


def state_survives_saving_and_copying(make, rank):
    layer = trained(make(6))
    for seed in range(3):
        layer(data(SHAPES[rank], seed, torch.float32))
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    loaded, copied = make(6), copy.deepcopy(layer)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    pickled = torch.load(file, weights_only=False)
    x = data(SHAPES[rank], 9, torch.float32)
    for training in (True, False):
        expected = layer.train(training)(x)
        for other in (loaded, copied, pickled):
            assert_close(other.train(training)(x), expected, rtol=0, atol=0)
            assert_close(memory(other), memory(layer), rtol=0, atol=0)


def compiled_is_eager(make, rank):
    """One graph, aot_eager, over several steps of training and then evaluation."""
    x, cotangent = data(SHAPES[rank], dtype=torch.float32), data(SHAPES[rank], 1, torch.float32)
    layer = trained(make(6))
    twin = copy.deepcopy(layer)
    torch.compiler.reset()
    with warnings.catch_warnings():
        # torch's tracer of autograd functions warns about itself.
        warnings.filterwarnings("ignore", ".*should not be instantiated", DeprecationWarning)
        graph = torch.compile(twin, fullgraph=True, backend="aot_eager")
        for training in (True, True, False):
            layer.train(training), twin.train(training)
            leaf = x.clone().requires_grad_()
            y = graph(leaf)
            got = [y.detach(), *torch.autograd.grad(y, [leaf, *twin.parameters()], cotangent, allow_unused=True)]
            assert_close(got, step(layer, x, cotangent), rtol=1e-4, atol=1e-4)
            assert_close(memory(twin), memory(layer))


def evaluation_exports_and_maps(make, rank):
    layer, x = trained(make(6)).eval(), data(SHAPES[rank], dtype=torch.float32)
    assert_close(torch.export.export(layer, (x,)).module()(x), layer(x), rtol=1e-5, atol=1e-5)
    xs = torch.stack([x, x * 2 + 1])
    assert_close(torch.func.vmap(layer)(xs), torch.stack([layer(x) for x in xs]), rtol=1e-5, atol=1e-5)


def backends_agree(make, rank):
    x, cotangent = data(SHAPES[rank], dtype=torch.float32), data(SHAPES[rank], 1, torch.float32)
    layer = trained(make(6))
    twin = copy.deepcopy(layer)
    with use_backend("reference"):
        expected = step(twin, x, cotangent)
    assert_close(step(layer, x, cotangent), expected, rtol=1e-4, atol=1e-4)
    assert_close(memory(layer), memory(twin))


def residual_and_activation_come_last(make, rank):
    x, residual = data(SHAPES[rank]), data(SHAPES[rank], 1)
    plain = make(6, dtype=torch.float64, activation=None)
    fused = make(6, dtype=torch.float64, activation="silu")
    assert_close(fused(x, residual), torch.nn.functional.silu(plain(x) + residual))
    assert "activation='silu'" in repr(fused)


def checkpointing_changes_nothing(make, rank):
    """A recomputed pass gives the same gradients, and is remembered once; two passes before one backward."""
    xs = [data(SHAPES[rank], seed, mean=seed + 1.0) for seed in range(2)]
    cotangent = data(SHAPES[rank], 7)
    for reentrant in (False, True):
        plain, saving = (trained(make(6, dtype=torch.float64)) for _ in range(2))
        results = []
        for layer in (plain, saving):
            leaves = [x.clone().requires_grad_() for x in xs]
            if layer is plain:
                y = sum(layer(x).tanh() for x in leaves)
            else:
                y = sum(checkpoint(layer, x, use_reentrant=reentrant).tanh() for x in leaves)
            y.backward(cotangent)
            results.append([x.grad for x in leaves] + [p.grad for p in layer.parameters()])
        assert_close(results[1], results[0])
        assert_close(memory(saving), memory(plain))


def nothing_waits_for_the_device(make, rank):
    """A pass on the meta device: whoever asks a tensor for its value there gets an error."""
    x = torch.randn(SHAPES[rank], device="meta", requires_grad=True)
    for layer in (make(6, device="meta"), make(6, device="meta").eval()):
        layer(x).sum().backward()
        assert x.grad.shape == x.shape


def derivatives_agree_with_finite_differences(layer, shape, order):
    """``order`` is gradcheck or gradgradcheck, over the input and every parameter."""
    names = [name for name, _ in layer.named_parameters()]

    def call(x, *tensors):
        named = dict(zip(names, tensors, strict=True))
        return torch.func.functional_call(copy.deepcopy(layer), named, (x,))  # a copy: the memory must not move

    leaves = [data(shape), *(p.detach().clone() for p in layer.parameters())]
    assert order(call, [leaf.requires_grad_() for leaf in leaves], fast_mode=True)


#: What every layer promises; a test file runs all of them over its layers.
PROMISES = [
    padded_data_gives_what_unpadded_data_gives,
    an_empty_batch_is_no_batch,
    a_mask_with_nothing_in_it_is_harmless,
    large_offsets_cost_no_accuracy,
    narrow_types_round_once,
    state_survives_saving_and_copying,
    evaluation_exports_and_maps,
    backends_agree,
    residual_and_activation_come_last,
    checkpointing_changes_nothing,
    nothing_waits_for_the_device,
]
