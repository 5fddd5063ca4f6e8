"""The base of layers with running statistics: their buffers, their policy, and their banks."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from normwise.core.known import check_channels, check_pair
from normwise.core.lasting import changing_state, lasting
from normwise.core.moments import Moments, concatenate
from normwise.core.numbers import check_momentum
from normwise.core.policy import StatisticsPolicy
from normwise.core.running import Judge, RunningStatistics
from normwise.core.tables import called
from normwise.core.transforms import under_function_transform
from normwise.core.wide_buffers import WideBuffers
from normwise.operations.normalize import Result

from ._shared import ChannelLayer


def check_bank(caller: object, name: Any) -> None:
    """Require a bank's name without dots, since it becomes part of the names in a state_dict."""
    if not isinstance(name, str) or not name or "." in name:
        raise ValueError(f"{called(caller)}: a bank's name must be a non-empty string without dots, received {name!r}.")


def _check_bank_or_none(layer: object, bank: Any) -> None:
    if bank is not None:
        check_bank(layer, bank)


def _check_policy(layer: object, policy: Any) -> None:
    if not isinstance(policy, StatisticsPolicy):
        raise TypeError(
            f"{called(layer)}: policy must be a StatisticsPolicy, received {policy!r}; its rules are set by name, "
            "as in layer.policy.frozen = True."
        )


class StatisticsBank(WideBuffers):
    """A second set of running statistics of a layer, for the data of one domain: the same three buffers."""

    wide = ("running_mean", "running_var")

    def __init__(self, like: nn.Module) -> None:
        super().__init__()
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, torch.empty_like(getattr(like, name)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reset the buffers to those of a fresh layer."""
        self.running_mean.zero_()  # type: ignore[operator]
        self.running_var.fill_(1)  # type: ignore[operator]
        self.num_batches_tracked.zero_()  # type: ignore[operator]


class RunningLayer(WideBuffers, ChannelLayer):
    """A channel layer with torch's buffers ``running_mean``, ``running_var`` and ``num_batches_tracked``.

    The first two stay in at least fp32 (fp64 under fp64) whatever the layer's dtype; for operators and exported graphs
    that need one dtype, they or the input are cast.
    ``policy`` says when they are updated; ``bank`` names the running statistics in use, None the layer's own.
    """

    wide = ("running_mean", "running_var")
    #: The checks of attributes, made whenever one is set, by the constructor or later.
    checked: ClassVar[dict[str, Callable[[object, Any], None]]] = {
        "policy": _check_policy,
        "bank": _check_bank_or_none,
    }
    policy: StatisticsPolicy
    bank: str | None = None
    momentum: float | None

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.checked:
            self.checked[name](self, value)
        super().__setattr__(name, value)

    def _set_policy(self, nonfinite: str, single_value: str) -> None:
        self.policy = StatisticsPolicy(nonfinite, single_value)

    def running_statistics(self) -> RunningStatistics | None:
        """The running statistics in use with the layer's momentum; None for a layer without any."""
        holder: Any = self if self.bank is None else self.make_bank(self.bank)
        kept = holder._buffers  # directly, since `nn.Module` looks there last, see `parameters_of`
        mean, var, batches = kept.get("running_mean"), kept.get("running_var"), kept.get("num_batches_tracked")
        if mean is None or var is None or batches is None:
            mean, var, batches = holder.running_mean, holder.running_var, holder.num_batches_tracked
        if mean is None or var is None:
            check_pair(self, mean, var)
            return None
        return RunningStatistics(mean, var, batches, self.momentum)

    def reset_running_stats(self) -> None:
        """Reset the statistics in use, unless frozen or paused, since `update_bn` could then not fill them again."""
        policy = getattr(self, "policy", None)  # it does not exist yet while torch's constructor runs
        if policy is not None and not policy.is_open():
            return
        if self.bank is None:
            super().reset_running_stats()  # type: ignore[misc]
        else:
            self.make_bank(self.bank).reset_parameters()

    def reset_parameters(self) -> None:
        """Reset the layer and its banks to those of a fresh layer, even if the policy is closed."""
        super().reset_parameters()  # type: ignore[misc]
        super().reset_running_stats()  # type: ignore[misc]
        for bank in (getattr(self, "banks", None) or {}).values():
            bank.reset_parameters()

    def train(self, mode: bool = True) -> Any:
        if hasattr(self, "policy"):
            self.policy.warn_if_skipped(type(self).__name__)
        return super().train(mode)

    def extra_repr(self) -> str:
        shown = super().extra_repr()
        for name, default in (("nonfinite", "skip"), ("single_value", "error")):
            value = getattr(self.policy, name)
            shown += "" if value == default else f", {name}={value!r}"
        return shown

    def commit(self, statistics: Moments) -> None:
        """Update the running statistics in use with ``statistics``, even if the policy is closed."""
        running = self.running_statistics()
        if running is None:
            return
        check_momentum(self, running.momentum)
        check_channels(self, statistics.mean, statistics.mean.shape[1], None, None, running)
        try:
            self._update(running, statistics, partial(self.policy.admits, layer=type(self).__name__))
        except RuntimeError as error:
            if not under_function_transform():
                raise
            raise RuntimeError(
                f"{type(self).__name__}: running statistics cannot be updated from inside a torch.func transform; call "
                "eval(), use track_running_stats=False, or pass the buffers to the transformed function, too, with "
                "functional_call(layer, (parameters, buffers), x)."
            ) from error

    def _update(self, running: RunningStatistics, statistics: Moments, judge: Judge) -> None:
        running.update_from_batch(statistics, judge)

    def _remember(self, result: Result) -> None:
        if not self.policy.admits_updates():
            return
        with changing_state(*self._buffers.values()):
            if self.policy.pending is not None:
                self.policy.pending.append(result.statistics())
            else:
                self.commit(result.statistics())

    def commit_pending(self) -> None:
        """Close a `pool_updates` block: update with the statistics of all its forward passes as one batch."""
        pending, self.policy.pending = self.policy.pending, None
        if pending:
            self.commit(pending[0] if len(pending) == 1 else concatenate(pending))

    def make_bank(self, name: str) -> StatisticsBank:
        """The bank of that name, which is created if there is none."""
        if getattr(self, "banks", None) is None:
            self.banks = nn.ModuleDict()
        if name not in self.banks:
            with lasting():
                self.banks[name] = StatisticsBank(self)
        return self.banks[name]  # type: ignore[return-value]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for key in state_dict:
            if key.startswith(f"{prefix}banks."):
                self.make_bank(key[len(prefix) :].split(".")[1])
        self._adapt_old_checkpoint(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _adapt_old_checkpoint(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Adapt an old checkpoint, with statistics that the layer lacks or without the counter, and warn about it."""
        keys = [prefix + name for name in ("running_mean", "running_var", "num_batches_tracked")]
        if self.running_mean is None:
            dropped = [key for key in keys if state_dict.pop(key, None) is not None]
            if dropped:
                self._warn_of(
                    f"left out {', '.join(dropped)}, since it has track_running_stats=False; set it to use them"
                )
        elif keys[0] in state_dict and keys[2] not in state_dict and isinstance(self.num_batches_tracked, Tensor):
            state_dict[keys[2]] = self.num_batches_tracked
            self._warn_of(f"kept its own counter, since {keys[2]} is missing (a checkpoint from before torch 0.4.1)")

    def _warn_of(self, what: str) -> None:
        warnings.warn(f"Loading a checkpoint into {type(self).__name__}: it {what}.", UserWarning, stacklevel=2)
