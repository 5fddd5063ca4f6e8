"""Freeze the running statistics of layers while the rest of a model is trained."""

from __future__ import annotations

from torch import nn

from ..core.frozen import FROZEN_PARAMETERS, StaysInEvaluation
from ..core.module_tree import module_tree
from ..core.numbers import check_flag
from ..layers.remembering import memory_of
from ..layers.running_layer import RunningLayer
from ..signal.modules import unwrapped
from .given import Where, matching


def freeze(model: nn.Module, affine: bool = False, where: Where | None = None) -> int:
    """Use the running statistics from now on, also in training, and do not update them.

    This applies to every layer with running statistics: torch's BatchNorm, SyncBatchNorm and tracked InstanceNorm,
    timm's, this package's, and subclasses. It persists through ``model.train()``, `torch.optim.swa_utils.update_bn`,
    copies and pickles. `unfreeze` undoes it. Returns the number of chosen layers: 0 for a model without any.

    Args:
        affine: also freeze γ and β: they get no gradient and lose the present one, so an optimizer does not change
        them.
        where: a predicate ``(name, module)``, or names or globs; a name includes everything below it.

    Raises TypeError if the model is no module or runs in TorchScript, ValueError if ``where`` matches no layer. The
    trap: a layer of torch is frozen by its own attribute ``train``, which leaves it in evaluation; code that sets
    ``layer.training = True`` directly bypasses it.

    >>> import torch
    >>> layer = nn.BatchNorm1d(2)
    >>> freeze(layer)
    1
    >>> x = torch.randn(1, 2)
    >>> torch.allclose(layer.train()(x), x / (1 + 1e-5) ** 0.5)
    True
    """
    whole = unwrapped(model, "freeze")
    check_flag("freeze", "affine", affine)
    candidates = {m: node for m, node in module_tree(whole).items() if memory_of(m) is not None}
    chosen = matching(candidates, where, "freeze") if candidates or where is not None else []
    for layer in chosen:
        if isinstance(layer, RunningLayer):
            layer.policy.frozen = True
        else:
            StaysInEvaluation.freeze(layer)
        if affine:
            _freeze_parameters(layer)
    return len(chosen)


def unfreeze(model: nn.Module) -> int:
    """Undo `freeze`: batch statistics in training, updates, and the gradients that `freeze` switched off.

    A layer of torch is then in the mode that was last set. Returns the number of layers that were frozen. Raises
    TypeError if the model is no module or runs in TorchScript.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    >>> freeze(net), unfreeze(net), unfreeze(net)
    (1, 1, 0)
    """
    count = 0
    for layer in unwrapped(model, "unfreeze").modules():
        count += is_frozen(layer)
        if isinstance(layer, RunningLayer):
            layer.policy.frozen = False
        StaysInEvaluation.release(layer)
        for name in vars(layer).pop(FROZEN_PARAMETERS, ()):
            layer.get_parameter(name).requires_grad_(True)
    return count


def is_frozen(layer: nn.Module) -> bool:
    """Whether `freeze` has frozen the layer's statistics."""
    if isinstance(layer, RunningLayer):
        return layer.policy.frozen
    return StaysInEvaluation.holds(layer)


def _freeze_parameters(layer: nn.Module) -> None:
    trained = [name for name, p in layer.named_parameters(recurse=False) if p.requires_grad]
    vars(layer)[FROZEN_PARAMETERS] = (*vars(layer).get(FROZEN_PARAMETERS, ()), *trained)
    for name in trained:
        parameter = layer.get_parameter(name).requires_grad_(False)
        parameter.grad = None
