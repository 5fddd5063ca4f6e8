"""torch's own layer for one of ours, with the same tensors."""

from __future__ import annotations

from typing import Any

from torch import nn

from .batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d

#: torch's layer class for each of ours.
TWINS: dict[type, type[nn.Module]] = {
    BatchNorm1d: nn.BatchNorm1d,
    BatchNorm2d: nn.BatchNorm2d,
    BatchNorm3d: nn.BatchNorm3d,
}


def torch_twin(layer: Any) -> nn.Module:
    """torch's batch norm with the parameters and buffers of a plain one of ours, without its activation.

    Raises TypeError where torch's layer would be another function: for a bank in use, a frozen layer, processes.

    >>> layer = BatchNorm2d(4)
    >>> twin = torch_twin(layer)
    >>> type(twin) is nn.BatchNorm2d, twin.weight is layer.weight
    (True, True)
    """
    name = type(layer).__name__
    if layer.bank is not None or layer.policy.frozen or layer.process_group is not None:
        raise TypeError(
            f"{name}: torch's layer has no statistics bank, cannot be frozen and knows no processes; "
            "switch the bank off, unfreeze it, or remove the process_group first."
        )
    twin = TWINS[type(layer)](
        layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats, device="meta"
    )
    twin._parameters.update(layer._parameters)
    twin._buffers.update(layer._buffers)
    return twin.train(layer.training)
