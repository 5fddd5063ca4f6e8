"""Linear and convolution layers: means are transformed by the weights, variances by their squares."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from normwise.weights import ScaledWSConv1d, ScaledWSConv2d, ScaledWSConv3d, WSConv1d, WSConv2d, WSConv3d
from normwise.weights.effective import effective_weight
from normwise.weights.layers import CONVOLUTIONS, TRANSPOSED

from .gaussian import Signal
from .geometry import Windows, convolution_windows, padding_of, transposed_windows, tuple_of
from .options import Options

STANDARDIZED = (WSConv1d, WSConv2d, WSConv3d, ScaledWSConv1d, ScaledWSConv2d, ScaledWSConv3d)


def linear(x: Signal, weight: Tensor, bias: Tensor | None = None) -> Signal:
    """``x @ weight.T + bias`` over the last dimension."""
    x = x.along(-1)
    weight = _numbers(weight)
    mean = weight @ x.mean.to(weight.dtype)
    variance = weight.square() @ x.variance.to(weight.dtype)
    return x.moved(_biased(mean.double(), bias), variance, (*x.shape[:-1], len(weight)))


def convolution(
    x: Signal,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Signal:
    """`torch.nn.functional.conv1d`, `conv2d`, `conv3d`."""
    rank, kernel = weight.dim() - 2, weight.shape[2:]
    dilation = tuple_of(dilation, rank)
    if padding == "same":
        whole = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        pairs = [(total // 2, total - total // 2) for total in whole]
    else:
        pairs = [(p, p) for p in tuple_of(0 if isinstance(padding, str) else padding, rank)]
    x, pairs = _unpadded(x, pairs)
    windows = convolution_windows(x.shape[2:], kernel, tuple_of(stride, rank), pairs, dilation, zeros=True)
    return _through(x, _blocks(weight, groups), bias, windows)


def transposed_convolution(
    x: Signal,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Signal:
    """`torch.nn.functional.conv_transpose1d`, `conv_transpose2d`, `conv_transpose3d`."""
    rank = weight.dim() - 2
    stride, padding, dilation, more = (tuple_of(v, rank) for v in (stride, padding, dilation, output_padding))
    windows = transposed_windows(x.shape[2:], weight.shape[2:], stride, padding, dilation, more)
    blocks = _numbers(weight).unflatten(0, (groups, -1)).transpose(1, 2).flatten(3)
    return _through(x, blocks, bias, windows)


def _blocks(weight: Tensor, groups: int) -> Tensor:
    """``[groups, out / groups, in / groups, kernel]``."""
    return _numbers(weight).unflatten(0, (groups, -1)).flatten(3)


def _through(x: Signal, weight: Tensor, bias: Tensor | None, windows: Windows) -> Signal:
    """Mean and variance through weights, with zero padding, near which the mean differs from position to position.

    With m_k of tap k (the sum over the input channels of weight times mean), the mean over the output positions is
    ``Σ m_k share_k`` and its variance ``Σ m_k m_l shared_kl - mean²``, to which the variances of the values are added.
    """
    x, groups = x.along(1), len(weight)
    mean, variance = (t.to(weight.dtype).reshape(groups, -1) for t in (x.mean, x.variance))
    taps = torch.einsum("goik,gi->gok", weight, mean).flatten(0, 1).double()
    noise = torch.einsum("goik,gi->gok", weight.square(), variance).flatten(0, 1).double()
    share = windows.share()
    average = taps @ share
    uneven = ((taps @ windows.shared() * taps).sum(1) - average.square()).clamp_min(0)
    shape = (x.shape[0], len(average), *windows.size)
    return x.moved(_biased(average, bias), noise @ share + uneven, shape)


def _numbers(weight: Tensor) -> Tensor:
    return weight.detach().to("cpu", torch.promote_types(weight.dtype, torch.float32))


def _biased(mean: Tensor, bias: Tensor | None) -> Tensor:
    return mean if bias is None else mean + bias.detach().cpu().double()


def _linear_module(module: nn.Linear, options: Options, x: Signal) -> Signal:
    return linear(x, effective_weight(module, "weight"), module.bias)


def _unpadded(x: Signal, padding: Sequence[tuple[int, int]]) -> tuple[Signal, list[tuple[int, int]]]:
    x, more = x.without_padding(0.0)
    return x, [(a + c, b + d) for (a, b), (c, d) in zip(padding, more, strict=True)]


def _convolution_module(module: nn.modules.conv._ConvNd, options: Options, x: Signal) -> Signal:
    zeros, padding = module.padding_mode == "zeros", padding_of(module)
    if zeros:
        x, padding = _unpadded(x, padding)
    geometry = (module.kernel_size, module.stride, padding, module.dilation)
    windows = convolution_windows(x.shape[2:], *geometry, zeros=zeros)
    return _through(x, _blocks(effective_weight(module, "weight"), module.groups), module.bias, windows)


def _transposed_module(module: nn.modules.conv._ConvTransposeNd, options: Options, x: Signal) -> Signal:
    geometry = (module.stride, module.padding, module.output_padding, module.groups, module.dilation)
    return transposed_convolution(x, effective_weight(module, "weight"), module.bias, *geometry)  # type: ignore[arg-type]


RULES = {
    nn.Linear: _linear_module,
    **dict.fromkeys((*CONVOLUTIONS, *STANDARDIZED), _convolution_module),
    **dict.fromkeys(TRANSPOSED, _transposed_module),
}
