"""`unsync`: convert synchronized batch normalization back to the layer of one process."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from .. import layers
from ..core.inheritance import share_tensors
from ..core.model_change import ModelChange
from ..core.module_tree import module_tree
from ..layers.batch_layer import BatchLayer
from ..weights.layers import CONVOLUTIONS, TRANSPOSED
from .folding.runs import on_example
from .given import check_model

_TORCH = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_OURS = {1: layers.BatchNorm1d, 2: layers.BatchNorm2d, 3: layers.BatchNorm3d}
_SYNCED = (nn.SyncBatchNorm, layers.SyncBatchNorm)
_RANKS = {nn.Linear: 1} | {of: rank for classes in (CONVOLUTIONS, TRANSPOSED) for rank, of in enumerate(classes, 1)}


def unsync(model: nn.Module, example_inputs: Any = None) -> nn.Module:
    """Convert SyncBatchNorm back to the original BatchNorm, in place, and return the model.

    torch's and this package's `SyncBatchNorm` become `BatchNorm1d`, `2d` or `3d` of the same library, timm's
    `SyncBatchNormAct` its `BatchNormAct2d`; the other layers of this package lose their ``process_group``. Parameters,
    buffers, hooks, modes and options are the same objects as before, so optimizers and state_dicts stay valid; if
    ``model`` itself is such a layer, the new one is returned.

    SyncBatchNorm accepts any number of dimensions and does not store the original one. With ``example_inputs`` the
    model is run to find it; without them it follows from the neighbouring layers: a convolution or linear layer of the
    same module tree with as many channels.

    Raises ValueError if neither tells the dimensions, or for a subclass with its own forward, and TypeError for
    wrapped, compiled or scripted models; the model is then unchanged.

    >>> net = nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4))
    >>> synced = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    >>> type(unsync(synced)[1]).__name__
    'BatchNorm1d'
    """
    check_model(model, "unsync")
    ranks = _ranks_around(model) | ({} if example_inputs is None else _ranks_seen(model, example_inputs))
    with ModelChange(model, "unsync") as change:
        for module, node in module_tree(model).items():
            if isinstance(module, _SYNCED):
                change.replace(module, _plain(module, node.name or "the model", ranks.get(module)))
            elif isinstance(module, BatchLayer) and module.process_group is not None:
                change.set(module, "process_group", None)
        return change.model


def _plain(sync: nn.SyncBatchNorm | layers.SyncBatchNorm, name: str, rank: int | None) -> nn.Module:
    """The layer of one process, with the same tensors."""
    if type(sync).__name__ == "SyncBatchNormAct":
        return _of_timm(sync)
    layer_class = parametrize.type_before_parametrizations(sync)
    if layer_class not in _SYNCED or "forward" in vars(sync):
        raise ValueError(f"unsync: {name} is a {layer_class.__name__}, whose forward of its own would be lost.")
    options = (sync.num_features, sync.eps, sync.momentum, sync.affine, sync.track_running_stats)
    ours = isinstance(sync, layers.SyncBatchNorm)
    if ours and sync.converted_from is not None and sync.activation is None:
        return _with_tensors(sync.converted_from(*options), sync)
    if rank is None:
        raise ValueError(
            f"unsync: nothing says whether {name} was a BatchNorm1d, 2d or 3d; write unsync(model, example_inputs)."
        )
    if not ours:
        return _with_tensors(_TORCH[rank](*options), sync)
    plain = _OURS[rank](*options, activation=sync.activation)
    plain.policy, plain.bank = sync.policy, sync.bank
    if getattr(sync, "banks", None) is not None:
        plain.banks = sync.banks
    return _with_tensors(plain, sync)


def _of_timm(sync: Any) -> nn.Module:
    plain = import_module("timm.layers").BatchNormAct2d(
        sync.num_features, sync.eps, sync.momentum, sync.affine, sync.track_running_stats
    )
    plain.drop, plain.act = sync.drop, sync.act
    return _with_tensors(plain, sync)


def _with_tensors(plain: nn.Module, sync: nn.Module) -> nn.Module:
    share_tensors(plain, sync)
    return plain


def _ranks_seen(model: nn.Module, example: Any) -> dict[nn.Module, int]:
    """The rank of each layer's input, from a run in evaluation, in which no process waits for others."""
    found: dict[nn.Module, int] = {}

    def note(module: nn.Module, args: Any) -> None:
        found[module] = max(args[0].dim() - 2, 1)

    def work(forward: Any) -> None:
        for module in model.modules():
            module.training = False
            if isinstance(module, _SYNCED):
                module.register_forward_pre_hook(note)
        forward(model)

    on_example(model, example, work, "unsync")
    return found


def _ranks_around(model: nn.Module) -> dict[nn.Module, int]:
    """The rank of the nearest layer in front or behind with as many channels; or the only rank in the model."""
    order = [m for m in model.modules() if isinstance(m, _SYNCED) or _rank(m) is not None]
    every = {_rank(m) for m in order} - {None}
    found: dict[nn.Module, int] = {}
    for index, sync in enumerate(order):
        if not isinstance(sync, _SYNCED):
            continue
        makers = (m for m in order[:index][::-1] if _channels(m)[1] == sync.num_features)
        takers = (m for m in order[index:] if _channels(m)[0] == sync.num_features)
        near = next(makers, None) or next(takers, None)
        rank = _rank(near) if near is not None else next(iter(every)) if len(every) == 1 else None
        if rank is not None:
            found[sync] = rank
    return found


def _rank(module: nn.Module) -> int | None:
    return next((rank for of, rank in _RANKS.items() if isinstance(module, of)), None)


def _channels(module: nn.Module) -> tuple[int | None, int | None]:
    """The numbers of input and output channels of a layer."""
    names = ("in_features", "out_features") if isinstance(module, nn.Linear) else ("in_channels", "out_channels")
    return getattr(module, names[0], None), getattr(module, names[1], None)
