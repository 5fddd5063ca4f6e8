"""The passes over the planes by tables ``[N, C]``; `backends.reference` is their specification."""

import triton
import triton.language as tl

from .activations import activate, slope


@triton.jit
def table_entry(table, sample, channel, sample_stride, channel_stride, valid):
    """One value of a table of any strides for each plane of a tile."""
    return tl.load(table + sample * sample_stride + channel * channel_stride, mask=valid, other=0)[:, None]


@triton.jit
def apply(
    x,
    residual,
    y,
    mean,
    scale,
    shift,
    mean_n,
    mean_c,
    scale_n,
    scale_c,
    shift_n,
    shift_c,
    planes,
    length,
    outer_stride,
    plane_stride,
    value_stride,
    channels,
    steps,
    BLOCK_PLANES: tl.constexpr,
    BLOCK_LENGTH: tl.constexpr,
    ACTIVATION: tl.constexpr,
    WIDE: tl.constexpr,
):
    """One tile of ``y = f((x - mean)·scale + shift + residual)``."""
    pid = tl.program_id(0).to(tl.int64)
    step, block = pid % steps, pid // steps
    blocks = tl.cdiv(planes, BLOCK_PLANES)
    outer, block = block // blocks, block % blocks
    plane = block * BLOCK_PLANES + tl.arange(0, BLOCK_PLANES)
    s = step * BLOCK_LENGTH + tl.arange(0, BLOCK_LENGTH)
    there = plane < planes
    valid = there[:, None] & (s < length)[None, :]
    offset = outer * outer_stride + (plane * plane_stride)[:, None] + (s * value_stride)[None, :]
    n, c = (outer * planes + plane) // channels, (outer * planes + plane) % channels
    z = tl.load(x + offset, mask=valid, other=0).to(WIDE) - table_entry(mean, n, c, mean_n, mean_c, there)
    z = z * table_entry(scale, n, c, scale_n, scale_c, there) + table_entry(shift, n, c, shift_n, shift_c, there)
    if residual is not None:
        z += tl.load(residual + offset, mask=valid, other=0).to(WIDE)
    tl.store(y + offset, activate(z, ACTIVATION).to(y.dtype.element_ty), mask=valid)


@triton.jit
def grad_before_activation(g, z, residual, offset, valid, ACTIVATION: tl.constexpr, WIDE: tl.constexpr):
    """``grad_y · f'(z)``, with z recomputed from x."""
    if ACTIVATION != "":
        if residual is not None:
            z += tl.load(residual + offset, mask=valid, other=0).to(WIDE)
        g *= slope(z, ACTIVATION)
    return g


@triton.jit
def backward_reduce(
    grad_y,
    x,
    residual,
    sum_g,
    sum_gx,
    mean,
    scale,
    shift,
    mean_n,
    mean_c,
    scale_n,
    scale_c,
    shift_n,
    shift_c,
    entries,
    planes,
    length,
    outer_stride,
    plane_stride,
    value_stride,
    channels,
    splits,
    steps,
    steps_of_program,
    BLOCK_PLANES: tl.constexpr,
    BLOCK_LENGTH: tl.constexpr,
    ACTIVATION: tl.constexpr,
    WIDE: tl.constexpr,
):
    """One share of ``Σ g`` and ``Σ g·(x - mean)`` of each plane."""
    pid = tl.program_id(0).to(tl.int64)
    split, block = pid % splits, pid // splits
    blocks = tl.cdiv(planes, BLOCK_PLANES)
    outer, block = block // blocks, block % blocks
    plane = block * BLOCK_PLANES + tl.arange(0, BLOCK_PLANES)
    there = plane < planes
    entry = outer * planes + plane
    n, c = entry // channels, entry % channels
    center = table_entry(mean, n, c, mean_n, mean_c, there)
    factor = table_entry(scale, n, c, scale_n, scale_c, there)
    constant = table_entry(shift, n, c, shift_n, shift_c, there)
    total = tl.zeros((BLOCK_PLANES, BLOCK_LENGTH), WIDE)
    total_x = tl.zeros((BLOCK_PLANES, BLOCK_LENGTH), WIDE)
    first = (split * steps_of_program).to(tl.int32)
    s = split * steps_of_program * BLOCK_LENGTH + tl.arange(0, BLOCK_LENGTH)
    for _ in range(first, tl.minimum(first + steps_of_program, steps)):
        valid = there[:, None] & (s < length)[None, :]
        offset = outer * outer_stride + (plane * plane_stride)[:, None] + (s * value_stride)[None, :]
        centered = tl.load(x + offset, mask=valid, other=0).to(WIDE) - center
        g = tl.load(grad_y + offset, mask=valid, other=0).to(WIDE)
        g = grad_before_activation(g, centered * factor + constant, residual, offset, valid, ACTIVATION, WIDE)
        total += g
        total_x += tl.where(valid, g * centered, 0.0)
        s += BLOCK_LENGTH
    place = split * entries + entry
    tl.store(sum_g + place, tl.sum(total, 1), mask=there)
    tl.store(sum_gx + place, tl.sum(total_x, 1), mask=there)


@triton.jit
def backward_apply(
    grad_y,
    x,
    residual,
    mask,
    grad_x,
    grad_residual,
    mean,
    scale,
    shift,
    through_var,
    through_mean,
    mean_n,
    mean_c,
    scale_n,
    scale_c,
    shift_n,
    shift_c,
    var_n,
    var_c,
    through_n,
    through_c,
    planes,
    length,
    outer_stride,
    plane_stride,
    value_stride,
    channels,
    steps,
    BLOCK_PLANES: tl.constexpr,
    BLOCK_LENGTH: tl.constexpr,
    ACTIVATION: tl.constexpr,
    WIDE: tl.constexpr,
):
    """One tile of ``grad_x = scale·g + slope·(x - mean) + offset`` and ``grad_residual = g``."""
    pid = tl.program_id(0).to(tl.int64)
    step, block = pid % steps, pid // steps
    blocks = tl.cdiv(planes, BLOCK_PLANES)
    outer, block = block // blocks, block % blocks
    plane = block * BLOCK_PLANES + tl.arange(0, BLOCK_PLANES)
    s = step * BLOCK_LENGTH + tl.arange(0, BLOCK_LENGTH)
    there = plane < planes
    valid = there[:, None] & (s < length)[None, :]
    offset = outer * outer_stride + (plane * plane_stride)[:, None] + (s * value_stride)[None, :]
    n, c = (outer * planes + plane) // channels, (outer * planes + plane) % channels
    factor = table_entry(scale, n, c, scale_n, scale_c, there)
    centered = tl.load(x + offset, mask=valid, other=0).to(WIDE) - table_entry(mean, n, c, mean_n, mean_c, there)
    z = centered * factor + table_entry(shift, n, c, shift_n, shift_c, there)
    g = tl.load(grad_y + offset, mask=valid, other=0).to(WIDE)
    g = grad_before_activation(g, z, residual, offset, valid, ACTIVATION, WIDE)
    if grad_residual is not None:
        tl.store(grad_residual + offset, g.to(grad_residual.dtype.element_ty), mask=valid)
    grad = g * factor
    if through_var is not None:
        through = centered * table_entry(through_var, n, c, var_n, var_c, there)
        through += table_entry(through_mean, n, c, through_n, through_c, there)
        if mask is not None:
            counted = tl.load(mask + n[:, None] * length + s[None, :], mask=valid, other=0) != 0
            through = tl.where(counted, through, 0.0)
        grad += through
    tl.store(grad_x + offset, grad.to(grad_x.dtype.element_ty), mask=valid)
