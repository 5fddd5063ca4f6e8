"""Which axis of an activation holds its channels: told by the operation that made it, or carried along to it."""

from __future__ import annotations

import math
import re

from torch import Tensor

# Operations over space: the channels stand before as many spatial axes as the name says.
OVER_SPACE = re.compile(r"(?:conv|conv_transpose|\w*pool|unpool)([123])d$")
CHANNELS_SECOND = frozenset({"batch_norm", "instance_norm", "group_norm", "local_response_norm"})
CHANNELS_LAST = frozenset(
    {"linear", "bilinear", "matmul", "bmm", "mm", "addmm", "baddbmm", "layer_norm", "rms_norm", "embedding"}
    | {"lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"}
    | {"embedding_bag", "multi_head_attention_forward", "scaled_dot_product_attention"}
)


def axis_by_operation(name: str, out: Tensor) -> int | None:
    """The axis where the operation itself decides it; None where it depends on the input."""
    if name in CHANNELS_LAST:
        return out.dim() - 1
    if name in CHANNELS_SECOND:
        return 1
    over_space = OVER_SPACE.match(name)
    return None if over_space is None else max(out.dim() - 1 - int(over_space[1]), 0)


def carried_axis(source: Tensor, axis: int, out: Tensor) -> int | None:
    """Where the channels on ``axis`` of ``source`` stand in ``out``, made from it by anything else; None if unclear."""
    if out.shape == source.shape and out.stride() == source.stride():
        return axis
    if out.numel() == source.numel():
        return _by_stride(source, axis, out) if _shares_memory(source, out) else _by_position(source, axis, out)
    if out.dim() == source.dim():
        return axis
    same = [i for i, size in enumerate(out.shape) if size == source.shape[axis]]
    return same[0] if len(same) == 1 else None


def default_axis(x: Tensor) -> int:
    """Without anything to go by: ``[N, C, *space]``, and ``[N, L, C]`` for three dimensions."""
    return {1: 0, 3: 2}.get(x.dim(), 1)


def _shares_memory(source: Tensor, out: Tensor) -> bool:
    return out.untyped_storage().data_ptr() == source.untyped_storage().data_ptr()


def _by_stride(source: Tensor, axis: int, out: Tensor) -> int | None:
    """A view keeps the channels' stride, whatever it permutes; one that merges axes keeps their position."""
    wanted = (source.shape[axis], source.stride(axis))
    found = [i for i in range(out.dim()) if (out.shape[i], out.stride(i)) == wanted]
    return found[0] if len(found) == 1 else _by_position(source, axis, out)


def _by_position(source: Tensor, axis: int, out: Tensor) -> int | None:
    """The first axis before which there are as many values as before the channels."""
    if out.shape == source.shape:
        return axis
    before = math.prod(source.shape[:axis])
    for i in range(out.dim()):
        if math.prod(out.shape[:i]) == before and out.shape[i] > 1:
            return i
    return None
