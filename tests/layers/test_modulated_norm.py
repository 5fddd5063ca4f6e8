"""Scale, shift and gate by a condition: AdaLN against float64 NumPy."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from marks import needs_kernels
from torch import nn
from torch.testing import assert_close
from transcriptions import BY_DTYPE, C, K, L, N, assert_is, data, exact, gradients_agree, layer_norm, rms_norm, silu

import normwise as nw
import normwise.functional as nf

MODULATED = {"layer": (nf.modulated_layer_norm, layer_norm), "rms": (nf.modulated_rms_norm, rms_norm)}
#: Of scale and shift beside [N, L, C]: for each sample, for each token, and mixtures that no kernel takes.
TABLES = {"samples": (N, C), "samples, 3-D": (N, 1, C), "tokens": (N, L, C), "positions": (1, L, C)}


@BY_DTYPE
@pytest.mark.parametrize("shape", TABLES)
@pytest.mark.parametrize("name", MODULATED)
def test_modulated_rows(name, shape, dtype, backend):
    function, truth = MODULATED[name]
    x, scale, shift = (data(*size, seed=i, dtype=dtype) for i, size in enumerate([(N, L, C), *[TABLES[shape]] * 2]))
    with backend():
        y = function(x, scale, shift)
    assert y.dtype == dtype
    s, b = (exact(t).reshape(N, 1, C) if shape == "samples" else exact(t) for t in (scale, shift))
    assert_is(y, truth(exact(x), 1e-6) * (1 + s) + b)


@BY_DTYPE
@pytest.mark.parametrize("shape", TABLES)
@pytest.mark.parametrize("name", MODULATED)
def test_gradients_of_modulated_rows(name, shape, dtype, backend):
    size = TABLES[shape]

    def truth(x, scale, shift):
        scale, shift = (t.unsqueeze(1) if t.dim() == 2 else t for t in (scale, shift))
        y = F.layer_norm(x, [C], eps=1e-6) if name == "layer" else F.rms_norm(x, [C], eps=1e-6)
        return y * (1 + scale) + shift

    leaves = [data(*s, seed=i, dtype=dtype).requires_grad_() for i, s in enumerate([(N, L, C), size, size])]
    with backend():
        gradients_agree(MODULATED[name][0], truth, leaves)


@needs_kernels
@pytest.mark.parametrize(
    ("shape", "table"),
    [((70, 2, 33), (70, 1, 33)), ((2, 300, 64), (2, 64)), ((2, 3, 4, 16), (2, 3, 1, 16)), ((5, 17), (5, 17))],
)
@pytest.mark.parametrize("kept", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_sets_of_many_sizes_and_tables_of_other_types(shape, table, kept, dtype):
    """More sets than tasks, sets cut into tasks, frames of a video, single tokens."""
    leaves = [data(*shape, dtype=dtype), *(data(*table, seed=i, dtype=kept) for i in (1, 2))]

    def truth(x, scale, shift):
        scale, shift = (t.unsqueeze(1) if t.dim() < x.dim() else t for t in (scale, shift))
        return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift

    with nw.use_backend("cpu"):
        gradients_agree(nf.modulated_layer_norm, truth, [t.requires_grad_() for t in leaves])


def test_only_a_scale_or_only_a_shift(backend):
    x, table = data(N, L, C), data(N, C, seed=1)
    plain, rows = torch.from_numpy(layer_norm(exact(x), 1e-6)), table.unsqueeze(1)
    with backend():
        assert_close(nf.modulated_layer_norm(x, table), plain * (1 + rows))
        assert_close(nf.modulated_layer_norm(x, None, table), plain + rows)
        assert_close(nf.modulated_layer_norm(x, None), plain)


def test_second_derivatives_of_modulated_and_gated_rows():
    x, scale, shift, gate = (
        t.requires_grad_() for t in (data(2, 3, 4), *(data(2, 4, seed=i) for i in (1, 2)), data(2, 3, 4, seed=3))
    )
    assert torch.autograd.gradgradcheck(nf.modulated_layer_norm, (x, scale, shift))
    assert torch.autograd.gradgradcheck(nf.gated_rms_norm, (x, gate))


@pytest.mark.parametrize("kind", [nw.AdaptiveLayerNorm, nw.AdaptiveRMSNorm])
@pytest.mark.parametrize("size", [(N, K), (N, L, K)], ids=["samples", "tokens"])
def test_an_adaptive_norm_is_a_projection_of_its_condition(kind, size, backend):
    layer, x, c = kind(C, K, gate=True).double(), data(N, L, C), data(*size, seed=1)
    assert all(p.count_nonzero() == 0 for p in layer.parameters())
    nn.init.normal_(layer.linear.weight)
    nn.init.normal_(layer.linear.bias)
    with backend():
        y, gate = layer(x, c)
    tables = silu(exact(c)) @ exact(layer.linear.weight).T + exact(layer.linear.bias)
    shift, scale, g = (t.reshape(N, -1, C) for t in np.split(tables, 3, axis=-1))
    truth = layer_norm if kind is nw.AdaptiveLayerNorm else rms_norm
    assert_is(y, truth(exact(x), 1e-6) * (1 + scale) + shift)
    assert_is(gate, g)


def test_a_block_with_a_gate_begins_as_the_identity():
    norm, block = nw.AdaptiveLayerNorm(C, K, gate=True), nn.Linear(C, C)
    x, c = data(N, L, C, dtype=torch.float32), data(N, K, dtype=torch.float32)
    y, gate = norm(x, c)
    assert torch.equal(x + gate * block(y), x)


def test_an_adaptive_norm_says_what_does_not_fit():
    layer, x = nw.AdaptiveLayerNorm(C, K), data(N, L, C, dtype=torch.float32)
    for condition in (data(N, K + 1), data(L, K), data(N, 1, 1, K)):
        with pytest.raises(ValueError, match=r"the condition must be \[N, 4\].*received"):
            layer(x, condition.float())
    with pytest.raises(TypeError, match="the condition expects a floating tensor"):
        layer(x, torch.ones(N, K, dtype=torch.long))
    with pytest.raises(ValueError, match=r"scale must be \[N, C\] = \[3, 12\], one for each sample"):
        nf.modulated_layer_norm(x, torch.ones(L, C))
    with pytest.raises(ValueError, match="must be at least 1"):
        nw.AdaptiveRMSNorm(C, 0)


@pytest.mark.parametrize("kind", [nw.AdaptiveLayerNorm, nw.AdaptiveRMSNorm])
@pytest.mark.parametrize("narrow", ["the layer", "the condition", "both", "the rows"])
def test_types_side_by_side(kind, narrow):
    """The projection is computed in the widest type: what is narrow was rounded before, nothing is in between."""
    layer = kind(C, K, gate=True, dtype=torch.bfloat16 if narrow in ("the layer", "both") else None)
    with torch.no_grad():
        for i, p in enumerate(layer.parameters()):
            p.copy_(data(*p.shape, seed=20 + i))
    x = data(N, L, C, dtype=torch.bfloat16 if narrow == "the rows" else torch.float32)
    condition = data(N, K, seed=9, dtype=torch.bfloat16 if narrow in ("the condition", "both") else torch.float32)
    y, gate = layer(x, condition)
    assert y.dtype is x.dtype
    assert gate.dtype is torch.float32
    weight, bias = exact(layer.linear.weight), exact(layer.linear.bias)
    shift, scale, g = np.split(silu(exact(condition)) @ weight.T + bias, 3, axis=-1)
    rows = layer_norm(exact(x), 1e-6) if kind is nw.AdaptiveLayerNorm else rms_norm(exact(x), 1e-6)
    assert_is(y, rows * (1 + scale[:, None]) + shift[:, None])
    assert_close(gate[:, 0].detach().double().numpy(), g, rtol=1e-5, atol=1e-5)
    (y.float().square().sum() + gate.sum()).backward()
    assert layer.linear.weight.grad.dtype is layer.linear.weight.dtype
