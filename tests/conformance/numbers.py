"""Promises about numbers: every dtype and layout, data far from zero, one rounding, nothing at all, what comes last."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.testing import assert_close

from normwise.backends import cpu
from normwise.core.moments import statistics_dtype
from normwise.layers import NORMALIZERS

from .cases import (
    ERROR,
    LAYOUTS,
    NOT_APPLICABLE,
    TOLERANCE,
    WORKS,
    Case,
    assert_near,
    modes,
    trained,
    truth,
)

DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
#: Half a unit in the last place.
UNIT = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
#: What an input may be without; a row of the table has an input without samples or positions as any other.
NOTHING = ("no sample", "no position", "neither")


def values(case: Case, dtype: str, layout: str, training: bool) -> str:
    """Output, gradients and buffers in a dtype and layout, against fp64 contiguous."""
    if layout == "channels_last" and (case.rank not in LAYOUTS or not case.maps):
        return NOT_APPLICABLE
    if training not in modes(case):
        return NOT_APPLICABLE
    kind = DTYPES[dtype]
    x, cotangent = case.input(), case.input(seed=1)
    if layout == "channels_last":
        x, cotangent = (t.to(memory_format=LAYOUTS[case.rank]) for t in (x, cotangent))
    got = trained(case.layer(kind), x.to(kind), cotangent.to(kind), training, case.condition(kind))
    assert got["y"].dtype == kind
    assert got["y"].stride() == x.stride(), "the memory layout changed"
    assert_near(got, truth(case, kind, training), TOLERANCE[kind])
    return WORKS


def far_from_zero(case: Case) -> str:
    """A mean of a hundred thousand deviations costs no digit: against the layer in fp64 on the same fp32 values."""
    if not case.maps:
        return NOT_APPLICABLE  # of rows torch's operator may serve; tests/operations/test_rows.py asks ours
    if cpu.unavailable() is not None:
        return NOT_APPLICABLE  # torch's operators serve without kernels, and cost the digits that they cost in torch.nn
    mean, std = 1e4, 0.1
    x = case.input(torch.float32) * std + mean
    for training in modes(case):
        layer, exact = (case.layer(torch.float32).to(dtype).train(training) for dtype in (torch.float32, torch.float64))
        for one in (layer, exact):
            for name, buffer in one.named_buffers():
                if not training and name.endswith(("running_mean", "running_var")):
                    buffer.fill_(mean if name.endswith("mean") else std**2)
        with torch.no_grad():
            y, want = layer(x, *case.condition(torch.float32)), exact(x.double(), *case.condition())
        # In evaluation torch's operator may serve, which multiplies the mean by the scale and rounds.
        unit = 1e-6 if training else 1e-3
        assert_close(y.double(), want, rtol=unit, atol=unit * float(want.abs().max()))
    return WORKS


def rounded_once(case: Case) -> str:
    """bf16 and fp16 in and out beside fp32 parameters, and nothing but the output's own rounding in between."""
    if case.name == "spade":
        return NOT_APPLICABLE  # it normalizes to x's dtype, and then modulates by maps whose large terms cancel
    for dtype, unit in UNIT.items():
        x, condition = case.input(dtype), case.condition(dtype)
        for training in modes(case):
            layer, wide = (case.layer(torch.float32).train(training) for _ in range(2))
            y = layer(x, *condition)
            wanted = wide.double()(x.double(), *(t.double() if t.is_floating_point() else t for t in condition))
            assert y.dtype == dtype
            assert_close(y.double(), wanted, rtol=unit, atol=1e-5)
    return WORKS


def empty(case: Case, missing: str, dtype: torch.dtype, training: bool, graph: bool) -> str:
    """An input without a value: an empty output, gradients of zero, and nothing remembered."""
    if training not in modes(case):
        return NOT_APPLICABLE
    layer, (x, *condition) = case.layer().to(dtype).train(training), _without(case, missing, dtype)
    before = {name: t.clone() for name, t in layer.named_buffers()}
    try:
        with torch.set_grad_enabled(graph):
            y = layer(x.requires_grad_(graph), *condition)
    except ValueError as error:
        if "SPADE: the segmentation is resized to the maps of x, which must not be" not in str(error):
            raise
        return ERROR
    assert y.shape == x.shape
    assert y.dtype == dtype
    if graph:
        y.sum().backward()
        grads = {name: t.grad for name, t in (("x", x), *layer.named_parameters())}
        assert_close(grads, {name: torch.zeros_like(t) for name, t in grads.items()})
    assert_close(dict(layer.named_buffers()), before, rtol=0, atol=0)
    return WORKS


def _without(case: Case, missing: str, dtype: torch.dtype) -> list[Tensor]:
    """The inputs of a case without samples, without positions of x, or without either."""
    x, *condition = case.input(dtype), *case.condition(dtype)
    if missing != "no position":
        x, *condition = (t[:0] for t in (x, *condition))
    if missing != "no sample":
        of_x = NORMALIZERS[case.name].condition == "gate"
        x, *condition = (t.narrow(2 if case.maps else 1, 0, 0) if t is x or of_x else t for t in (x, *condition))
    return [x, *condition]


def moved_by_no_autocast(case: Case) -> str:
    """Output and gradients have the bits and dtypes of a run without autocast."""
    if any(isinstance(module, nn.Conv2d | nn.Linear) for module in case.made().modules()):
        return NOT_APPLICABLE  # which predict from the condition, and go by autocast as torch's do
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        given = (case.input(dtype), case.input(dtype, seed=1))
        for training in modes(case):
            results = []
            for enabled in (True, False):
                layer = case.layer(statistics_dtype(dtype))
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
                    results.append(trained(layer, *given, training, case.condition(dtype)))
            assert results[0]["y"].dtype == dtype
            assert_close(results[0], results[1], rtol=0, atol=0)
    return WORKS


def residual_and_activation_come_last(case: Case) -> str:
    """act(norm(x) + residual)."""
    x, residual, condition = case.input(), case.input(seed=2), case.condition()
    for training in modes(case):
        plain, fused = (case.layer().train(training) for _ in range(2))
        if plain.activation is not None:
            return NOT_APPLICABLE  # a threshold of its own, which has its test
        fused.activation = "silu"
        assert "activation='silu'" in repr(fused)
        expected = torch.nn.functional.silu(plain(x, *condition) + residual)
        assert_close(fused(x, *condition, residual=residual), expected)
    return WORKS
