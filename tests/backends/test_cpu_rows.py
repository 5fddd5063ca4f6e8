"""The row and column kernels against an independent transcription of LayerNorm and RMSNorm in float64."""

import ctypes
import sys

import numpy as np
import pytest
import torch
from marks import needs_kernels
from torch.testing import assert_close

from normwise.backends import cpu

pytestmark = needs_kernels

# Around a vector of each type, one value, more than one chunk of 4096, more rows than one block of 128, and rows that
# are cut into blocks of columns.
WIDTHS = [(5, 1), (37, 3), (9, 16), (140, 33), (17, 257), (3, 5000), (70, 16385), (1, 40003)]
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-12, torch.bfloat16: 2**-8, torch.float16: 2**-11}
EPS = 1e-5
#: Which gradients: of x, residual, weight and bias.
ALL = (True, False, True, True)


def oracle(x, weight, bias, grad_y, center):
    """y, and the gradients of x, weight and bias, written out by hand: rows are the last dimension."""
    centered = x - x.mean(-1, keepdims=True) if center else x
    root = 1 / np.sqrt((centered**2).mean(-1, keepdims=True) + EPS)
    normalized = centered * root
    g = grad_y * weight
    back = g - normalized * (g * normalized).mean(-1, keepdims=True)
    if center:
        back = back - g.mean(-1, keepdims=True)
    others = tuple(range(x.ndim - 1))
    return normalized * weight + bias, back * root, (grad_y * normalized).sum(others), grad_y.sum(others)


def close(got, want, dtype, scale=None):
    """Within the type's rounding of the largest value, or of the terms that a sum may cancel."""
    scale = np.abs(want).max() if scale is None else scale
    error = np.abs(got.double().numpy() - want).max()
    assert error <= 2 * TOLERANCE[dtype] * scale, (error, scale)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("center", [True, False], ids=["layer", "rms"])
@pytest.mark.parametrize(("rows", "width"), WIDTHS)
@pytest.mark.parametrize("columns", [False, True], ids=["rows", "columns"])
def test_forward_and_backward(dtype, center, rows, width, columns):
    generator = torch.Generator().manual_seed(rows * width)
    x, grad_y = (torch.randn(2, rows, width, generator=generator).to(dtype) for _ in range(2))
    kind = torch.float64 if dtype == torch.float64 else torch.float32
    weight, bias = torch.randn(2, width, generator=generator).to(kind)
    wanted = oracle(*(t.double().numpy() for t in (x, weight, bias, grad_y)), center)
    if columns:
        turned, grad = x.transpose(1, 2).contiguous(), grad_y.transpose(1, 2).contiguous()
        y, (table,) = cpu.columns(turned, weight, bias, EPS, center, True)
        grads = cpu.columns_backward(grad, turned, weight, bias, (table,), center, ALL)
        y, grads = y.transpose(1, 2), (grads[0].transpose(1, 2), *grads[1:])
    else:
        y, (table,) = cpu.rows(x, width, weight, bias, EPS, center, True)
        grads = cpu.rows_backward(grad_y, x, width, weight, bias, (table,), center, ALL)
    close(y, wanted[0], dtype)
    # A row of one value has no gradient but for ε.
    mean, root = table.view(2, 2, rows)
    terms = np.abs(grad_y.double().numpy() * weight.double().numpy()) * root.unsqueeze(-1).numpy()
    close(grads[0], wanted[1], dtype, 2 * terms.max())
    for got, want in zip(grads[2:], wanted[2:], strict=True):
        close(got, want, kind, np.abs(grad_y.double().numpy()).sum((0, 1)).max())
    if center:
        assert_close(mean, x.double().mean(-1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("columns", [False, True], ids=["rows", "columns"])
def test_rows_far_from_zero_lose_no_digits(columns):
    """mean/std = 1000: the rounded mean is off by 3e-5 of a standard deviation, and corrected."""
    x = torch.randn(64, 96, generator=torch.Generator().manual_seed(0)) + 1000
    exact = x.double()
    wanted = (exact - exact.mean(1, keepdim=True)) / exact.var(1, keepdim=True, correction=0).add(EPS).sqrt()
    if columns:
        y = cpu.columns(x.t().contiguous()[None], None, None, EPS, True, False)[0][0].t()
    else:
        y = cpu.rows(x, 96, None, None, EPS, True, False)[0]
    assert (y.double() - wanted).square().mean().sqrt() < 1e-7


@pytest.mark.parametrize("columns", [False, True], ids=["rows", "columns"])
def test_narrow_parameters_are_read_while_they_live(columns):
    """Widened copies of bf16 parameters must outlive the call: freed ones once gave values of 1e37."""
    x = torch.randn(4, 42, 42).bfloat16()
    weight, bias = torch.randn(2, 42).bfloat16().unbind()
    arguments = (weight, bias, EPS, True, False)
    got = cpu.columns(x, *arguments) if columns else cpu.rows(x, 42, *arguments)
    wide = (weight.float(), bias.float(), EPS, True, False)
    want = cpu.columns(x, *wide) if columns else cpu.rows(x, 42, *wide)
    assert torch.equal(got[0], want[0])


def leave_nan_in_freed_memory():
    """Blocks of every small size, full of ones, are given back: the next allocations of these sizes get them."""
    library = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p
    library.malloc.argtypes, library.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
    for size in range(32, 1040, 16):
        blocks = [library.malloc(size) for _ in range(12)]
        for block in blocks:
            ctypes.memset(block, 0xFF, size)
        for block in blocks:
            library.free(block)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs the C library's malloc")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_what_lies_behind_the_last_value_has_no_part_in_the_sums(dtype):
    """A row of 7 ends within a vector; the NaN behind it once made every gradient of bf16 a zero."""
    x, grad_y = torch.randn(2, 15, 7, generator=torch.Generator().manual_seed(0)).to(dtype).unbind()
    weight = torch.rand(7).to(torch.float64 if dtype == torch.float64 else torch.float32) + 0.5
    tables = cpu.rows(x, 7, weight, None, EPS, False, True)[1]
    wanted = oracle(*(t.double().numpy() for t in (x, weight, torch.zeros(7), grad_y)), False)
    for _ in range(20):
        leave_nan_in_freed_memory()
        grads = cpu.rows_backward(grad_y, x, 7, weight, None, tables, False, (True, False, True, False))
        close(grads[0], wanted[1], dtype, np.abs(wanted[1]).max() * 2)
        close(grads[2], wanted[2], weight.dtype, np.abs(grad_y.double().numpy()).sum(0).max())


@pytest.mark.parametrize("columns", [False, True], ids=["rows", "columns"])
def test_what_is_not_needed_is_not_computed(columns):
    x, (weight, bias), needs = torch.randn(2, 8, 8), torch.randn(2, 8), (False, False, True, False)
    if columns:
        tables = cpu.columns(x, weight, bias, EPS, True, True)[1]
        grads = cpu.columns_backward(x, x, weight, bias, tables, True, needs)
    else:
        tables = cpu.rows(x, 8, weight, bias, EPS, True, True)[1]
        grads = cpu.rows_backward(x, x, 8, weight, bias, tables, True, needs)
    assert [g is None for g in grads] == [True, True, False, True]


def test_the_bits_do_not_depend_on_the_threads():
    x = torch.randn(3000, 40, generator=torch.Generator().manual_seed(0))
    weight, bias = x[:2].clone().unbind()
    found = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        y, tables = cpu.rows(x, 40, weight, bias, EPS, True, True)
        grads = cpu.rows_backward(x.sin(), x, 40, weight, bias, tables, True, ALL)
        found.append((y, grads[0], *grads[2:]))
    torch.set_num_threads(before)
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)
