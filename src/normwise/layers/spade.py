"""Spatially adaptive normalization: the affine map is predicted at each pixel from a segmentation map."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normwise.core.arguments import as_mask, finite_padding
from normwise.core.layout import check_memory, in_layout_of
from normwise.core.moments import widen
from normwise.core.numbers import check_whole
from normwise.core.sizes import product
from normwise.core.symbols import as_node, is_symbol
from normwise.core.tables import check_place, check_required
from normwise.operations.context import without_autocast
from normwise.operations.epilogue import finish
from normwise.operations.saved import guarded

from ._conditions import check_labels, is_labels
from ._shared import FusedActivation
from .batch_norm import BatchNorm2d, SyncBatchNorm
from .group_norm import InstanceNorm2d

#: The normalizers without parameters that can be the inner one.
INNER_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": lambda channels: BatchNorm2d(channels, affine=False),
    "sync": lambda channels: SyncBatchNorm(channels, affine=False),
    "instance": lambda channels: InstanceNorm2d(channels),
}


class SPADE(FusedActivation):
    r"""Spatially adaptive normalization of ``[N, C, H, W]`` by a segmentation map.

    .. math:: y_{nchw} = f\left(\big(1 + \gamma_{nchw}(m)\big)\,\text{norm}(x)_{nchw} + \beta_{nchw}(m)
              + \text{residual}\right)

    γ and β are maps, predicted from the segmentation m, resized to ``x``'s space (nearest), by a convolution to
    ``hidden`` channels with ReLU and one more convolution each. ``norm`` has no parameters of its own.

    Args:
        num_features: C.
        num_labels: K, the channels of the segmentation map.
        norm: ``"batch"``, ``"sync"`` (over processes, the paper's choice) or ``"instance"``.
        hidden: channels between the convolutions.
        kernel_size: of the convolutions, odd.
        activation: keyword only; applied last, such as ``"leaky_relu"``, or None.

    ``forward(x, segmentation, residual=None, mask=None)``: ``segmentation`` is floating, ``[N, K, h, w]`` (one-hot, or
    probabilities), or an integer label map ``[N, h, w]``, of any h and w. ``residual`` is added before the activation;
    ``mask`` is passed to the inner normalizer. Shape, dtype and memory layout of the output are the input's.

    Raises TypeError for a segmentation of another dtype, ValueError for another batch size or K, labels outside
    0 to K - 1 and an unknown norm, and the errors of the inner normalizer.

    Source: Park et al. 2019, arXiv:1903.07291; the names in the state_dict are those of their code.

    >>> layer = SPADE(8, num_labels=3, norm="instance")
    >>> layer(torch.randn(2, 8, 16, 16), torch.randint(3, (2, 64, 64))).shape
    torch.Size([2, 8, 16, 16])
    """

    def __init__(
        self,
        num_features: int,
        num_labels: int,
        norm: str = "batch",
        hidden: int = 128,
        kernel_size: int = 3,
        *,
        activation: str | None = None,
    ) -> None:
        super().__init__()
        if norm not in INNER_NORMS:
            raise ValueError(f"SPADE: norm must be one of {', '.join(map(repr, INNER_NORMS))}, received {norm!r}.")
        for name, value in (("num_features", num_features), ("num_labels", num_labels), ("hidden", hidden)):
            check_whole(self, name, value, 1)
        check_whole(self, "kernel_size", kernel_size, 1)
        if kernel_size % 2 == 0:
            raise ValueError(f"SPADE: kernel_size must be odd to keep the map's size, received {kernel_size}.")
        self.num_features, self.num_labels = num_features, num_labels
        self.param_free_norm = INNER_NORMS[norm](num_features)
        around = kernel_size // 2
        self.mlp_shared = nn.Sequential(nn.Conv2d(num_labels, hidden, kernel_size, padding=around), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(hidden, num_features, kernel_size, padding=around)
        self.mlp_beta = nn.Conv2d(hidden, num_features, kernel_size, padding=around)
        self._set_activation(activation)

    def forward(
        self, x: Tensor, segmentation: Tensor, residual: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        if is_symbol(x, segmentation):
            return as_node(self, x, segmentation, residual, mask)
        self.param_free_norm._check_input_dim(x)  # type: ignore[operator]
        self._check_convolutions(x)
        shared = _of_parameters(self.mlp_shared, self._resized(segmentation, x))
        gamma, beta = _of_parameters(self.mlp_gamma, shared), _of_parameters(self.mlp_beta, shared)
        # If a convolution was replaced, its map may have another size and still broadcast.
        check_required(self, x, x.shape, mlp_gamma=gamma, mlp_beta=beta)
        _, residual = finite_padding(None if mask is None else as_mask(mask, x), x, residual)
        # Last, since it may update running statistics, which must not change in case of an error.
        normalized = self.param_free_norm(x, mask=mask)
        with without_autocast(x):
            y = torch.addcmul(widen(normalized) + widen(beta), widen(normalized), widen(gamma))
            return in_layout_of(x, finish(y, self.activation, residual).to(x.dtype))

    def _check_convolutions(self, x: Tensor) -> None:
        """Require the weights on the device of ``x``: torch would compute with weights on meta, without values."""
        for convolution in (self.mlp_shared[0], self.mlp_gamma, self.mlp_beta):
            for name, p in convolution._parameters.items():
                if p is not None:
                    check_place(self, f"{name} of a convolution", p, x)
                    check_memory(p)

    def _resized(self, segmentation: Tensor, x: Tensor) -> Tensor:
        """The map ``[N, K, H, W]`` in the convolutions' dtype."""
        labels = is_labels(segmentation, "SPADE")
        check_place(self, "the segmentation", segmentation, x)
        if labels:
            if segmentation.dim() != 3:
                raise ValueError(
                    f"SPADE: a label map must be [N, h, w], received {list(segmentation.shape)}; squeeze(1) takes a "
                    "channel dimension of 1 away."
                )
            check_labels(segmentation, self.num_labels, "SPADE")
            segmentation = F.one_hot(segmentation.long(), self.num_labels).movedim(-1, 1)
        if segmentation.dim() != 4 or segmentation.shape[:2] != (x.shape[0], self.num_labels):
            raise ValueError(
                f"SPADE: the segmentation must be [N, K, h, w] = [{x.shape[0]}, {self.num_labels}, h, w] or labels "
                f"[{x.shape[0]}, h, w], received a map [N, K, h, w] = {list(segmentation.shape)}."
            )
        if product(x.shape[2:]) == 0:
            raise ValueError(
                f"SPADE: the segmentation is resized to the maps of x, which must not be empty, received "
                f"{list(x.shape)}; leave such maps out."
            )
        return F.interpolate(segmentation.to(self.mlp_gamma.weight.dtype), size=x.shape[2:], mode="nearest")

    def extra_repr(self) -> str:
        return f"{self.num_features}, num_labels={self.num_labels}{super().extra_repr()}"


def _of_parameters(predictor: nn.Module, x: Tensor) -> Tensor:
    """The convolutions' output for ``x``, after a check: torch gives a resized bias a gradient of its old size."""
    return guarded(predictor(x), *predictor.parameters())
