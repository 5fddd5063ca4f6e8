"""A normalizer-free network from a residual one that has normalizers."""

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
    r"""Take the normalizers out of a residual network and keep its signal in order without them.

    .. math:: x_{l+1} = \text{shortcut}(x_l) + \alpha_l\, g_l\, f_l(x_l), \qquad
              \alpha_l = \alpha / \sqrt{\operatorname{Var}[f_l]}

    The convolutions and linear layers that fed normalizers, and those that end branches and shortcuts, become ones with
    scaled weight standardization (`ScaledWSConv2d`) with γ of the activation in front; their gains start so that the
    variance which `predict` expects behind each is 1, which is where β is. A normalizer behind such a layer leaves
    nothing; another one, as in front of the activation of a pre-activation net, a scale and a shift of each channel.
    Activations, dropout, squeeze-and-excitation, stochastic depth and pooling stay. At the end of each residual branch
    stands a `SkipGain` with the constant α_l.

    A net whose normalizers have running statistics starts from them ("folded"): gains and biases are those of the
    folded normalizer and α_l g_l = 1, so that only what the means of the weights contributed is lost, which the report
    measures. Any other net starts "fresh", with the weights that it has.

    Args:
        example_inputs: a batch: a tensor, a tuple of arguments or a dict of them.
        alpha: what each block adds to the variance is its square.
        skip_gain: where the skip gains of a fresh start begin: 0 as published, 1 for short runs and shallow nets.
        inplace: change ``model`` itself, all or nothing; otherwise a deep copy is changed.

    In the state_dict the standardized layers keep ``weight`` and have ``gain`` and ``bias``; the end of a branch has
    ``gain`` and ``alpha``, under the name of the normalizer that it replaced, or as ``NAME.skip`` beside
    ``NAME.layer`` where a branch ends in another module; the scale and shift are ``weight`` and ``bias``. All
    constants that the signal decided are in it, so that it fits every model converted from the same one.

    Raises TypeError or ValueError, the model unchanged and naming the module: for models that are wrapped, scripted,
    compiled, quantized or without values; without normalizers; where no residual addition is found; for attention;
    for normalizers with a forward of their own or called functionally; and for branches that nothing can scale.

    Source: Brock, De and Smith 2021, arXiv:2101.08692; De and Smith 2020 (SkipInit), arXiv:2002.10444.

    The trap: it takes the recipe as well as the net: see "Training without normalizers" in the docs.

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
    old, before = Example(target, example_inputs), trace(target, example_inputs)
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
