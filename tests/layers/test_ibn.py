"""IBN-a against float64 NumPy and the composition of the published code."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close
from transcriptions import BY_DTYPE, N, assert_is, data, exact

import normwise as nw
import normwise.functional as nf
from normwise.core.moments import statistics_dtype


def by_plane(x, axes, eps=1e-5):
    away = x - x.mean(axes, keepdims=True)
    return away / np.sqrt((away**2).mean(axes, keepdims=True) + eps)


@BY_DTYPE
@pytest.mark.parametrize("ratio", [0.5, 0.25, 0.7])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_ibn(rank, ratio, dtype, backend):
    layer = getattr(nw, f"IBN{rank}d")(10, ratio).to(statistics_dtype(dtype))
    space, first = (5, 4, 3)[:rank], int(10 * ratio)
    with torch.no_grad():
        for i, p in enumerate(layer.parameters()):
            p.copy_(data(*p.shape, seed=i + 1))
    x = data(N, 10, *space, dtype=dtype)
    with backend():
        y = layer(x)
    values, axes = exact(x), tuple(range(2, rank + 2))
    column = (-1, *(1,) * rank)
    parts = by_plane(values[:, :first], axes), by_plane(values[:, first:], (0, *axes))
    for part, truth, channels in zip((layer.IN, layer.BN), parts, (slice(first), slice(first, None)), strict=True):
        weight, bias = (exact(t).reshape(column) for t in (part.weight, part.bias))
        assert_is(y[:, channels], truth * weight + bias)
    assert_close(
        layer.BN.running_mean.double(), torch.from_numpy(0.1 * values[:, first:].mean((0, *axes))), rtol=1e-4, atol=1e-5
    )
    with backend():
        known = layer.eval()(x)[:, first:]
    stats = [
        exact(t).reshape(column) for t in (layer.BN.running_mean, layer.BN.running_var, layer.BN.weight, layer.BN.bias)
    ]
    assert_is(known, (values[:, first:] - stats[0]) / np.sqrt(stats[1] + 1e-5) * stats[2] + stats[3])


def test_ibn_takes_the_state_of_the_published_code_and_its_values():
    published = nn.Module()
    published.IN, published.BN = nn.InstanceNorm2d(4, affine=True), nn.BatchNorm2d(4)
    for t in published.parameters():
        nn.init.normal_(t)
    ours = nw.IBN2d(8)
    ours.load_state_dict(published.state_dict())
    assert list(ours.state_dict()) == list(published.state_dict())
    x = data(N, 8, 5, 6, dtype=torch.float32).contiguous(memory_format=torch.channels_last)
    one, other = x.split(4, 1)
    y = ours(x)
    assert_close(
        y, torch.cat((published.IN(one.contiguous()), published.BN(other.contiguous())), 1), rtol=1e-5, atol=1e-5
    )
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert_close(ours.state_dict(), published.state_dict())


def test_ibn_with_residual_activation_and_mask():
    layer, x, h = nw.IBN2d(8, activation="silu").double(), data(N, 8, 5, 6), data(N, 8, 5, 6, seed=1)
    mask = torch.rand(N, 5, 6, generator=torch.Generator().manual_seed(3)) < 0.7
    parts = nw.InstanceNorm2d(4, affine=True).double(), nw.BatchNorm2d(4).double()
    expected = torch.cat([part(t, mask=mask) for part, t in zip(parts, x.split(4, 1), strict=True)], 1)
    assert_close(layer(x, h, mask), F.silu(expected + h))
    assert layer.activation == layer.IN.activation == layer.BN.activation == "silu"
    y, batch = nf.ibn(x, 4, mask=mask, residual=h, activation="silu")
    assert_close(y, layer(x, h, mask))
    assert_close(batch.mean.squeeze(0), x[:, 4:].movedim(1, -1)[mask].mean(0))


def test_ibn_says_what_does_not_fit():
    with pytest.raises(ValueError, match=r"ratio must leave a channel for either part, received 0\.1 of 8 channels"):
        nw.IBN2d(8, 0.1)
    with pytest.raises(ValueError, match="expected 8 channels in dimension 1"):
        nw.IBN2d(8)(data(N, 6, 5, 5))
    with pytest.raises(ValueError, match="first must leave a channel for the batch, received 8 of 8 channels"):
        nf.ibn(data(N, 8, 5), 8)


def test_swap_to_ibn_keeps_what_the_batch_part_knows():
    """Its half of the channels goes on as it was; the instances' half begins where an InstanceNorm would."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    for _ in range(20):
        net(data(4, 3, 9, 9, dtype=torch.float32))
    nn.init.normal_(net[1].weight)
    nn.init.normal_(net[1].bias)
    old, alone = net[1], nn.Sequential(net[0], nn.BatchNorm2d(8))
    alone[1].load_state_dict(old.state_dict())
    nw.swap(alone, "instance", start="data-free")
    x = data(4, 3, 9, 9, seed=1, dtype=torch.float32)
    before = net.eval()[:2](x)
    nw.swap(net, "ibn", start="data-free")
    after = net.eval()[:2](x)
    assert isinstance(net[1], nw.IBN2d)
    assert_close(after[:, 4:], before[:, 4:], rtol=1e-5, atol=1e-5)
    assert_close(after[:, :4], alone.eval()(x)[:, :4], rtol=1e-5, atol=1e-5)
