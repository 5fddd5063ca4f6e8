"""Convolutions that standardize their weight in forward: drop-ins for torch.nn.ConvNd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from normwise.core.symbols import as_node, is_symbol

from .layers import FanIn, StandardizedConv, check_fan_in
from .scripted import scripted
from .standardization import nonlinearity_gain, scaled_standardize, standardize

Size = int | tuple[int, ...]


class _Conv(StandardizedConv):
    """The common part of both families: torch's constructor, and a forward with the standardized weight."""

    weight: Tensor
    bias: Tensor | None

    def forward(self, input: Tensor) -> Tensor:
        if type(input) is not Tensor and is_symbol(input):
            return as_node(self, input)  # type: ignore[arg-type]
        return self._conv_forward(input, self.standardized(self.weight), self.bias)  # type: ignore[attr-defined]

    def __prepare_scriptable__(self) -> nn.Module:
        """The module that `torch.jit.script` compiles instead: the same parameters, and plain operations."""
        return scripted(self)  # type: ignore[arg-type]

    def _check_fan_in(self) -> None:
        check_fan_in(FanIn(None).size(self.weight), type(self).__name__)


class _WSConv(_Conv):
    """The base of `WSConv1d`, 2d and 3d."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        eps: float = 1e-5,
    ) -> None:
        options = (stride, padding, dilation, groups, bias, padding_mode, device, dtype)
        super().__init__(in_channels, out_channels, kernel_size, *options)  # type: ignore[call-arg]
        self.eps = eps
        self._check_fan_in()

    def standardized(self, weight: Tensor) -> Tensor:
        return standardize(weight, FanIn(None), self.eps)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, eps={self.eps}"  # type: ignore[misc]


class _ScaledWSConv(_Conv):
    """The base of `ScaledWSConv1d`, 2d and 3d."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,  # noqa: ARG002  # torch's signature; the docstring says why it is there in any case
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        gamma: float | str = 1.0,
        eps: float = 1e-4,
    ) -> None:
        options = (stride, padding, dilation, groups, True, padding_mode, device, dtype)
        super().__init__(in_channels, out_channels, kernel_size, *options)  # type: ignore[call-arg]
        self.gain = nn.Parameter(torch.ones_like(self.bias))  # type: ignore[arg-type]
        self.gamma, self.eps = nonlinearity_gain(gamma), eps
        self._check_fan_in()

    def reset_parameters(self) -> None:
        """Weights normal with variance 1 / fan-in, bias 0, gain 1, as the official code starts."""
        fan_in = FanIn(None).size(self.weight)
        nn.init.normal_(self.weight, std=max(fan_in, 1) ** -0.5)
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]
        if hasattr(self, "gain"):  # torch's constructor calls this method before the gain exists
            nn.init.ones_(self.gain)

    def standardized(self, weight: Tensor) -> Tensor:
        return scaled_standardize(weight, self.gain, FanIn(None), self.eps, self.gamma)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, gamma={self.gamma:.6g}, eps={self.eps}"  # type: ignore[misc]


class WSConv1d(_WSConv, nn.Conv1d):
    """Convolution of ``[N, C, L]`` with weight standardization: `torch.nn.Conv1d`'s constructor. See `WSConv2d`.

    >>> WSConv1d(3, 5, 3)(torch.randn(2, 3, 9)).shape
    torch.Size([2, 5, 7])
    """


class WSConv2d(_WSConv, nn.Conv2d):
    r"""Convolution of ``[N, C, H, W]`` with weight standardization: a drop-in for `torch.nn.Conv2d`.

    .. math:: y = \frac{W - \mu}{\sigma + \epsilon} * x + b

    μ and σ (**unbiased**) are over ``in / groups`` and the kernel, for each output channel. Args: as torch's;
    keyword only: ``eps``. Initial values, ``state_dict`` and layouts are torch's, so its checkpoints load.
    Precision, use and errors: as `weight_standardization`, which does the same to an existing layer.

    Source: Qiao et al. 2019, arXiv:1903.10520.

    >>> conv = WSConv2d(3, 5, 3, eps=1e-9)
    >>> x = torch.randn(2, 3, 8, 8)
    >>> y = conv(x)
    >>> with torch.no_grad():
    ...     _ = conv.weight.mul_(3).add_(1)                 # the scale and the mean of W do not matter
    >>> torch.allclose(conv(x), y, atol=1e-3)
    True
    """


class WSConv3d(_WSConv, nn.Conv3d):
    """Convolution of ``[N, C, D, H, W]`` with weight standardization: as `torch.nn.Conv3d`. See `WSConv2d`.

    >>> WSConv3d(3, 5, 3)(torch.randn(2, 3, 4, 4, 4)).shape
    torch.Size([2, 5, 2, 2, 2])
    """


class ScaledWSConv1d(_ScaledWSConv, nn.Conv1d):
    """Convolution of ``[N, C, L]`` with scaled weight standardization: as `torch.nn.Conv1d`. See `ScaledWSConv2d`.

    >>> ScaledWSConv1d(3, 5, 3)(torch.randn(2, 3, 9)).shape
    torch.Size([2, 5, 7])
    """


class ScaledWSConv2d(_ScaledWSConv, nn.Conv2d):
    r"""Convolution of ``[N, C, H, W]`` with scaled weight standardization, for normalizer-free networks.

    .. math:: y = \gamma\, g\, \frac{W - \mu}{\sqrt{\max(\sigma^2 \cdot \text{fan-in},\ \epsilon)}} * x + b

    μ and σ² (**biased**) are over ``in / groups`` and the kernel; g is the parameter ``gain`` ``[out]``, initially 1.
    Args: as `torch.nn.Conv2d`'s; keyword only: ``gamma``, a number or an activation's name, and ``eps``, a floor.

    As in the official code there is always a bias, initially 0: ``bias=False`` is accepted, so that the class can
    replace `torch.nn.Conv2d`, and has no effect. Weights start normal with variance 1 / fan-in. Precision,
    axes and errors: as `scaled_weight_standardization`, which does the same to an existing layer.

    Source: Brock, De and Smith 2021, arXiv:2101.08692.

    >>> conv = ScaledWSConv2d(64, 32, 3, bias=False)
    >>> bool((conv(torch.randn(4, 64, 16, 16)).var() - 1).abs() < 0.1)      # unit variance in, unit variance out
    True
    >>> conv.bias.shape
    torch.Size([32])
    """


class ScaledWSConv3d(_ScaledWSConv, nn.Conv3d):
    """Convolution of ``[N, C, D, H, W]`` with scaled weight standardization: `torch.nn.Conv3d`. See `ScaledWSConv2d`.

    >>> ScaledWSConv3d(3, 5, 3)(torch.randn(2, 3, 4, 4, 4)).shape
    torch.Size([2, 5, 2, 2, 2])
    """
