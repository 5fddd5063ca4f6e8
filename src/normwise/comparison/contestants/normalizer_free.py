"""The contestant `nf`: a model's normalizer-free counterpart, and how it is trained."""

from __future__ import annotations

from torch import nn

from ...nets import nf_resnet
from ...nets.forms import Stem

NORMALIZER_FREE = "nf"

# The gradient of a unit may have this share of its weights' norm. The authors' 0.01 is for batches of 4096; on the
# digits 0.02 to 0.32 differ little, but 0.32 loses 4 points where it is the only clipping.
UNIT_CLIP = 0.08
# The authors' alpha of 0.2 and skip gain of 0 are for deep nets and long runs: a gain that starts at 0 has to grow
# before there is a branch, and clipping relative to the weight hardly lets it.
ALPHA, SKIP_GAIN = 0.5, 1.0
# Replaces the regularization by the noise of batch statistics; the authors add dropout and stochastic depth.
DROPOUT = 0.2

PROTOCOL = (
    f"{NORMALIZER_FREE} is a network of its own, the model's normalizer-free counterpart (Brock et al. 2021, "
    f"arXiv:2101.08692): pre-activation blocks, scaled weight standardization, α {ALPHA:g}, learnable skip gains that "
    f"start at {SKIP_GAIN:g}, dropout {DROPOUT:g} before the classifier, and weights of its own under the same seed. "
    f"Its gradients are also clipped unit by unit, to {UNIT_CLIP:g} of the norm of the weights (adaptive gradient "
    "clipping, arXiv:2102.06171). All else is the same."
)
#: The protocol for a model without a counterpart among our nets, and for one that begins with trained weights.
CONVERTED = (
    f"{NORMALIZER_FREE} is the model with its normalizers taken out (normwise.normalizer_free): scaled weight "
    "standardization, α and β from the predicted variance, skip gains. It starts from the running statistics of an "
    f"earlier training if there are any, else with α {ALPHA:g} and skip gains of {SKIP_GAIN:g}. Gradients are clipped "
    f"unit by unit, to {UNIT_CLIP:g} of the norm of the weights (arXiv:2102.06171)."
)


def counterpart(depth: int, in_channels: int, classes: int, stem: Stem | None) -> nn.Module:
    """The normalizer-free counterpart of `nets.resnet(depth)`."""
    return nf_resnet(
        depth,
        classes,
        in_channels,
        stem=stem,
        alpha=ALPHA,
        skip_gain=SKIP_GAIN,
        dropout=DROPOUT,
        stochastic_depth=0.0,
    )
