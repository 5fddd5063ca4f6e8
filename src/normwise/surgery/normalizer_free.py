"""Convert a residual network with normalizers into a normalizer-free one."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from ..core.model_change import ModelChange
from ..core.numbers import check_number
from ..signal.predicting import predict
from ..signal.protection import evaluate, random_numbers_kept
from ..signal.tracing import trace
from .copying import copy_of
from .drifting import Example
from .folding.runs import Run, on_example
from .given import check_model
from .unnormalized.conversion import convert
from .unnormalized.openings import CALLER
from .unnormalized.records import NormalizerFree


@torch.inference_mode(False)
def normalizer_free(
    model: nn.Module, example_inputs: Any, alpha: float = 0.2, *, skip_gain: float = 0.0, inplace: bool = False
) -> NormalizerFree:
    r"""Remove the normalizers of a residual network and keep the variance of its signal under control without them.

    .. math:: x_{l+1} = \text{shortcut}(x_l) + \alpha_l\, g_l\, f_l(x_l), \qquad
              \alpha_l = \alpha / \sqrt{\operatorname{Var}[f_l]}

    Convolutions and linear layers in front of normalizers, and those at the end of branches and shortcuts, are replaced
    by layers with scaled weight standardization (`ScaledWSConv2d`), with γ of the activation in front. Their gains
    start so that the variance predicted behind each (see `predict`) is 1; this contains the paper's β. A normalizer
    behind such a layer is removed; any other one, such as that in front of the activation of a pre-activation net,
    becomes a scale and a shift of each channel. Activations, dropout, squeeze-and-excitation, stochastic depth and
    pooling stay. Each residual branch ends in a `SkipGain` with the constant α_l.

    A net whose normalizers have running statistics starts from them ("folded"): gains and biases are those of the
    folded normalizer and α_l g_l = 1. Only the contribution of the means of the weights is lost; the report measures
    it. Any other net starts "fresh", with its present weights.

    Args:
        example_inputs: a batch: a tensor, a tuple of arguments or a dict of them.
        alpha: each block adds alpha² to the variance.
        skip_gain: initial value of the skip gains of a fresh start: 0 as published, 1 for short runs and shallow nets.
        inplace: change ``model`` itself, all or nothing; otherwise a deep copy is changed.

    In the state_dict the standardized layers keep ``weight`` and have ``gain`` and ``bias``; the end of a branch has
    ``gain`` and ``alpha``, under the name of the normalizer that it replaced, or as ``NAME.skip`` beside
    ``NAME.layer`` if a branch ends in another module; the scale and shift are ``weight`` and ``bias``. It contains all
    constants that were computed from the signal, so it fits every model converted from the same one.

    Raises TypeError or ValueError that names the module, with the model unchanged: for models that are wrapped,
    scripted, compiled, quantized or without values; without normalizers; without residual additions; with attention;
    for normalizers with their own forward or called as functions; and for branches that no module can scale.

    Source: Brock, De and Smith 2021, arXiv:2101.08692; De and Smith 2020 (SkipInit), arXiv:2002.10444.

    The trap: the net also needs its training recipe: see "Training without normalizers" in the docs.

    >>> import normwise as nw
    >>> free = nw.normalizer_free(nw.nets.resnet(8), torch.randn(8, 3, 16, 16))
    >>> any("Norm" in type(m).__name__ for m in free.model.modules()), len(free.rows), free.start
    (False, 3, 'fresh')
    >>> all(0.5 < row.ratio < 2 for row in free.rows)
    True
    """
    check_model(model, CALLER)
    check_number(CALLER, "alpha", alpha, 1e-3)
    check_number(CALLER, "skip_gain", skip_gain, float("-inf"))
    target = model if inplace else copy_of(model, CALLER)
    on_example(target, example_inputs, partial(_in_evaluation, target), CALLER)
    old, before = Example(target, example_inputs, CALLER), trace(target, example_inputs)
    with random_numbers_kept(set()), ModelChange(target, CALLER) as change:
        done = convert(change, example_inputs, alpha, skip_gain)
        gain = None if done.folded else 1.0
        predicted = predict(change.model, example_inputs, skip_gain=gain)
        after = trace(change.model, example_inputs, skip_gain=gain)
        drift, agreement = old.distance(change.model) if done.folded else (None, None)
    rows = done.rows(predicted, after)
    start = "folded" if done.folded else "fresh"
    return NormalizerFree(change.model, rows, before, after, predicted, start, done.replaced, drift, agreement)


def _in_evaluation(model: nn.Module, forward: Run) -> None:
    evaluate(model, batch_statistics=False, stochastic_depth=False)
    forward(model)
