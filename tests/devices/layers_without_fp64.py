"""Run by test_without_fp64.py: every layer of the table on a device without fp64, against itself in fp64 on the CPU."""

from __future__ import annotations

import contextlib
import inspect

import pytest
import torch
from conformance.cases import TOLERANCE, assert_near, cases, needs_processes, trained, truth

import normwise as nw
from normwise import use_backend

from .device import OnDevice, register
from .there import there

CASES = [pytest.param(case, id=case.id) for case in cases()]


@pytest.fixture(autouse=True)
def _registered():
    register()


def on_cpu(results):
    assert all(isinstance(t, OnDevice) for t in results.values())
    return {name: t.cpu() for name, t in results.items()}


def run(case, dtype, training, **options):
    given = [case.input(dtype), case.input(dtype, seed=1), training, case.condition(dtype)]
    return on_cpu(trained(there(case.layer(dtype)), *there(tuple(given)), **there(options)))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", ["automatic", "reference"])
def test_output_gradients_and_buffers(case, training, dtype, backend):
    if needs_processes(case) and training:
        pytest.skip("needs a process group")
    with contextlib.nullcontext() if backend == "automatic" else use_backend(backend):
        got = run(case, dtype, training)
    assert got["y"].dtype == dtype
    assert_near(got, truth(case, dtype, training), TOLERANCE[dtype])


@pytest.mark.parametrize("case", CASES)
def test_mask_and_residual(case):
    layer = case.layer()
    arguments = inspect.signature(layer.forward).parameters
    if needs_processes(case) or not {"mask", "residual"} & arguments.keys():
        pytest.skip("takes neither a mask nor a residual")
    x = case.input()
    shape = (x.shape[0], *x.shape[2:]) if case.maps else x.shape
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(3)) < 0.7
    options = {"mask": mask, "residual": case.input(seed=2)}
    options = {name: value for name, value in options.items() if name in arguments}
    with use_backend("reference"):
        wanted = trained(layer, x, case.input(seed=1), True, case.condition(), **options)
    assert_near(run(case, torch.float32, True, **options), wanted, TOLERANCE[torch.float32])


def offset_input(case, offset):
    x = torch.randn(case.input().shape, generator=torch.Generator().manual_seed(5))
    return x + offset + 0.25 * torch.arange(8).view(1, 8, *[1] * case.rank)  # and channels that differ


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("offset", [100.0, 1000.0])
def test_a_mean_of_many_standard_deviations_costs_no_digits(case, masked, offset):
    """The general path subtracts a mean that is known to more digits than fp32 has.

    Rounded to fp32, a mean of 1000 standard deviations is off by up to 3e-5 of one, and so would be all of y.
    """
    layer, x = case.layer(torch.float32), offset_input(case, offset) if case.maps else None
    takes_masks = "mask" in inspect.signature(layer.forward).parameters
    if needs_processes(case) or x is None or case.name == "spade" or (masked and not takes_masks):
        pytest.skip("not on the general path, with convolutions that round as much, or without masks")
    mask = torch.rand(4, *x.shape[2:], generator=torch.Generator().manual_seed(3)) < 0.7
    options = {"mask": mask} if masked else {}
    cotangent, condition = case.input(torch.float32, 1), case.condition(torch.float32)
    wide = [t.double() if t.is_floating_point() else t for t in condition]
    with use_backend("reference"):
        exact = case.layer(torch.float32).double()
        wanted = trained(exact, x.double(), cotangent.double(), True, wide, **options)
        got = on_cpu(trained(there(layer), *there((x, cotangent)), True, there(condition), **there(options)))
    # The roundings of a few operations on numbers of y's size, and of sums of some hundred of them.
    for name, roundings in (("y", 8), ("x.grad", 16), ("weight.grad", 32), ("gate.grad", 64), ("mean_weight.grad", 64)):
        if name in wanted and wanted[name].norm() > 0:
            error = (got[name].double() - wanted[name]).norm() / wanted[name].norm()
            assert error < roundings * 2**-24, name


@pytest.mark.parametrize("offset", [100.0, 1000.0])
def test_a_correction_towards_a_memory_costs_no_digits(offset):
    """Batch Renormalization without bounds gives what evaluation gives: the difference of two large means is exact."""
    layer = nw.BatchRenorm2d(8, r_max=float("inf"), d_max=float("inf"))
    layer.running_mean.fill_(offset + 0.5)
    x = torch.randn(4, 8, 5, 6) + offset
    wanted = (x.double() - layer.running_mean.double().view(-1, 1, 1)) / (1 + layer.eps) ** 0.5
    found = there(layer)(there(x)).detach().cpu()
    assert (found.double() - wanted).norm() / wanted.norm() < 8 * 2**-24
