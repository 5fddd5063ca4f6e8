"""Find the channel axis of an activation, from its operation or from the channel axis of the operation's input."""

from __future__ import annotations

import math
import re

from torch import Tensor

# Operations over space: the channel axis is before the spatial axes, whose number is in the name.
OVER_SPACE = re.compile(r"(?:conv|conv_transpose|\w*pool|unpool)([123])d$")
CHANNELS_SECOND = frozenset({"batch_norm", "instance_norm", "group_norm", "local_response_norm"})
CHANNELS_LAST = frozenset(
    {"linear", "bilinear", "matmul", "bmm", "mm", "addmm", "baddbmm", "layer_norm", "rms_norm", "embedding"}
    | {"lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"}
    | {"embedding_bag", "multi_head_attention_forward", "scaled_dot_product_attention"}
)


def axis_by_operation(name: str, out: Tensor) -> int | None:
    """The channel axis of an operation's output if the operation determines it; None if it depends on the input."""
    if name in CHANNELS_LAST:
        return out.dim() - 1
    if name in CHANNELS_SECOND:
        return 1
    over_space = OVER_SPACE.match(name)
    return None if over_space is None else max(out.dim() - 1 - int(over_space[1]), 0)


def carried_axis(source: Tensor, axis: int, out: Tensor) -> int | None:
    """The axis in ``out`` of the channels on ``axis`` of ``source``, for any other operation; None if unclear."""
    if out.shape == source.shape and out.stride() == source.stride():
        return axis
    if out.numel() == source.numel():
        return _by_stride(source, axis, out) if _shares_memory(source, out) else _by_position(source, axis, out)
    if out.dim() == source.dim():
        return axis
    same = [i for i, size in enumerate(out.shape) if size == source.shape[axis]]
    return same[0] if len(same) == 1 else None


def default_axis(x: Tensor) -> int:
    """The axis without any information: that of ``[N, C, *space]``, and of ``[N, L, C]`` for three dimensions."""
    return {1: 0, 3: 2}.get(x.dim(), 1)


def _shares_memory(source: Tensor, out: Tensor) -> bool:
    return out.untyped_storage().data_ptr() == source.untyped_storage().data_ptr()


def _by_stride(source: Tensor, axis: int, out: Tensor) -> int | None:
    """For a view: the axis with the stride of the channels, which permutations keep."""
    wanted = (source.shape[axis], source.stride(axis))
    found = [i for i in range(out.dim()) if (out.shape[i], out.stride(i)) == wanted]
    return found[0] if len(found) == 1 else _by_position(source, axis, out)


def _by_position(source: Tensor, axis: int, out: Tensor) -> int | None:
    """The first axis with as many values before it as before the channels."""
    if out.shape == source.shape:
        return axis
    before = math.prod(source.shape[:axis])
    for i in range(out.dim()):
        if math.prod(out.shape[:i]) == before and out.shape[i] > 1:
            return i
    return None
