"""Switchable Normalization: learned mixtures of the instance's, the layer's and the batch's statistics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from normwise.core import formulas
from normwise.core.formulas import Formula
from normwise.core.processes import ProcessGroup
from normwise.core.running import RunningStatistics
from normwise.core.single_value import check_values_per_channel
from normwise.core.sizes import product
from normwise.core.tables import check_required

from .batch_layer import pooled
from .batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from .group_norm import GroupNorm, InstanceNorm1d, InstanceNorm2d, InstanceNorm3d
from .mixture_layer import MixtureLayer

_BATCH = {1: BatchNorm1d, 2: BatchNorm2d, 3: BatchNorm3d}
_INSTANCE = {1: InstanceNorm1d, 2: InstanceNorm2d, 3: InstanceNorm3d}
_NO_BATCH = (
    "its batch branch would have nothing to measure. Use a larger batch, single_value='running', using_bn=False, or "
    "eval()."
)


#: The branches that a layer may mix.
_BRANCHES = (("instance", "layer", "batch"), ("instance", "layer"), ("layer", "batch"))


def _check_branches(layer: object, branches: Any) -> None:
    if branches not in _BRANCHES:
        raise ValueError(f"{type(layer).__name__}: branches must be one of {_BRANCHES}, received {branches!r}.")


class _SwitchableNorm(MixtureLayer):
    """The base of `SwitchableNorm1d`, 2d and 3d."""

    checked = MixtureLayer.checked | {"branches": _check_branches}
    mixing = ("mean_weight", "var_weight")
    start = "which is an even mixture"
    mean_weight: nn.Parameter
    var_weight: nn.Parameter

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        using_bn: bool = True,
        using_in: bool = True,
        **options: Any,
    ) -> None:
        tracks = track_running_stats and using_bn
        super().__init__(num_features, eps, momentum, affine, tracks, device, dtype, **options)
        present = {"instance": using_in, "layer": True, "batch": using_bn}
        branches = tuple(name for name, used in present.items() if used)
        name = type(self).__name__
        if len(branches) == 1:
            raise ValueError(f"{name} without IN and BN has nothing to switch; write GroupNorm(1, {num_features}).")
        if self.process_group is not None and not using_bn:
            raise ValueError(f"{name}: using_bn=False leaves no statistics to synchronize; leave process_group out.")
        self.branches = branches
        self._set_mixing((len(self.branches),), device, dtype)

    def mix(self) -> dict[str, dict[str, float]]:
        """The learned weights of each branch in the mean and in the variance.

        Raises ValueError where a weight is NaN.

        >>> SwitchableNorm2d(8, using_bn=False).mix()
        {'mean': {'instance': 0.5, 'layer': 0.5}, 'var': {'instance': 0.5, 'layer': 0.5}}
        """
        shares = {}
        for statistic, logits in (("mean", self.mean_weight), ("var", self.var_weight)):
            if logits.isnan().any():
                raise ValueError(
                    f"{type(self).__name__}: {statistic}_weight is {logits.tolist()}, which is no mixture; "
                    "load a checkpoint from before it became NaN."
                )
            values = formulas.mixture(logits.detach().cpu().double()).tolist()
            shares[statistic] = dict(zip(self.branches, values, strict=True))
        return shares

    def harden(self, threshold: float = 0.9) -> nn.Module:
        """The plain layer that this mixture has become: InstanceNorm, GroupNorm(1, C) or BatchNorm.

        It has the same γ, β, running statistics and options, to be put in this layer's place.

        Raises ValueError, with the weights, unless one branch has at least ``threshold`` (above 0.5) of both the mean
        and the variance.
        """
        if not 0.5 < threshold <= 1:
            raise ValueError(f"threshold must be above 0.5 and at most 1, received {threshold}.")
        shares = self.mix()
        winner = max(self.branches, key=lambda name: shares["mean"][name])
        if min(of[winner] for of in shares.values()) < threshold:
            shown = "; ".join(
                f"{statistic}: {', '.join(f'{name} {share:.3f}' for name, share in of.items())}"
                for statistic, of in shares.items()
            )
            raise ValueError(
                f"{type(self).__name__}: no branch holds {threshold:g} of both mixtures ({shown}); "
                "train on, or lower the threshold."
            )
        return self._plain(winner).train(self.training)

    def _plain(self, branch: str) -> nn.Module:
        """The plain layer of one branch, with this layer's tensors and options."""
        plain: Any
        if branch == "layer":
            plain = GroupNorm(1, self.num_features, self.eps, self.affine, activation=self.activation)
        elif branch == "instance":
            plain = _INSTANCE[self.rank](self.num_features, self.eps, affine=self.affine, activation=self.activation)
        else:
            plain = _BATCH[self.rank](
                self.num_features,
                self.eps,
                self.momentum,
                self.affine,
                self.track_running_stats,
                activation=self.activation,
                process_group=self.process_group,
            )
            plain.policy, plain.bank = self.policy, self.bank
            if getattr(self, "banks", None) is not None:
                plain.banks = self.banks
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            if getattr(plain, name, None) is not None:
                setattr(plain, name, getattr(self, name))
        return plain

    def _formula(self, group: ProcessGroup | None) -> Formula:
        return pooled(formulas.switchable_norm, group, branches=self.branches, eps=self._eps)

    def _tensors(self) -> tuple[Tensor | None, ...]:
        return self.weight, self.bias, self.mean_weight, self.var_weight

    def _check_tensors(self, x: Tensor, running: RunningStatistics | None) -> None:
        super()._check_tensors(x, running)
        shares = {"mean_weight": self.mean_weight, "var_weight": self.var_weight}
        check_required(self, x, (len(self.branches),), **shares)

    def _check_statistics(self, x: Tensor, group: ProcessGroup | None) -> None:
        space = product(x.shape[2:])
        if "batch" not in self.branches:
            if space * self.num_features == 1:
                raise ValueError(
                    f"{type(self).__name__}: expected more than 1 value in each sample, got input size "
                    f"{list(x.shape)}; the output would be the bias whatever the input is."
                )
        elif group is None:
            check_values_per_channel(self, x, _NO_BATCH)

    def extra_repr(self) -> str:
        shown = super().extra_repr()
        return shown if len(self.branches) == 3 else f"{shown}, branches={self.branches}"


class SwitchableNorm1d(_SwitchableNorm):
    r"""Switchable Normalization of ``[N, C]`` or ``[N, C, L]``; see `SwitchableNorm2d`.

    On ``[N, C]`` a sample's plane is one value, its own mean with variance 0. ``using_in=False`` omits that branch,
    which gives the authors' SwitchNorm1d.

    >>> list(SwitchableNorm1d(4, using_in=False).mix()["mean"])
    ['layer', 'batch']
    """

    rank = 1


class SwitchableNorm2d(_SwitchableNorm):
    r"""Switchable Normalization of ``[N, C, H, W]``: the network learns its mixture of IN, LN and BN.

    .. math:: y = f\left(\gamma\,\frac{x - \sum_k w_k \mu_k}{\sqrt{\sum_k w'_k \sigma_k^2 + \epsilon}} + \beta
              + \text{residual}\right), \quad w = \text{softmax}(\lambda),\ w' = \text{softmax}(\lambda')

    with k in IN (over H, W), LN (over C, H, W) and BN (over N, H, W); every σ² is **biased** and computed by pooling,
    so none cancels. λ and λ' are ``mean_weight`` and ``var_weight``, in the order instance, layer, batch, all 1 at
    first: an even mixture. `mix` shows the mixing weights, and `harden` turns a layer with one dominant branch into the
    plain one. An infinite logit gives its limit (all or nothing), a NaN one makes the output NaN.

    Only BN has running statistics, used in evaluation; IN and LN are always the input's. Only BN is synchronized by
    ``process_group``. The buffers are torch's: ``running_var`` starts at 1 and is updated with the **unbiased**
    variance.

    Args: as `BatchNorm2d`, whose ``forward`` and errors it shares. Keyword only: ``using_bn=False`` omits BN and the
    buffers (for one image at a time), ``using_in=False`` omits IN. A BatchNorm checkpoint loads, with a warning.

    Source: Luo et al. 2018, arXiv:1806.10779. The authors' code differs: its IN variance is unbiased (NaN for planes
    of one value, and with it LN and BN up to H·W/(H·W - 1) too large), it subtracts squares (NaN where the mean is
    large), its ``running_var`` starts at 0, and its ``momentum`` of 0.9 is the weight of the *old* value; torch's
    here is 0.1.

    >>> layer, x = SwitchableNorm2d(3), torch.randn(4, 3, 8, 8)
    >>> with torch.no_grad():
    ...     for logits in (layer.mean_weight, layer.var_weight):
    ...         _ = logits.copy_(torch.tensor([0.0, 0.0, float("inf")]))
    >>> torch.allclose(layer(x), nn.BatchNorm2d(3)(x), atol=1e-6)
    True
    >>> layer.harden()
    BatchNorm2d(3, ...)
    """

    rank = 2


class SwitchableNorm3d(_SwitchableNorm):
    r"""Switchable Normalization of ``[N, C, D, H, W]``; see `SwitchableNorm2d`.

    >>> SwitchableNorm3d(2)(torch.randn(2, 2, 3, 3, 3)).shape
    torch.Size([2, 2, 3, 3, 3])
    """

    rank = 3
