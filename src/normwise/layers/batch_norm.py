"""Batch normalization: one pool per channel, over the batch and space."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from normwise.core import formulas
from normwise.core.arguments import check_input
from normwise.core.formulas import Formula
from normwise.core.inheritance import share_tensors
from normwise.core.model_change import ModelChange
from normwise.core.numbers import check_whole
from normwise.core.processes import ProcessGroup
from normwise.core.single_value import check_values_per_chunk

from .batch_layer import BatchLayer, pooled


class _BatchNorm(BatchLayer):
    """The base of `BatchNorm1d`, 2d and 3d and of `SyncBatchNorm`."""

    plain_in = ("training", "evaluation")
    one_formula = True

    def _by_batch(self, x: Tensor, mask: Tensor | None, group: ProcessGroup | None) -> Formula:
        return pooled(formulas.batch_norm, group, eps=self._eps)


class BatchNorm1d(_BatchNorm, nn.BatchNorm1d):
    r"""Batch normalization of ``[N, C]`` or ``[N, C, L]``: `torch.nn.BatchNorm1d`, with a fused epilogue.

    .. math:: y = f\left(\gamma\,\frac{x - \mu_c}{\sqrt{\sigma_c^2 + \epsilon}} + \beta + \text{residual}\right)

    See `BatchNorm2d`, whose arguments, errors and deviations are the same.

    >>> BatchNorm1d(4)(torch.randn(8, 4)).mean(0).abs().max() < 1e-6
    tensor(True)
    """

    rank = 1


class BatchNorm2d(_BatchNorm, nn.BatchNorm2d):
    r"""Batch normalization of ``[N, C, H, W]``: a drop-in for `torch.nn.BatchNorm2d`.

    .. math:: y = f\left(\gamma\,\frac{x - \mu_c}{\sqrt{\sigma_c^2 + \epsilon}} + \beta + \text{residual}\right)

    μ and σ² are pooled over N, H and W for each channel: those of the batch in training (σ² **biased**), the
    running ones in evaluation. The buffer ``running_var`` is updated with the **unbiased** variance.

    Args: as torch's; ``momentum`` is the weight of the *new* value, None means a cumulative average. Keyword only:

    - ``activation``: the name of an activation applied last, such as ``"relu"``.
    - ``process_group``: ``"world"`` or a group whose processes share the batch.
    - ``nonfinite``, ``single_value``: how unusable batches are treated, see ``layer.policy``.
    - ``lean=True``: keep the output for the backward pass instead of the input (the idea of Rota Bulò et al. 2017,
      arXiv:1712.02616). A convolution behind the layer keeps that tensor anyway, so the layer adds no memory. Both
      passes take 1.0 to 1.6 times as long, more behind LeakyReLU and in GroupNorm and InstanceNorm
      (docs/performance.md). The output must be invertible, otherwise ValueError: the activation is None or
      ``"leaky_relu"``, there is no residual, mask or process group, and abs(γ) > abs(β) / 128 in every channel (in
      fp16 / 32, in bf16 / 4). Gradients are then right to rounding. There are no second derivatives.

    ``forward(input, residual=None, mask=None, lengths=None)``: ``residual``, of its shape, is added before the
    activation. ``mask`` is boolean, ``[N, *space]`` or ``[N, 1, *space]``: batch and running statistics are those of
    the values where it is true, all values are normalized, and a mask without a true value does not change the running
    statistics. ``lengths`` is an integer tensor ``[N]``: the mask of the first positions of sequences
    ``[N, C, L]``.

    Shape, dtype and memory layout of the output are the input's.

    Raises ValueError for a wrong number of dimensions or channels, and in training for a single value per
    channel (a batch of one without space), where the output would not depend on the input.

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167.

    Differs from torch: an empty batch is not counted in ``num_batches_tracked``. A batch that would make the running
    statistics inf or NaN is not taken into them (a single one makes torch's NaN for good). Recomputing an activation
    checkpoint does not update them again, in compiled and exported graphs either (an exported training graph uses an
    operator of this package for that, so load it after ``import normwise``). ``running_mean`` and ``running_var`` stay
    in fp32 (fp64 under fp64) in a layer of bf16 or fp16; they are cast where an operator or an exported graph needs one
    dtype. The trap: evaluation is another function than training, and with small batches the two differ much.

    >>> x = torch.randn(1, 3, 4, 4)                       # a batch of one: instance normalization
    >>> torch.allclose(BatchNorm2d(3)(x), nn.InstanceNorm2d(3)(x), atol=1e-6)
    True
    """

    rank = 2


class BatchNorm3d(_BatchNorm, nn.BatchNorm3d):
    r"""Batch normalization of ``[N, C, D, H, W]``: `torch.nn.BatchNorm3d`, with a fused epilogue.

    .. math:: y = f\left(\gamma\,\frac{x - \mu_c}{\sqrt{\sigma_c^2 + \epsilon}} + \beta + \text{residual}\right)

    See `BatchNorm2d`, whose arguments, errors and deviations are the same.

    >>> BatchNorm3d(2)(torch.randn(2, 2, 3, 3, 3)).shape
    torch.Size([2, 2, 3, 3, 3])
    """

    rank = 3


class SyncBatchNorm(_BatchNorm):
    r"""Batch normalization over the processes of a group: a drop-in for `torch.nn.SyncBatchNorm`.

    .. math:: y = f\left(\gamma\,\frac{x - \mu_c}{\sqrt{\sigma_c^2 + \epsilon}} + \beta + \text{residual}\right)

    μ and σ² are those of the batch that all processes hold together, weighted by the number of values in each, which
    may be 0: k processes with any split of a batch compute what one process computes on the whole. It runs on CPU
    (gloo) and GPU (NCCL), with one small collective forward and one backward. Gradients of γ and β are each process'
    own, as `DistributedDataParallel` expects.

    Args, buffers, errors: as in `BatchNorm2d`; ``process_group=None`` is the default group. The input is
    ``[N, C, \*space]`` with any space. Nothing is exchanged in evaluation, nor in training where `torch.distributed`
    is not initialized, as in torch: then the batch is that of this process. (The other layers with
    a ``process_group`` raise RuntimeError there.)

    Source: the synchronized statistics of Ioffe and Szegedy 2015, arXiv:1502.03167, over devices.

    The trap: torch's `convert_sync_batchnorm` turns every subclass of BatchNorm into its own class, and is refused
    where an activation or a formula would be lost. This class' method keeps each layer's class and sets its
    ``process_group``; every layer here whose statistics depend on the batch also takes ``process_group`` directly. For
    `isinstance` this layer is a BatchNorm but not a `torch.nn.SyncBatchNorm`, which `DistributedDataParallel` refuses
    on CPU.

    >>> SyncBatchNorm(4).eval()(torch.zeros(2, 4, 3)).shape
    torch.Size([2, 4, 3])
    """

    rank = 0
    #: torch's class before the conversion, which `normwise.unsync` restores.
    converted_from: type[nn.Module] | None = None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: ProcessGroup | str | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, **options)
        self.process_group = "world" if process_group is None else process_group

    def _processes(self) -> ProcessGroup | None:
        distributed = torch.distributed
        return super()._processes() if distributed.is_available() and distributed.is_initialized() else None

    def _check_input_dim(self, input: Tensor) -> None:
        check_input(input, type(self).__name__)
        self._check(input, dims=(input.dim(),), channel=1)

    @classmethod
    def convert_sync_batchnorm(cls, module: nn.Module, process_group: ProcessGroup | str | None = None) -> nn.Module:
        """Synchronize every batch-dependent layer of ``module``, in place; torch's layers become this class.

        Returns ``module``, or its replacement where ``module`` itself is a layer of torch. Layers of this package
        keep their class, options and parameters. A new layer takes every place of the old one, aliases included,
        with its tensors, hooks, mode and attributes such as ``qconfig``. After an error ``module`` is unchanged.
        """
        group = "world" if process_group is None else process_group
        with ModelChange(module, "convert_sync_batchnorm") as change:
            for layer in list(module.modules()):
                if isinstance(layer, BatchLayer):
                    change.set(layer, "process_group", group)
                elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
                    change.replace(layer, _synchronized(layer, group))
        return change.model


def _synchronized(layer: nn.modules.batchnorm._BatchNorm, group: ProcessGroup | str) -> SyncBatchNorm:
    """A synchronized layer of this package with the tensors of a layer of torch."""
    layer_class = parametrize.type_before_parametrizations(layer)
    if layer_class not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm):
        raise ValueError(
            f"{layer_class.__name__} has a forward of its own, which a conversion would drop; replace it by a layer of "
            "normwise first, or leave it out."
        )
    sync = SyncBatchNorm(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats, group)
    share_tensors(sync, layer)
    if layer_class is not nn.SyncBatchNorm:
        sync.converted_from = layer_class
    return sync


class _GhostBatchNorm(BatchLayer):
    """The base of `GhostBatchNorm1d`, 2d and 3d."""

    plain_in = ("evaluation",)

    def __init__(self, *args: Any, ghost_size: int = 32, **options: Any) -> None:
        check_whole(self, "ghost_size", ghost_size, 1)
        super().__init__(*args, **options)
        self.ghost_size = ghost_size

    def _by_batch(self, x: Tensor, mask: Tensor | None, group: ProcessGroup | None) -> Formula:
        return pooled(formulas.ghost_batch_norm, group, ghost_size=self.ghost_size, eps=self._eps)

    def _check_statistics(self, x: Tensor, group: ProcessGroup | None) -> None:
        super()._check_statistics(x, group)
        check_whole(self, "ghost_size", self.ghost_size, 1)
        check_values_per_chunk(self, x, self.ghost_size)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, ghost_size={self.ghost_size}"


class GhostBatchNorm1d(_GhostBatchNorm, nn.BatchNorm1d):
    r"""Ghost batch normalization of ``[N, C]`` or ``[N, C, L]``; see `GhostBatchNorm2d`.

    >>> GhostBatchNorm1d(4, ghost_size=2)(torch.randn(5, 4, 3)).shape
    torch.Size([5, 4, 3])
    """

    rank = 1


class GhostBatchNorm2d(_GhostBatchNorm, nn.BatchNorm2d):
    r"""Batch normalization of each chunk of ``ghost_size`` samples by its own statistics.

    .. math:: y = f\left(\gamma\,\frac{x - \mu_{kc}}{\sqrt{\sigma_{kc}^2 + \epsilon}} + \beta + \text{residual}\right)

    with μ and σ² (**biased**) over the k-th chunk of neighbouring samples, H and W. A large batch then regularizes as
    small ones do. All chunks are one vectorized pass. Where ``ghost_size`` does not divide the batch, the last chunk
    is smaller; if it would have a single value per channel, it joins the chunk before it.

    Evaluation is exactly that of `BatchNorm2d`: the running statistics are updated once, with the moments of the
    *whole* batch and its unbiased variance. (The mean of the chunks' variances lacks the variance between the chunks.)

    Args: as `BatchNorm2d`, whose ``forward`` and errors it shares, and keyword only ``ghost_size``, in samples.
    With ``process_group`` the running statistics are synchronized; each process still forms its own chunks.

    Source: Hoffer, Hubara and Soudry 2017, arXiv:1705.08741; their code updates the running statistics chunk by chunk.

    >>> x = torch.randn(6, 3, 4, 4)
    >>> both = torch.cat([nn.BatchNorm2d(3)(half) for half in x.split(3)])
    >>> torch.allclose(GhostBatchNorm2d(3, ghost_size=3)(x), both, atol=1e-6)
    True
    """

    rank = 2


class GhostBatchNorm3d(_GhostBatchNorm, nn.BatchNorm3d):
    r"""Ghost batch normalization of ``[N, C, D, H, W]``; see `GhostBatchNorm2d`.

    >>> GhostBatchNorm3d(4, ghost_size=2)(torch.randn(3, 4, 2, 2, 2)).shape
    torch.Size([3, 4, 2, 2, 2])
    """

    rank = 3
