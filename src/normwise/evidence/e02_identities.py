"""E2: which normalizers are the same function."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import layers
from ..comparison import TrainingRun
from .charts import bars
from .experiment import DOES_NOT_HOLD, HOLDS_WHEN, Experiment, Results, Verdict

EXACT, DIFFERENT = 1e-10, 1e-3
CHANNELS = 6
SPACES = ((7,), (5, 4), (3, 4, 2))
ONE_SAMPLE = "BatchNorm of one sample, training = InstanceNorm"
EVALUATION = "BatchNorm of one sample, evaluation = InstanceNorm"
LAYER, INSTANCE = "GroupNorm(1) = LayerNorm over C and space", "GroupNorm(C) = InstanceNorm"
SERIALIZED = "BatchNorm of maps = BatchNorm1d of all positions"
ALWAYS = (ONE_SAMPLE, LAYER, INSTANCE, SERIALIZED)

_BATCH = {1: layers.BatchNorm1d, 2: layers.BatchNorm2d, 3: layers.BatchNorm3d}
_INSTANCE = {1: layers.InstanceNorm1d, 2: layers.InstanceNorm2d, 3: layers.InstanceNorm3d}


def measure(run: TrainingRun) -> dict[str, float]:
    """The largest difference of outputs and gradients over 1-d, 2-d and 3-d maps, relative to the largest value."""
    return {"difference": max(_difference(run.name, space) for space in SPACES)}


def _difference(case: str, space: tuple[int, ...]) -> float:
    samples = 1 if case in (ONE_SAMPLE, EVALUATION) else 4
    x = 3 + 2 * torch.randn(samples, CHANNELS, *space, dtype=torch.float64)
    cotangent = torch.randn_like(x)
    pairs = [_with_gradient(layer.double(), x, cotangent) for layer in _pair(case, space)]
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*pairs, strict=True))


def _pair(case: str, space: tuple[int, ...]) -> tuple[nn.Module, nn.Module]:
    rank = len(space)
    batch, instance = _BATCH[rank](CHANNELS), _INSTANCE[rank](CHANNELS)
    if case == LAYER:
        return layers.GroupNorm(1, CHANNELS, affine=False), layers.LayerNorm((CHANNELS, *space))
    if case == INSTANCE:
        return layers.GroupNorm(CHANNELS, CHANNELS, affine=False), instance
    if case == SERIALIZED:
        return batch, _Serialized(layers.BatchNorm1d(CHANNELS))
    return batch.eval() if case == EVALUATION else batch, instance


class _Serialized(nn.Module):
    """[N, C, *space] as [N · positions, C] through a layer, and back."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        rows = x.movedim(1, -1)
        return self.layer(rows.reshape(-1, x.shape[1])).reshape(rows.shape).movedim(-1, 1)


def _with_gradient(layer: nn.Module, x: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    y = layer(x)
    y.backward(cotangent)
    assert x.grad is not None
    return y.detach(), x.grad


def judge(results: Results) -> Verdict:
    worst = {case: max(results.values(case), default=float("nan")) for case in (*ALWAYS, EVALUATION)}
    broken = [case for case in ALWAYS if not worst[case] < EXACT]
    if broken:
        return Verdict(DOES_NOT_HOLD, f"{broken[0]} fails: the two differ by {worst[broken[0]]:.1e}.")
    if not worst[EVALUATION] > DIFFERENT:
        return Verdict(DOES_NOT_HOLD, f"In evaluation, too, the two differ by no more than {worst[EVALUATION]:.1e}.")
    largest = max(worst[case] for case in ALWAYS)
    return Verdict(
        HOLDS_WHEN,
        f"it is training: the four identities hold to {largest:.0e} in fp64, outputs and gradients; in evaluation "
        f"BatchNorm of one sample differs from InstanceNorm by {worst[EVALUATION]:.2g} of the largest value.",
    )


def picture(results: Results) -> str:
    values = {case: (results.mean(case), 0.0) for case in (*ALWAYS, EVALUATION)}
    return bars("The largest relative difference of two layers", "relative difference (fp64)", values, log=True)


EXPERIMENT = Experiment(
    number="E2",
    claim="BatchNorm at batch size 1 is InstanceNorm; GroupNorm(1) is LayerNorm, GroupNorm(C) is InstanceNorm; "
    "BatchNorm of a convolution is that of a fully connected layer over all positions",
    claim_ja="バッチサイズ 1 の BatchNorm は InstanceNorm と等価。GN(1)=LN、GN(C)=IN。"
    "畳み込みの BN は位置を並べた全結合の BN",
    said_in=("001",),
    protocol="Both layers of each pair get the same random maps of 1, 2 and 3 dimensions in fp64, and the same random "
    "cotangent; outputs and gradients are compared.",
    rule=f"Holds when training, if the four identities are exact to {EXACT:g} of the largest value and BatchNorm in "
    f"evaluation differs from InstanceNorm by more than {DIFFERENT:g}; otherwise it does not hold here.",
    cases=(*ALWAYS, EVALUATION),
    measure=measure,
    metric="difference",
    direction="min",
    judge=judge,
    picture=picture,
    quick_seeds=2,
)
