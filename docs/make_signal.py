"""Write docs/signal.md and its pictures, every number measured: python docs/make_signal.py (a minute on two cores)."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import torch
from torch import nn

import normwise as nw
from normwise.signal.diagnosing import RULES
from normwise.signal.paper import paper_networks

HERE = Path(__file__).parent
PAGE, IMAGES = HERE / "signal.md", HERE / "images"
SHAPE = (8, 3, 128, 128)
BN, AFTER, NONE, NF, PLAIN_NF = paper_networks()


def page() -> str:
    """The whole page; writes the pictures."""
    measured, predicted = _both({name: make() for name, make in paper_networks().items()})
    nw.plot(measured, predicted, "ResNet-50 at initialization").save(IMAGES / "signal_paper.png")
    kept = [BN, NF]
    alone = nw.plot({k: measured[k] for k in kept}, {k: predicted[k] for k in kept}, "With and without BatchNorm")
    alone.save(IMAGES / "signal_nf.png")
    initializations = {f"standard deviation {factor:g}/√n": _trace_of_tanh(factor) for factor in (0.3, 1, 3)}
    pictures = nw.plot_histograms(initializations, ["Tanh"], "Ten layers of tanh, 256 units each")
    pictures.save(IMAGES / "signal_initialization.png")
    smooth = _both({name: nw.nets.nf_resnet50(activation=name) for name in ("silu", "gelu")})
    return TEXT.format(
        table=_table(measured),
        agreement=_agreement(measured, predicted),
        last_branches=_range(measured[NF].branches[-2:]),
        last_branches_predicted=_range(predicted[NF].branches[-2:]),
        bn_branch=_range(measured[BN].branches),
        silu=_range(smooth[0]["silu"].blocks),
        silu_predicted=_range(smooth[1]["silu"].blocks),
        stem_mean=f"{_layer(smooth[0]['silu'], 'stem.pool').squared_mean:.2g}",
        stem_variance=f"{_layer(smooth[0]['silu'], 'stem.pool').variance:.2g}",
        first_layer=f"{_layer(smooth[1]['silu'], 'stages.stage1.0.branch.conv1').variance:.3g}",
        collapse=f"{next(iter(initializations.values())).layers[-1].variance:.0e}",
        rules="".join(f"| {_name(rule)} | {inspect.getdoc(rule)} |\n" for rule in RULES),
    )


def _both(nets: Mapping[str, nn.Module]) -> tuple[dict[str, nw.Trace], dict[str, nw.Trace]]:
    measured = {name: nw.trace(net, SHAPE, skip_gain=1.0) for name, net in nets.items()}
    return measured, {name: nw.predict(net, SHAPE, skip_gain=1.0) for name, net in nets.items()}


def _trace_of_tanh(factor: float) -> nw.Trace:
    layers: list[nn.Module] = []
    for _ in range(10):
        linear = nn.Linear(256, 256, bias=False)
        nn.init.normal_(linear.weight, std=factor / math.sqrt(256))
        layers += [linear, nn.Tanh()]
    return nw.trace(nn.Sequential(*layers), (512, 256), histograms=True)


def _table(measured: Mapping[str, nw.Trace]) -> str:
    head = "| | " + " | ".join(measured) + " |\n|---|" + "---:|" * len(measured) + "\n"
    rows = {
        "squared mean, last block": [f"{t.blocks[-1].squared_mean:.2g}" for t in measured.values()],
        "variance, blocks 1, 2, 3": [
            ", ".join(f"{tap.variance:.3g}" for tap in t.blocks[:3]) for t in measured.values()
        ],
        "variance, last block": [f"{t.blocks[-1].variance:.3g}" for t in measured.values()],
        "branch variance, smallest to largest": [_range(t.branches) for t in measured.values()],
    }
    return head + "".join(f"| {name} | {' | '.join(cells)} |\n" for name, cells in rows.items())


def _agreement(measured: Mapping[str, nw.Trace], predicted: Mapping[str, nw.Trace]) -> str:
    rows = []
    for name in measured:
        pairs = zip(measured[name].blocks, predicted[name].blocks, strict=True)
        errors = [abs(theory.variance / tap.variance - 1) for tap, theory in pairs]
        rows.append(f"| {name} | {median(errors):.1%} | {max(errors):.1%} |\n")
    return "".join(rows)


def _range(taps: tuple[nw.Tap, ...]) -> str:
    values = [tap.variance for tap in taps]
    return f"{min(values):.2f} to {max(values):.2f}" if max(values) < 100 else f"{min(values):.2f} to {max(values):.0f}"


def _layer(trace: nw.Trace, name: str) -> nw.Tap:
    return next(tap for tap in trace.layers if tap.name == name)


def _name(rule: object) -> str:
    return getattr(rule, "__name__", "").replace("_", " ")


TEXT = """# The signal

The mean and the variance of the signal, block by block, show before any training whether a network can be trained.
Brock, De and Smith (2021, arXiv:2101.08692) developed normalizer-free networks from this analysis. This page is made by
`docs/make_signal.py`, which measures every number on it.

```
normwise trace --paper                      # the first picture below, as HTML, SVG and PNG
normwise trace --model nf_resnet50          # any model: ours, timm:NAME, torchvision:NAME, package.module:function
```

```python
import normwise as nw

measured = nw.trace(model, batch, skip_gain=1.0)          # runs the model once, without changing it
expected = nw.predict(model, tuple(batch.shape))          # does not run it
nw.plot(measured, expected).save("signal.html")           # or .svg, .png
print(nw.diagnose(model, loader))                         # the problems, in words
nw.assert_signal(model, variance=(0.5, 2), squared_mean=0.1)      # for your own tests
```

## What is measured

For an activation x with channels c, over all samples and positions:

- **average channel squared mean**: the mean over c of (mean of x_c)². If it is large relative to the variance, most of
  the signal is the same for every input.
- **average channel variance**: the mean over c of the variance of x_c.
- **residual branch variance**: the channel variance at the end of the branch, before SkipInit's gain, α, stochastic
  depth and the addition: the contribution of each block.

These are measured at residual additions and the ends of their branches, which are found while the model runs
([how](trace.md)). As in the paper, BatchNorm uses batch statistics, SkipInit's gains are 1, and stochastic depth and
dropout are off.

## Five ResNet-50s

![squared mean, variance and branch variance of five networks over depth](images/signal_paper.png)

All have He's initialization (scaled weight standardization, SWS, has its own); the input is Gaussian noise,
8×3×128×128. Dashed lines are predictions. Hollow marks are values below the axis.

{table}
- **BN-ReLU-Conv** (ResNet v2): in each stage the variance grows by the same amount with every block, because every
  branch starts from a normalized signal; the shortcut's convolution in the first block of a stage resets it. With depth
  the branches get weaker relative to the shortcut, which makes such nets trainable. The branches have the variance
  {bn_branch}, not 1: the variance of ReLU's output is 0.34 times that of its input, and He's factor is 2. And the mean
  shifts: ReLU's outputs have a positive mean, which the convolution turns into a mean of each channel.
- **ReLU-BN-Conv**: the normalizer removes that mean again: no shift, and branches of variance 2.
- **No normalizer**: every block doubles the variance, 2^k after k blocks, and squared means follow.
- **NF-ResNet**: with α = 0.2 each block adds 0.04 to a variance that starts from 1 in each stage. SWS weights have
  mean 0, so they remove the mean of ReLU's outputs.
- **NF without SWS**: the same net with plain convolutions. α and β still control the variance, but the squared mean is
  several times the variance.

![the same with BatchNorm and NF-ResNet alone](images/signal_nf.png)

## Prediction

`predict` follows the structure (`torch.fx`) with a mean and a variance for each channel: for a convolution it uses the
actual weights and the zero padding at the borders; for an activation an integral against the Gaussian; for a normalizer
its own formula; for an addition the sum. Nothing is run, and no random numbers are drawn.

| variance of the blocks | median error | largest error |
|---|---:|---:|
{agreement}
Where prediction and measurement agree, the prediction explains the measurement:

- The branches of the last stage of NF-ResNet-50 have a variance of {last_branches} instead of 1 (predicted:
  {last_branches_predicted}). The cause is the zero padding: on maps of 4×4 most 3×3 windows read zeros.
- With SiLU, the blocks of NF-ResNet-50 have variances of {silu} (predicted: {silu_predicted}), more than the 1.04 to
  1.24 of their design. γ is exact for a standard normal input, but the input of the first activation is the max-pooled
  stem with squared mean {stem_mean} and variance {stem_variance}, and the first branch starts from {first_layer}
  (predicted). If the variance is above 1, SiLU raises it further, which ReLU, of degree 1, does not.

It finds the same places as `trace`, also in the ResNets, EfficientNets, ConvNeXts, DenseNets, RegNets and HRNets of
torchvision and timm; for nine of these the tests require every block and branch to be within 10 %.

It assumes that values of different channels and positions are independent. This is nearly true for random weights and
noise. Deep in a network whose mean grows, errors add up (see *No normalizer*). They can be large in averages over
neighbours that overlapping windows of max-pooling have made similar. For trained weights and images, measure instead.
Attention, recurrent layers and control flow that depends on values or sizes cannot be followed; the error says where.

## Initialization

![histograms of ten layers of tanh for three initializations](images/signal_initialization.png)

`plot_histograms(trace(net, x, histograms=True))` shows that with weights that are too small the signal collapses
(variance {collapse} after ten layers), and that too large ones saturate every unit, so that no gradient passes.

## Diagnosis

`nw.diagnose(model, data)` runs the model with gradients and lists the problems, the worst first, each with its module,
number and remedy. Without data it uses noise, and cannot judge running statistics.

| rule | finds |
|---|---|
{rules}
The worst findings come first, but each after its possible causes: a momentum of 0.99 before the gap between training
and evaluation that it causes.

How it distinguishes faults from normal behaviour:

- *Growth.* In a sound residual net the variance adds up block by block: 1, 2, 3, ... The curve of its logarithm bends,
  and in the second half of the path it grows by at most a factor of 2. Without normalizers each block multiplies the
  variance, by 1.3 or more, and both halves grow alike. So the rule judges the whole path between normalizers, and any
  three steps with a factor of 1.6.
- *Dead layers* are only those whose input is not constant: an embedding of tokens of a single type is not dead, nor is
  a layer behind a branch that starts at 0 (the last normalizer's weight, a gain) if gradients pass around it.
- *Gradients* are multiplied by the variance, so that the scale of a layer in front of a normalizer has no effect; a
  gain with a small initial value (CaiT's 1e-5) is a single step and does not count as vanishing.
- *The gap* between training and evaluation is that of the model's output, also if `forward=` returns a loss: the first
  tensor with more than one value in the output of the last module that returns one. Untrained nets are not checked.
- *Dropout before BatchNorm* is found by measuring with and without dropout, also as a function; a factor of 1.2 in the
  variance counts.
- *A bias* is useless only if its single reader is a normalizer that subtracts each channel's mean.

In fresh and trained nets of timm, torchvision and transformers (ResNets, ViTs, ConvNeXt, EfficientNet, RegNet,
NFNets, CaiT, BERT, RoBERTa, GPT-2, LLaMA, T5, ...) it finds nothing (`tests/signal/test_diagnose_libraries.py`);
33 planted faults are found, each first in the list (`tests/signal/test_diagnose_faults.py`). A deep plain net with
ReLU and He's initialization (VGG, SqueezeNet, AlexNet) has a *mean shift*, which is correct; VGG with BatchNorm has
useless biases.
"""

if __name__ == "__main__":
    torch.manual_seed(0)
    IMAGES.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
