"""The passes over the planes by tables ``[N, C]``; `backends.reference` is their specification."""

import triton
import triton.language as tl

from .activations import activate, slope
from .tiles import lines, load, part_and_block, plus, values


@triton.jit
def table_entry(table, sample, channel, sample_stride, channel_stride, there):
    """One value of a table of any strides for each plane of a tile."""
    return tl.load(table + sample * sample_stride + channel * channel_stride, mask=there, other=0)[:, None]


@triton.jit
def table_entries(tables, strides, sample, channel, there):
    """The values of mean, scale and shift for each plane of a tile."""
    mean = table_entry(tables[0], sample, channel, strides[0], strides[1], there)
    scale = table_entry(tables[1], sample, channel, strides[2], strides[3], there)
    return mean, scale, table_entry(tables[2], sample, channel, strides[4], strides[5], there)


@triton.jit
def grad_before_activation(grad_y, z, residual, offset, valid, ACTIVATION: tl.constexpr):
    """``grad_y · f'(z + residual)``."""
    g = load(grad_y, offset, valid, z.dtype)
    if ACTIVATION != "":
        g *= slope(plus(z, residual, offset, valid), ACTIVATION)
    return g


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
    step, block = part_and_block(steps)
    start, entry, there = lines(block, planes, outer_stride, plane_stride, BLOCK_PLANES)
    _, offset, valid = values(step, start, there, length, value_stride, BLOCK_LENGTH)
    strides = (mean_n, mean_c, scale_n, scale_c, shift_n, shift_c)
    center, factor, constant = table_entries((mean, scale, shift), strides, entry // channels, entry % channels, there)
    z = (load(x, offset, valid, WIDE) - center) * factor + constant
    tl.store(y + offset, activate(plus(z, residual, offset, valid), ACTIVATION), mask=valid)


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
    split, block = part_and_block(splits)
    start, entry, there = lines(block, planes, outer_stride, plane_stride, BLOCK_PLANES)
    strides = (mean_n, mean_c, scale_n, scale_c, shift_n, shift_c)
    center, factor, constant = table_entries((mean, scale, shift), strides, entry // channels, entry % channels, there)
    total = tl.zeros((BLOCK_PLANES, BLOCK_LENGTH), WIDE)
    total_x = tl.zeros((BLOCK_PLANES, BLOCK_LENGTH), WIDE)
    first = (split * steps_of_program).to(tl.int32)
    for step in range(first, tl.minimum(first + steps_of_program, steps)):
        _, offset, valid = values(step, start, there, length, value_stride, BLOCK_LENGTH)
        centered = load(x, offset, valid, WIDE) - center
        g = grad_before_activation(grad_y, centered * factor + constant, residual, offset, valid, ACTIVATION)
        total += g
        total_x += tl.where(valid, g * centered, 0.0)
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
    step, block = part_and_block(steps)
    start, entry, there = lines(block, planes, outer_stride, plane_stride, BLOCK_PLANES)
    s, offset, valid = values(step, start, there, length, value_stride, BLOCK_LENGTH)
    n, c = entry // channels, entry % channels
    strides = (mean_n, mean_c, scale_n, scale_c, shift_n, shift_c)
    center, factor, constant = table_entries((mean, scale, shift), strides, n, c, there)
    centered = load(x, offset, valid, WIDE) - center
    g = grad_before_activation(grad_y, centered * factor + constant, residual, offset, valid, ACTIVATION)
    if grad_residual is not None:
        tl.store(grad_residual + offset, g, mask=valid)
    grad = g * factor
    if through_var is not None:
        through = centered * table_entry(through_var, n, c, var_n, var_c, there)
        through += table_entry(through_mean, n, c, through_n, through_c, there)
        if mask is not None:
            counted = tl.load(mask + n[:, None] * length + s[None, :], mask=valid, other=0) != 0
            through = tl.where(counted, through, 0.0)
        grad += through
    tl.store(grad_x + offset, grad, mask=valid)
