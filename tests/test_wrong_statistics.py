"""Known statistics, own formulas' parameters and updates that do not fit."""

import functools

import pytest
import torch

import normwise.functional as nf
from normwise import Affine, Moments, normalize

X, ONES, ZEROS = torch.randn(4, 6, 5, 3), torch.ones(6), torch.zeros(6)


def plain(moments, weight=None):
    scale = (moments.var + 1e-5).rsqrt()
    return Affine(moments.mean, scale if weight is None else weight * scale, 0.0)


MEAN, VAR = ZEROS.unsqueeze(0), ONES.unsqueeze(0)


@pytest.mark.parametrize(
    ("moments", "error", "message"),
    [
        ((MEAN, VAR), TypeError, r"moments must be Moments\(mean, var, count\), received tuple; write"),
        (Moments(MEAN.to("meta"), VAR, 1), ValueError, "mean must be on the input's device, cpu"),
        (Moments(MEAN, VAR.to("meta"), 1), ValueError, "var must be on the input's device, cpu"),
        (Moments(MEAN + 1j, VAR, 1), TypeError, "mean must hold real floating numbers"),
        (Moments(MEAN, VAR.long(), 1), TypeError, "var must hold real floating numbers"),
        (Moments(ZEROS, VAR, 1), ValueError, r"mean must broadcast .*received \[6\]; write mean.unsqueeze\(0\)"),
        (
            Moments(MEAN, VAR[:, :5], 1),
            ValueError,
            r"var must broadcast against \[N, C\] = \[4, 6\].*received \[1, 5\]",
        ),
        (Moments(0.0, VAR, 1), TypeError, "mean must be a tensor .*received float"),
        (Moments(MEAN, VAR, -1), ValueError, "count must be at least 0, received -1"),
        (Moments(MEAN, VAR, True), TypeError, "count must be a whole number or a tensor, received bool"),
        (Moments(MEAN, VAR, 4.0), TypeError, "count must be a whole number or a tensor, received float"),
        (Moments(MEAN, VAR, VAR + 1j), TypeError, "count must hold real numbers, received torch.complex64"),
        (Moments(MEAN, VAR, torch.ones(5)), ValueError, r"count must be a number or broadcast .*received \[5\]"),
        (Moments(MEAN, VAR, VAR.to("meta")), ValueError, "count must be on the input's device"),
    ],
)
def test_known_statistics(moments, error, message, backend):
    with backend(), pytest.raises(error, match=message):
        normalize(X, plain, moments=moments)


@pytest.mark.parametrize(
    ("parameter", "error", "message"),
    [
        (ONES + 1j, TypeError, "parameter 1 of the formula must hold real numbers, received torch.complex64"),
        (ONES.to("meta"), ValueError, "parameter 1 of the formula must be on the input's device"),
        (ONES.to_sparse(), TypeError, "parameter 1 of the formula must be dense"),
        (1.0, TypeError, "parameter 1 of the formula must be a tensor or None, received float"),
    ],
)
def test_parameters_of_an_own_formula(parameter, error, message, backend):
    with backend(), pytest.raises(error, match=message):
        normalize(X, plain, parameter)
    with backend():
        expected = normalize(X, plain, 2 * ONES)
        torch.testing.assert_close(normalize(X, plain, torch.full((1, 1), 2)), expected)


def test_statistics_of_a_function():
    mix = torch.ones(3)
    calls = (
        functools.partial(nf.batch_norm, X),
        functools.partial(nf.switchable_norm, X, mix, mix),
        functools.partial(nf.batch_renorm, X),
    )
    for wrong, error in (
        (nf.Running(ZEROS + 1j, ONES, torch.tensor(0)), TypeError),
        (nf.Running(ZEROS, ONES.long(), torch.tensor(0)), TypeError),
        (nf.Running(ZEROS.to("meta"), ONES, torch.tensor(0)), ValueError),
        (nf.Running(ZEROS[:1], ONES, torch.tensor(0)), ValueError),
        (Moments(MEAN, VAR, -3), ValueError),
    ):
        for call in calls:
            with pytest.raises(error, match=r"(mean|var|count) must"):
                call(wrong)


def test_what_an_update_takes():
    batch, running = nf.batch_norm(X)[1], nf.initial_statistics(6)
    for old, new, momentum, message in (
        (nf.initial_statistics(5), batch, 0.1, r"mean must be \[6\] .*received \[5\]"),
        (nf.initial_statistics(1), batch, 0.1, r"mean must be \[6\] .*received \[1\]"),
        (running._replace(var=ONES.long()), batch, 0.1, "var must hold real floating numbers"),
        (running._replace(batches=torch.tensor(0.0)), batch, 0.1, "num_batches_tracked must be an int64 tensor"),
        (running, (MEAN, VAR), 0.1, "statistics must be the Moments of a batch, received tuple"),
        (running, batch, 2.0, "momentum must be from 0 to 1, received 2.0"),
        (running, batch, "0.1", "momentum must be a number, received '0.1'"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            nf.update_statistics(old, new, momentum)
