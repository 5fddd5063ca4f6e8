"""Running statistics against their recurrence in NumPy."""

import numpy as np
import pytest
import torch

from normwise import Moments
from normwise.core.running import RunningStatistics


def buffers(channels=3, momentum=0.1):
    return RunningStatistics(torch.zeros(channels), torch.ones(channels), torch.tensor(0), momentum)


def batches(count=4):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(5, 3, 7, generator=generator) * (k + 1) + k for k in range(count)]


@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0, None])
def test_recurrence_with_the_unbiased_variance(momentum):
    running = buffers(momentum=momentum)
    mean, var = np.zeros(3), np.ones(3)
    for step, x in enumerate(batches(), start=1):
        running.update_from_batch(Moments.of(x).over_batch())
        a = 1 / step if momentum is None else momentum
        mean = (1 - a) * mean + a * x.double().numpy().mean((0, 2))
        var = (1 - a) * var + a * x.double().numpy().var((0, 2), ddof=0) * 35 / 34
        np.testing.assert_allclose(running.mean, mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(running.var, var, rtol=1e-5)
        assert running.batches.item() == step


def test_instances_are_averaged_over_the_samples():
    running = buffers(momentum=1.0)
    x = batches(1)[0].double().numpy()
    running.update_from_instances(Moments.of(torch.from_numpy(x).float()))
    np.testing.assert_allclose(running.mean, x.mean(2).mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(running.var, x.var(2, ddof=1).mean(0), rtol=1e-5)


def test_masked_instances_skip_the_empty_samples():
    x = batches(1)[0]
    mask = torch.ones(5, 1, 7, dtype=torch.bool)
    mask[2] = False
    running, kept = buffers(momentum=1.0), buffers(momentum=1.0)
    running.update_from_instances(Moments.of(x, mask))
    kept.update_from_instances(Moments.of(x[[0, 1, 3, 4]]))
    torch.testing.assert_close(running.mean, kept.mean)
    torch.testing.assert_close(running.var, kept.var)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_nothing_seen_changes_nothing(momentum):
    running = buffers(momentum=momentum)
    masked = Moments.of(batches(1)[0], torch.zeros(5, 1, 7, dtype=torch.bool))
    empty = Moments.of(torch.zeros(0, 3, 7))
    running.update_from_batch(masked.over_batch())
    running.update_from_batch(empty.over_batch())
    running.update_from_instances(masked)
    running.update_from_instances(empty)
    assert running.mean.eq(0).all()
    assert running.var.eq(1).all()
    assert running.batches.item() == 0


@pytest.mark.parametrize("kept", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("given", [torch.float32, torch.float64], ids=str)
def test_momentum_weighs_the_new_value_in_every_dtype(kept, given):
    mean, var = torch.tensor([1.0, -2.0]).to(kept), torch.tensor([0.5, 4.0]).to(kept)
    running = RunningStatistics(mean.clone(), var.clone(), None, 0.25)
    new_mean, new_var = torch.tensor([3.0, 2.0]).to(given), torch.tensor([1.5, 8.0]).to(given)
    running.update(new_mean, new_var)
    # Quarters of small whole numbers are exact in all of these types.
    assert torch.equal(running.mean.double(), 0.75 * mean.double() + 0.25 * new_mean.double())
    assert torch.equal(running.var.double(), 0.75 * var.double() + 0.25 * new_var.double())


@pytest.mark.parametrize("kept", [torch.float32, torch.float64], ids=str)
def test_known_moments_do_not_follow_later_updates(kept):
    """Nor do those whose dtype already is the table's, so that nothing had to be converted."""
    running = RunningStatistics(torch.zeros(3, dtype=kept), torch.ones(3, dtype=kept), None, 0.5)
    known = running.moments()
    running.update(torch.ones(3), torch.ones(3) * 5)
    assert known.mean.eq(0).all()
    assert known.var.eq(1).all()


def test_narrow_buffers_are_updated_in_fp32():
    running = RunningStatistics(torch.zeros(1).bfloat16(), torch.ones(1).bfloat16(), torch.tensor(0), 0.1)
    running.update(torch.tensor([1.0]), torch.tensor([3.0]))
    assert running.mean.item() == torch.tensor(0.1).bfloat16().item()
    assert running.var.item() == torch.tensor(1.2).bfloat16().item()


def test_cumulative_average_needs_its_counter():
    running = RunningStatistics(torch.zeros(1), torch.ones(1), None, None)
    with pytest.raises(ValueError, match="needs the buffer num_batches_tracked"):
        running.update(torch.ones(1), torch.ones(1))


def test_one_value_has_no_variance_to_remember():
    mask = torch.zeros(5, 1, 7, dtype=torch.bool)
    mask[1, 0, 3] = True
    running = buffers()
    running.update_from_batch(Moments.of(batches(1)[0], mask).over_batch())
    running.update_from_instances(Moments.of(batches(1)[0], mask))
    assert running.var.eq(1).all()
    assert running.batches.item() == 0
