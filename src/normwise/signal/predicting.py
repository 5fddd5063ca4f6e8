"""`predict`: the signal from the structure and the weights of a net."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from .inputs import default_input, is_shape
from .modules import type_name, unwrapped
from .prediction.gaussian import Signal
from .prediction.graph import Structure, structure_of
from .prediction.modules import rule_of
from .prediction.options import Options
from .prediction.residuals import residuals_of
from .prediction.walk import walk
from .protection import on_cpu
from .records import Kind, Tap, Trace


@torch.no_grad()
def predict(
    model: nn.Module, input: Any = None, *, skip_gain: float | None = None, batch_statistics: bool = True
) -> Trace:
    r"""Predict the result of `trace` without running the model, by mean-field theory on its structure and weights.

    Each channel of each activation is modelled as independent values with a mean μ and a variance σ²; in front of a
    nonlinearity as a Gaussian, or as the sum of a Gaussian and the values of a shortcut. Then, with m_k the sum over
    the input channels of weight times mean at tap k of the kernel,

    .. math:: \mu' = \sum_k p_k m_k + b, \qquad
              \sigma'^2 = \sum_{k,i} p_k w_{ki}^2 \sigma_i^2 + \sum_{k,l} p_{kl} m_k m_l - (\mu' - b)^2

    for a convolution, where p is the share of the positions at which taps read values and not zero padding; for an
    activation f the integral of f against the Gaussian (quadrature, error 1e-4); for a normalizer its own formula; for
    a residual addition the sums of means and variances.

    Args:
        model: any model that `torch.fx` can follow, of the usual layers (convolutions of any kind, linear layers,
            activations, normalizers, pooling, residual additions, squeeze-and-excitation, dropout, views). Wrapped and
            compiled models are unwrapped.
        input: the shape of a batch of standard normal values such as ``(8, 3, 224, 224)``, a tensor, of which the
            moments per channel are used, or a tuple or dict of these for several inputs; None for the default shape of
            `trace`.
        skip_gain: a value for all of SkipInit's gains, as in `trace`; None keeps their own values.
        batch_statistics: let BatchNorm use batch statistics, even if the model is in evaluation mode.

    Dropout and stochastic depth are off. The result has the taps of `trace` with ``squared_mean``, ``variance``,
    ``shape`` and ``dead_share`` (channels of variance 0); `plot` shows it together with a measured one.

    Raises ValueError, with the operation and its module, for a model that cannot be followed.

    Source: the arithmetic of Brock, De and Smith 2021, arXiv:2101.08692, carried out per channel and with borders.

    The trap: values of different channels and positions are assumed to be independent. This holds for random weights on
    noise (within a few percent, less exact deep in a net whose mean grows), but not for trained weights on photographs:
    measure there.

    >>> net = nn.Sequential(nn.Linear(100, 500), nn.ReLU())
    >>> _ = nn.init.normal_(net[0].weight, std=0.1), nn.init.zeros_(net[0].bias)
    >>> hidden, output = predict(net, (8, 100)).taps
    >>> round(hidden.variance, 1), round(output.variance, 2), round(output.squared_mean, 2)
    (1.0, 0.34, 0.16)
    """
    model = unwrapped(model, "predict")
    name = type(model).__name__
    if input is None:
        input, _ = default_input(model, torch.Generator().manual_seed(0))
        input = tuple(input.shape) if input.is_floating_point() else input
    with on_cpu(model):
        structure = structure_of(followed(model))
        values = walk(structure, inputs_of(structure.root, input), Options(skip_gain, batch_statistics))
        return Trace(name, tuple(_taps(structure, values)), f"predicted for {_words(input)}")


def _taps(structure: Structure, values: Mapping[fx.Node, Any]) -> Iterator[Tap]:
    """The taps in the order of execution; a branch comes before its block."""
    places: dict[fx.Node, list[tuple[str, Kind, str, fx.Node]]] = {}
    for residual in residuals_of(structure, values):
        here = places.setdefault(residual.sum, [])
        here.append((residual.name, "branch", residual.path, residual.branch))
        here.append((residual.name, "block", residual.path, residual.sum))
    for call in structure.calls:
        places.setdefault(call.node, []).append((call.name, "layer", call.path, call.node))
    for node in structure.graph.nodes:
        for name, kind, path, source in places.get(node, ()):
            if isinstance(values[source], Signal):
                yield _tap(name, kind, structure.root.get_submodule(path), values[source])


def _tap(name: str, kind: Kind, module: nn.Module, signal: Signal) -> Tap:
    return Tap(
        name,
        kind,
        type_name(module),
        tuple(signal.shape),
        signal.mean.square().mean().item(),
        signal.variance.mean().item(),
        dead_share=(signal.variance == 0).double().mean().item(),
        channel_axis=signal.axis,
    )


def followed(model: nn.Module) -> nn.Module:
    # A layer with a rule is a call in some module's forward.
    return nn.Sequential(OrderedDict({type_name(model): model})) if rule_of(model) is not None else model


def inputs_of(model: nn.Module, given: Any) -> dict[str, Any]:
    """The inputs as signals, by the names of `forward`'s parameters."""
    names = list(inspect.signature(model.forward).parameters)
    if isinstance(given, Mapping):
        parts = dict(given)
    else:
        several = list(given) if isinstance(given, (tuple, list)) and not is_shape(given) else [given]
        if len(several) > len(names):
            raise ValueError(f"predict: {len(several)} inputs for {type(model).__name__}.forward({', '.join(names)}).")
        parts = dict(zip(names, several, strict=False))
    unknown = parts.keys() - names
    if unknown:
        raise ValueError(f"predict: {type(model).__name__}.forward takes {', '.join(names)}, not {min(unknown)!r}.")
    return {name: _signal(part) for name, part in parts.items()}


def _signal(given: Any) -> Any:
    if isinstance(given, Tensor):
        if given.numel() == 0:
            raise ValueError(f"predict: the input {list(given.shape)} is empty; give at least one sample.")
        if given.is_floating_point() and given.dim() < 2:
            raise ValueError(
                f"predict: the input needs a batch dimension and channels, received {list(given.shape)}; a shape is "
                "given as a tuple such as (8, 3, 224, 224)."
            )
        return Signal.measured(given, min(1, given.dim() - 1)) if given.is_floating_point() else given
    if not is_shape(given):
        raise TypeError(
            f"predict expects a tensor or a shape such as (8, 3, 224, 224), received {given!r:.60}; a tuple or dict of "
            "these for several inputs."
        )
    if min(given) < 1:
        raise ValueError(f"predict: every size of the shape {tuple(given)} must be at least 1.")
    return Signal.standard(given, min(1, len(given) - 1))


def _words(given: Any) -> str:
    if isinstance(given, Tensor):
        return "×".join(map(str, given.shape))
    if is_shape(given):
        return f"Gaussian {'×'.join(map(str, given))}"
    return ", ".join(map(_words, given.values() if isinstance(given, Mapping) else given))
