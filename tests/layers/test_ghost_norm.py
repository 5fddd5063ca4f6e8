"""Ghost batches against a loop over torch's BatchNorm."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import normwise as nw


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 9])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_each_chunk_is_a_batch_of_its_own(size, rank):
    generator = torch.Generator().manual_seed(rank)
    shape = (7, 4, 5, 3, 2)[: rank + 2]
    x = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    cotangent = torch.randn(shape, generator=generator, dtype=torch.float64)
    options = {"dtype": torch.float64}
    ghost = getattr(nw, f"GhostBatchNorm{rank}d")(4, ghost_size=size, **options)
    oracle = getattr(nn, f"BatchNorm{rank}d")(4, **options)
    with torch.no_grad():
        for layer in (ghost, oracle):
            layer.weight.copy_(torch.linspace(0.5, 2, 4))
            layer.bias.copy_(torch.linspace(-1, 1, 4))
    y = ghost(x)
    expected = torch.cat([oracle(chunk) for chunk in x.split(size)])
    assert_close(y, expected)
    parameters = [x, ghost.weight, ghost.bias]
    got = torch.autograd.grad(y, parameters, cotangent)
    want = torch.autograd.grad(expected, [x, oracle.weight, oracle.bias], cotangent)
    for g, w in zip(got, want, strict=True):
        assert_close(g, w)


def test_evaluation_is_batch_norms():
    x = torch.randn(7, 4, 5, 5) * 3 + torch.arange(7.0).view(-1, 1, 1, 1)  # chunks that differ
    ghost, oracle = nw.GhostBatchNorm2d(4, ghost_size=2), nn.BatchNorm2d(4)
    for _ in range(3):
        ghost(x)
        oracle(x)
    assert_close(ghost.running_var, oracle.running_var)
    assert_close(ghost.eval()(x), oracle.eval()(x))
    oracle.load_state_dict(ghost.state_dict())


def test_a_rest_of_one_value_joins_the_chunk_before_it():
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = nw.GhostBatchNorm1d(4, ghost_size=4, dtype=torch.float64)(x)
    oracle = nn.BatchNorm1d(4, dtype=torch.float64)
    assert_close(y, torch.cat([oracle(x[:4]), oracle(x[4:])]))
    with pytest.raises(ValueError, match=r"ghost_size=1\).*single value per channel.*larger ghost_size"):
        nw.GhostBatchNorm1d(4, ghost_size=1)(x)


def test_ghost_size_is_checked_and_shown():
    with pytest.raises(ValueError, match="ghost_size must be at least 1, received 0"):
        nw.GhostBatchNorm1d(4, ghost_size=0)
    assert "ghost_size=8" in repr(nw.GhostBatchNorm1d(4, ghost_size=8))
