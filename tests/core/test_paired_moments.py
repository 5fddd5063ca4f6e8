"""The table of a device without fp64: pairs of fp32 numbers, against float64 NumPy."""

import copy
import pickle

import numpy as np
import pytest
import torch

from normwise.core import moments, precision
from normwise.core.moments import Moments, PairedMoments, concatenate, stack

SHAPE = (6, 4, 35)


@pytest.fixture(autouse=True)
def _without_fp64(monkeypatch):
    monkeypatch.setitem(precision._HAS_FP64, "cpu", False)


def data(offset, mask=False):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(SHAPE, generator=generator) + offset + torch.arange(4.0).view(4, 1)
    keep = torch.rand(6, 1, 35, generator=generator) < 0.7
    keep[2] = False  # a sample without a value
    return x, keep if mask else None


def assert_exact(table, values):
    """Means to 8 roundings of a standard deviation, which for large offsets no single fp32 number can be."""
    assert table.mean.dtype == table.var.dtype == table.rest.dtype == torch.float32
    mean, var = np.mean(values), np.var(values)
    found = table.mean.double() + table.rest.double()
    assert abs(found.item() - mean) < 8 * 2**-24 * max(np.sqrt(var), 1)
    assert table.var.item() == pytest.approx(var, rel=16 * 2**-24)


def kept(x, mask, samples, channels):
    values = x.double().numpy()[samples, channels]
    return values if mask is None else values[np.broadcast_to(mask.numpy(), SHAPE)[samples, channels]]


POOLS = {
    "batch": (lambda t: t.over_batch(), lambda n, c: (slice(None), c)),
    "channels": (lambda t: t.over_channels(), lambda n, c: (n, slice(None))),
    "groups": (lambda t: t.over_groups(2), lambda n, c: (n, slice(c // 2 * 2, c // 2 * 2 + 2))),
    "chunks": (lambda t: t.over_chunks(4), lambda n, c: (slice(0, 4) if n < 4 else slice(4, 6), c)),
    "planes": (lambda t: t, lambda n, c: (n, c)),
    "shards": (lambda t: concatenate([t.over_batch()] * 6), lambda n, c: (slice(None), c)),
    "merged": (
        lambda t: t._map(lambda p: p[:2]).over_batch().merge(t._map(lambda p: p[2:]).over_batch()),
        lambda n, c: (slice(None), c),
    ),
}


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("offset", [0.0, 100.0, 10_000.0])
@pytest.mark.parametrize("name", POOLS)
def test_pools(name, offset, masked):
    pool, part = POOLS[name]
    if name == "merged" and masked:
        pytest.skip("its count would have to be cut, too")
    x, mask = data(offset, masked)
    table = pool(Moments.of(x, mask))
    assert isinstance(table, PairedMoments)
    for n in (0, 1, 5):
        for c in range(4):
            entry = table._map(lambda t, n=n, c=c: t[n if t.shape[0] > 1 else 0, c if t.shape[1] > 1 else 0])
            assert_exact(entry, kept(x, mask, *part(n, c)))


def test_differences_are_exact_to_their_own_size():
    x, _ = data(10_000.0)
    table = Moments.of(x)
    found, means = table.away_from(table.over_channels()).double(), x.double().numpy().mean(2)
    np.testing.assert_allclose(found, means - means.mean(1, keepdims=True), rtol=1e-5, atol=8 * 2**-24)


def test_over_processes(monkeypatch):
    x, _ = data(10_000.0)
    shards = [Moments.of(part).over_batch() for part in x.split([2, 4])]
    rows = torch.stack([torch.stack(shard._as_tensors()) for shard in shards])
    monkeypatch.setattr(moments, "gather", lambda table, group: rows)
    table = Moments.of(x[:2]).over_batch(processes="both")
    for c in range(4):
        assert_exact(table._map(lambda t, c=c: t[0, c]), kept(x, None, slice(None), c))


def test_gradients_are_those_of_the_means_and_variances():
    x, _ = data(10.0)
    of_mean, of_var = torch.randn(2, 6)
    narrow, wide = x.clone().requires_grad_(), x.double().requires_grad_()
    table = Moments.of(narrow).over_channels()
    (table.mean.flatten() * of_mean + table.var.flatten() * of_var).sum().backward()
    (wide.mean((1, 2)) * of_mean + wide.var((1, 2), correction=0) * of_var).sum().backward()
    torch.testing.assert_close(narrow.grad.double(), wide.grad, rtol=1e-5, atol=1e-7)


def test_copies_keep_the_rest():
    table = Moments.of(data(100.0)[0])
    for other in (
        copy.deepcopy(table),
        pickle.loads(pickle.dumps(table)),
        table._replace(var=table.var),
        stack([table]),
    ):
        assert torch.equal(other.rest.view(6, 4), table.rest)


def test_beside_a_table_without_rests():
    table = Moments.of(data(100.0)[0])
    plain = Moments(table.mean, table.var, table.count)
    assert concatenate([table, plain]).rest is None
    assert torch.equal(table.away_from(plain), table.rest)
    assert torch.equal(plain.away_from(table), -table.rest)


@pytest.mark.parametrize("answer", [True, False])
def test_other_devices_are_asked_once(answer, monkeypatch):
    asked = []

    def ones(_size, *, dtype, device):
        asked.append(device)
        if not answer:
            raise TypeError("no fp64 here")
        return torch.full((1,), 1.0, dtype=dtype)

    monkeypatch.setattr(precision, "_HAS_FP64", {"cpu": True})
    monkeypatch.setattr(precision.torch, "ones", ones)
    assert precision.has_fp64("some") is precision.has_fp64("some") is answer
    assert precision.has_fp64("cpu")
    assert asked == ["some"]


@pytest.mark.parametrize(("kind", "known"), [("cpu", True), ("cuda", True), ("meta", True), ("mps", False)])
def test_some_devices_are_known_by_name(kind, known, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(precision.torch, "ones", None)  # nobody is asked
    assert precision.has_fp64(kind) is known
