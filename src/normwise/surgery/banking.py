"""Banks of running statistics for several domains in a net that was trained on one."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize

from .. import layers as ours
from ..core.inheritance import share_tensors
from ..core.model_change import ModelChange
from ..layers.remembering import memory_of
from ..layers.running_layer import RunningLayer, StatisticsBank

_TWINS: dict[type[nn.Module], type[nn.Module]] = {
    getattr(nn, name): getattr(ours, name)
    for name in (
        *("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm"),
        *("InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d"),
    )
}


def add_bank(change: ModelChange, layers: dict[nn.Module, str], bank: str, caller: str) -> None:
    """Add a bank to each layer, with a copy of the layer's statistics; torch's layers are replaced by this package's.

    Raises ValueError for layers of other libraries.
    """
    twins = {
        layer: layer if isinstance(layer, RunningLayer) else _twin(layer, name, caller)
        for layer, name in layers.items()
    }
    for layer, twin in twins.items():
        if twin is not layer:
            change.replace(layer, twin)
        memory = memory_of(twin)
        if memory is None or bank in (getattr(twin, "banks", None) or {}):
            continue
        if getattr(twin, "banks", None) is None:
            change.set(twin, "banks", nn.ModuleDict())
        fresh = StatisticsBank(twin)
        for name, value in zip(("running_mean", "running_var", "num_batches_tracked"), memory, strict=True):
            if value is not None:
                fresh.get_buffer(name).copy_(value)
        change.set(twin.banks, bank, fresh.train(twin.training))  # type: ignore[arg-type]


def _twin(layer: nn.Module, name: str, caller: str) -> nn.Module:
    """The layer of this package that computes the same as torch's, with the same tensors."""
    layer_class = type(layer)
    if layer_class not in _TWINS or "forward" in vars(layer) or parametrize.is_parametrized(layer):
        raise ValueError(
            f"{caller}: only torch's and this package's layers can keep banks, and {name} is a "
            f"{layer_class.__name__} with a forward of its own; leave bank= out, and copy the model for each domain."
        )
    twin = _TWINS[layer_class](
        layer.num_features,
        layer.eps,
        layer.momentum,
        layer.affine,
        layer.track_running_stats,
        **({"process_group": layer.process_group} if isinstance(layer, nn.SyncBatchNorm) else {}),
    )
    share_tensors(twin, layer)
    return twin
