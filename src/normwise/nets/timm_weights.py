"""timm's normalizer-free networks, rebuilt from their weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..weights import ScaledWSConv2d
from .nf_net import BlockShape, NetShape, NormalizerFreeNet, StemConv
from .nf_parts import Padding, recipe_of

TIMM_EPS = 1e-5
ALPHA = 0.2

Weights = dict[str, Tensor]


class Family(NamedTuple):
    """Facts that the weights do not tell. ``raw_gamma``: γ is also in convolutions of inputs without activation."""

    activation: str
    padding: Padding
    pool: bool
    strides: tuple[int, int, int, int]
    raw_gamma: bool


RESNET = Family("relu", "symmetric", True, (1, 2, 2, 2), True)
REGNET = Family("silu", "symmetric", False, (2, 2, 2, 2), True)
NFNET = Family("gelu", "symmetric", False, (1, 2, 2, 2), True)
DEEPMIND_NFNET = Family("gelu", "same", False, (1, 2, 2, 2), False)

BLOCK = r"^stages\.(\d+)\.(\d+)\."
# timm's names and ours; conv2b is the third of four.
NAMES = [
    (r"^stem\.conv\.", "stem.conv1."),
    (r"^final_conv\.", "final.conv."),
    (r"^head\.fc\.", "classifier."),
    (BLOCK + r"downsample\.conv\.", r"\1.\2.shortcut.conv."),
    (BLOCK + r"conv2b\.", r"\1.\2.branch.conv3."),
    (BLOCK + r"conv(\d)\.", r"\1.\2.branch.conv\3."),
    (BLOCK + r"attn(?:_last)?\.fc1\.", r"\1.\2.branch.squeeze_excite.reduce."),
    (BLOCK + r"attn(?:_last)?\.fc2\.", r"\1.\2.branch.squeeze_excite.expand."),
    (BLOCK + r"skipinit_gain$", r"\1.\2.skip_gain.gain"),
]


@torch.no_grad()
def from_timm(
    state_dict: Mapping[str, Tensor], *, dropout: float = 0.0, stochastic_depth: float = 0.0
) -> NormalizerFreeNet:
    r"""The network of these weights: timm's ``nf_resnet*``, ``nf_regnet_b*``, ``nfnet_f*``, ``dm_nfnet_f*``.

    Its outputs in evaluation are those of timm's model. Which network it is, its sizes, input channels and classes are
    read from names and shapes. ``dropout`` and ``stochastic_depth`` (not rescaled, as in the papers) are for further
    training. The parameters are copies, of the same dtype.

    timm's networks differ from the official ones: symmetric padding, channels in multiples of 8, averages in all
    shortcuts, no skip gain (here it is 1), γ in every convolution, also those of the image and of the last maps (none
    of this in ``dm_``), and 1e-5 is added to the variance of the weights instead of being its lower limit. The last two
    differences are put into the gains, exactly for the given weights:

    .. math:: g' = g\,\gamma_0\,\sqrt{\frac{\max(\sigma^2 \cdot \text{fan-in},\ \epsilon)}
        {(\sigma^2 + 10^{-5}) \cdot \text{fan-in}}}

    Raises TypeError for an object that is not a state dict, ValueError for the weights of other networks (``nfnet_l0``,
    ``eca_*``, without a classifier, ...).

    ::

        net = from_timm(timm.create_model("nf_resnet50", pretrained=True).state_dict()).eval()
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f"from_timm expects a state dict, received {type(state_dict).__name__}; give model.state_dict()."
        )
    family = _family(state_dict)
    weights = _renamed(state_dict)
    try:
        shape = _shape(weights, family)
        sizes = (weights["stem.conv1.weight"].shape[1], len(weights["classifier.weight"]))
    except KeyError as error:
        raise _not_ours(f"{error.args[0]} is missing") from error
    recipe = recipe_of("from_timm", family.activation, "official", family.padding, ALPHA, 1.0, pooled_shortcut=True)
    net = NormalizerFreeNet(shape, recipe, *sizes, dropout, stochastic_depth, classifier_std=0.0)
    net.to(weights["classifier.weight"].dtype)
    expected = net.state_dict()
    weights = {name: value for name, value in expected.items() if name.endswith("skip_gain.gain")} | weights
    if weights.keys() != expected.keys():
        raise _not_ours(f"{min(weights.keys() ^ expected.keys())} is missing or not in these networks")
    for name, module in net.named_modules():
        if isinstance(module, ScaledWSConv2d):
            gamma = recipe.gamma if family.raw_gamma and name in ("stem.conv1", "final.conv") else 1.0
            weights[f"{name}.gain"] = gamma * _gain(weights[f"{name}.weight"], weights[f"{name}.gain"], module.eps)
    if family.raw_gamma:
        weights["classifier.weight"] = weights["classifier.weight"] / recipe.gamma
    net.load_state_dict(weights)
    return net


def _gain(weight: Tensor, gain: Tensor, eps: float) -> Tensor:
    variance = weight.flatten(1).cpu().double().var(1, correction=0)
    fan_in = weight[0].numel()
    return gain.flatten().cpu() * ((variance * fan_in).clamp_min(eps) / ((variance + TIMM_EPS) * fan_in)).sqrt()


def _family(state_dict: Mapping[str, Tensor]) -> Family:
    if "stem.conv4.weight" in state_dict:
        return DEEPMIND_NFNET if "stages.0.0.skipinit_gain" in state_dict else NFNET
    stem = state_dict.get("stem.conv.weight")
    if stem is not None and stem.dim() == 4 and stem.shape[2] in (3, 7):
        return RESNET if stem.shape[2] == 7 else REGNET
    raise _not_ours("there is no stem.conv.weight of 3×3 or 7×7 and no stem.conv4.weight")


def _not_ours(reason: str) -> ValueError:
    return ValueError(
        "from_timm takes the weights of timm's nf_resnet*, nf_seresnet*, nf_regnet_b*, nfnet_f* and dm_nfnet_f*, with "
        f"their classifier; {reason}."
    )


def _renamed(state_dict: Mapping[str, Tensor]) -> Weights:
    """The weights with our names and shapes; the values are still timm's."""
    four = any(".conv2b." in name for name in state_dict)
    weights = {}
    for name, value in state_dict.items():
        ours = name.replace(".conv3.", ".conv4.") if four and name.startswith("stages.") else name
        for theirs, replacement in NAMES:
            ours = re.sub(theirs, replacement, ours)
        ours = re.sub(r"^(\d+)", lambda stage: f"stages.stage{int(stage[1]) + 1}", ours)
        weights[ours] = value.flatten(1) if ours.endswith(("reduce.weight", "expand.weight")) else value
    return weights


def _shape(weights: Weights, family: Family) -> NetShape:
    """The sizes of a network from the shapes of its weights."""
    stem_strides = (2, 1, 1, 2) if "stem.conv2.weight" in weights else (2,)
    stem = []
    for i, stride in enumerate(stem_strides, start=1):
        channels, _, kernel, _ = weights[f"stem.conv{i}.weight"].shape
        stem.append(StemConv(channels, kernel, stride))
    stages = []
    for number, stride in enumerate(family.strides, start=1):
        stage: list[BlockShape] = []
        while (name := f"stages.stage{number}.{len(stage)}.branch") + ".conv1.weight" in weights:
            stage.append(_block(weights, name, family, 1 if stage else stride))
        stages.append(tuple(stage))
    final = weights["final.conv.weight"].shape[0] if "final.conv.weight" in weights else 0
    return NetShape(tuple(stem), family.pool, tuple(stages), final)


def _block(weights: Weights, name: str, family: Family, stride: int) -> BlockShape:
    """The sizes of a block from the shapes of its weights."""
    kernels = (1, 3, 3, 1) if f"{name}.conv4.weight" in weights else (1, 3, 1)
    width, inputs = weights[f"{name}.conv1.weight"].shape[:2]
    outputs = weights[f"{name}.conv{len(kernels)}.weight"].shape[0]
    if len(kernels) == 4 and outputs != 2 * width:
        raise _not_ours(f"{name} has {width} channels inside {outputs}, as nfnet_l* has, whose activation is another")
    groups = width // weights[f"{name}.conv2.weight"].shape[1]
    reduce = weights.get(f"{name}.squeeze_excite.reduce.weight")
    squeeze = 0 if reduce is None else reduce.shape[0]
    return BlockShape(inputs, outputs, width, kernels, stride, groups, squeeze, squeeze_inside=family is REGNET)
