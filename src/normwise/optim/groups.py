"""Parameter groups: the parameters with weight decay, and those without."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import parametrize

from ..core.numbers import check_number
from ..layers import NORMALIZERS
from ..layers.mixture_layer import MixtureLayer
from ..weights.layers import LAYERS

_NORMALIZER_CLASSES = (
    *(kind for row in NORMALIZERS.values() for kind in row.layers.values() if kind is not nn.Identity),
    *(_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm),
)
_LAYERS_WITH_WEIGHTS = (
    *LAYERS,
    *(nn.Bilinear, nn.Embedding, nn.EmbeddingBag, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention),
)


def param_groups(
    model: nn.Module,
    weight_decay: float,
    lr: float | Tensor | None = None,
    gate_lr: float | Tensor | None = None,
    *,
    no_decay: Iterable[nn.Module | nn.Parameter] = (),
) -> list[dict[str, Any]]:
    """Parameter groups for any optimizer: weight decay for weights, none for scales, shifts, gates and mixing weights.

    Decayed: matrices and kernels, that is weights of linear, convolution, recurrent and embedding layers, and bare
    parameters with at least two dimensions larger than 1; also weights of normalizers with ``zero_centered=True``,
    whose γ = 1 + weight decays to 1. Not decayed: biases; everything else that a normalizer itself owns (torch.nn's and
    every class in `NORMALIZERS`, also tables ``[conditions, C]``, but not the convolutions inside `SPADE` and the
    projection inside `AdaptiveLayerNorm`); gains (of scaled weight standardization, of torch's ``weight_norm``,
    LayerScale's ``[C, 1, 1]``), gates and mixing weights, skip gains and every other scalar or vector; and parameters
    that the model, or a module in it, names in its own method ``no_weight_decay()``, as timm's models do for position
    embeddings and tokens.

    Args:
        model: every parameter of it is in exactly one group, a shared one once, in the order of
            ``model.parameters()``. Frozen ones are included: an optimizer skips parameters without a gradient, a
            parameter that is unfrozen later is trained, and the optimizer's ``state_dict`` does not depend on freezing.
        weight_decay: for the decayed group; 0 for the others.
        lr: learning rate of all groups; None leaves it to the optimizer.
        gate_lr: learning rate of the gates and mixing weights (`BatchInstanceNorm2d`'s gates,
            `SwitchableNorm2d`'s mean and variance weights), in a group of their own. Nam and Kim 2018,
            arXiv:1805.07925, give the gates ten times the learning rate.
        no_decay: keyword only; parameters without decay, and modules, such as a normalizer of your own, all of whose
            parameters have none.

    Returns one to three groups with ``params``, ``weight_decay`` and, where given, ``lr``; none is empty.

    Raises TypeError for an object that is not a module (or, in ``no_decay``, a parameter), ValueError for negative
    numbers, for a model without parameters, and for an entry of ``no_decay`` that does not belong to the model.

    Source: He et al. 2018, arXiv:1812.01187, for biases and normalizers; the code of Brock et al. 2021,
    arXiv:2101.08692, for gains and skip gains.

    >>> import normwise as nw
    >>> net = nn.Sequential(nw.ScaledWSConv2d(1, 4, 3), nw.BatchInstanceNorm2d(4))
    >>> [(len(g["params"]), g["weight_decay"], g["lr"]) for g in param_groups(net, 1e-4, lr=0.1, gate_lr=1.0)]
    [(1, 0.0001, 0.1), (4, 0.0, 0.1), (1, 0.0, 1.0)]
    """
    _check(model, weight_decay=weight_decay, lr=lr, gate_lr=gate_lr)
    gates = {id(parameter) for parameter in _mixing(model)} if gate_lr is not None else set()
    plain = {id(parameter) for parameter in (*_chosen(model, no_decay), *_named_by_the_model(model))}
    decayed = {id(parameter) for parameter in _weights(model)} - plain
    parts: dict[str, list[nn.Parameter]] = {"decayed": [], "plain": [], "gates": []}
    for parameter in model.parameters():
        key = "gates" if id(parameter) in gates else "decayed" if id(parameter) in decayed else "plain"
        parts[key].append(parameter)
    rates = {"decayed": lr, "plain": lr, "gates": gate_lr}
    return [
        {"params": part, "weight_decay": weight_decay if key == "decayed" else 0.0}
        | ({} if rates[key] is None else {"lr": rates[key]})
        for key, part in parts.items()
        if part
    ]


def _check(model: nn.Module, **numbers: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"param_groups expects a model, received {type(model).__name__}.")
    if next(model.parameters(), None) is None:
        raise ValueError(f"param_groups: {type(model).__name__} has no parameters to optimize.")
    for name, value in numbers.items():
        if value is not None:
            # Optimizers accept a learning rate as a tensor of one value, which a compiled step may change.
            if isinstance(value, Tensor) and value.dim() == 0 and name != "weight_decay":
                value = value.item()
            check_number("param_groups", name, value, 0.0)


def _chosen(model: nn.Module, no_decay: Iterable[nn.Module | nn.Parameter]) -> Iterator[nn.Parameter]:
    """The parameters that ``no_decay`` names or that its modules own."""
    known = {id(parameter) for parameter in model.parameters()}
    for item in no_decay:
        if not isinstance(item, (nn.Module, Tensor)):
            raise TypeError(
                f"param_groups: no_decay takes modules and parameters, received {type(item).__name__}"
                + (f"; write model.get_parameter({item!r})." if isinstance(item, str) else ".")
            )
        parameters = item.parameters() if isinstance(item, nn.Module) else (item,)
        for parameter in parameters:
            if id(parameter) not in known:
                raise ValueError(
                    f"param_groups: no_decay has a tensor {list(parameter.shape)} that is no parameter of "
                    f"{type(model).__name__}; choose among those of model.parameters()."
                )
            yield parameter  # type: ignore[misc]


def _named_by_the_model(model: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters that modules name in ``no_weight_decay()``, relative to themselves; unknown names are ignored."""
    for module in model.modules():
        ask: Any = getattr(module, "no_weight_decay", None)
        names: set[str] = set(ask()) if callable(ask) else set()  # type: ignore[call-overload]
        if names:
            yield from (parameter for name, parameter in module.named_parameters() if name in names)


def _mixing(model: nn.Module) -> Iterator[nn.Parameter]:
    for layer in model.modules():
        if isinstance(layer, MixtureLayer):
            yield from (layer.get_parameter(name) for name in layer.mixing)


def _weights(model: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters to decay, each found at the module that owns it."""
    originals = {id(weight): module for module in model.modules() for weight in _parametrized(module)}
    for owner in model.modules():
        if isinstance(owner, _NORMALIZER_CLASSES):
            # The stored weight decays to 0 and γ to 1: the identity.
            if getattr(owner, "zero_centered", False) and owner.weight is not None:
                yield owner.weight  # type: ignore[misc]
            continue
        for name, parameter in owner.named_parameters(recurse=False):
            of_layer = isinstance(originals.get(id(parameter), owner), _LAYERS_WITH_WEIGHTS)
            matrix = sum(size != 1 for size in parameter.shape) > 1
            # The hook of torch.nn.utils.weight_norm keeps its gain in the layer itself.
            gain = name.endswith("_g") and f"{name[:-2]}_v" in owner._parameters
            if parameter.dim() > 1 and (matrix or of_layer) and not gain:
                yield parameter


def _parametrized(module: nn.Module) -> Iterator[Tensor]:
    """The originals of a module's parametrized tensors; of several for one tensor the largest, not its gain."""
    if not parametrize.is_parametrized(module):
        return
    for chain in module.parametrizations.children():  # type: ignore[union-attr]
        tensors = list(chain.parameters(recurse=False))
        yield from sorted(tensors, key=Tensor.numel)[-1:]
