"""Write docs/coming_from.md, the tables of equal layers in other libraries: python docs/make_coming_from.py"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import NamedTuple

from torch import nn

import normwise as nw
from normwise.layers import NORMALIZERS

PAGE = Path(__file__).with_name("coming_from.md")


class Equal(NamedTuple):
    """Two expressions for the same layer; ``L`` stands for timm.layers, C for the channels. ``note`` says what is
    easily overlooked."""

    theirs: str
    ours: str
    note: str = ""


#: A test builds both, gives them the same parameters and compares what they compute in training and evaluation.
TIMM = (
    Equal("L.BatchNormAct2d(C)", 'nw.BatchNorm2d(C, activation="relu")'),
    Equal("L.GroupNorm(C, 4)", "nw.GroupNorm(4, C)", "the order of channels and groups; timm's default is 32 groups"),
    Equal("L.GroupNorm1(C)", "nw.GroupNorm(1, C)"),
    Equal("L.GroupNormAct(C, 4)", 'nw.GroupNorm(4, C, activation="relu")', "the order of channels and groups"),
    Equal("L.LayerNorm(C)", "nw.LayerNorm(C, eps=1e-6)", "eps: timm 1e-6, torch and normwise 1e-5"),
    Equal("L.LayerNorm2d(C)", "nw.LayerNorm2d(C)", "over C at each position"),
    Equal("L.LayerNormAct2d(C)", 'nw.LayerNorm2d(C, eps=1e-5, activation="relu")', "eps: timm has 1e-5 here"),
    Equal("L.RmsNorm(C)", "nw.RMSNorm(C, eps=1e-6)", "eps: timm 1e-6, torch and normwise the machine epsilon"),
    Equal("L.RmsNorm2d(C)", "nw.RMSNorm2d(C)"),
    Equal("L.FilterResponseNormTlu2d(C)", "nw.FilterResponseNorm2d(C, eps=1e-5)", "eps: timm 1e-5, paper 1e-6"),
    Equal("L.EvoNorm2dB0(C)", "nw.EvoNormB0(C, eps=1e-3)", "eps: timm 1e-3, authors 1e-5"),
    Equal("L.EvoNorm2dS0(C, groups=4)", "nw.EvoNormS0(C, 4)"),
)
#: Read in Keras 3's sources; nw.load_foreign translates states, and its tests hold the values.
KERAS = (
    Equal(
        "BatchNormalization()", "nw.BatchNorm2d(C, eps=1e-3, momentum=0.01)", "momentum is the weight of the old value"
    ),
    Equal("BatchNormalization(synchronized=True)", 'nw.BatchNorm2d(C, eps=1e-3, momentum=0.01, process_group="world")'),
    Equal("GroupNormalization(groups=32)", "nw.GroupNorm(32, C, eps=1e-3)"),
    Equal("GroupNormalization(groups=-1)", "nw.InstanceNorm2d(C, eps=1e-3, affine=True)"),
    Equal("LayerNormalization()", "nw.LayerNorm(C, eps=1e-3)", "rms_scaling=True divides by the deviation: no RMSNorm"),
    Equal("RMSNormalization()", "nw.RMSNorm(C, eps=1e-6)"),
    Equal("SpectralNormalization(layer)", "nw.spectral_norm(layer)", "a wrapper there, a parametrization here"),
)
#: Read in detectron2's `get_norm`.
DETECTRON2 = (
    Equal('"BN"', "nw.BatchNorm2d(C)"),
    Equal('"SyncBN", "nnSyncBN"', "nw.SyncBatchNorm(C)", "here also on the CPU"),
    Equal('"naiveSyncBN"', "nw.SyncBatchNorm(C)", "theirs counts every process alike, however many values it has, and "
          "remembers the biased variance"),
    Equal('"FrozenBN"', "nw.freeze(model, affine=True)", "theirs has running_var 1 - eps at the start"),
    Equal('"GN"', "nw.GroupNorm(32, C)"),
    Equal('"LN"', "nw.LayerNorm2d(C)", "over C at each position, eps 1e-6"),
)  # fmt: skip
HEAD = """# Coming from torch.nn, timm, Keras, detectron2

The corresponding layers, and the differences that are easily overlooked: eps, the direction of momentum, the order of
arguments, shapes.
This page is made by `docs/make_coming_from.py`; torch's table comes from the classes themselves, and every line of
timm's is tested by computing both.

## torch.nn

Constructor, `state_dict`, defaults and errors are torch's: write `nw.` for `nn.`, and checkpoints load in both
directions. `isinstance` works: each class here is a subclass of torch's (SyncBatchNorm of its base). Additional
arguments are keyword only.

| torch.nn | defaults | more arguments here |
|---|---|---|
"""
TORCH_TAIL = """
`forward` takes `residual=` and, where statistics are pooled, `mask=` and `lengths=` ([masks and lengths](masks.md)).

These behaviours differ, because torch's are silently wrong or raise late; each docstring mentions them:

- a batch with inf or NaN does not enter the running statistics ([statistics](policies.md));
- InstanceNorm checks its channels, keeps channels_last and counts its batches;
- one value in a group is an error in training, for GroupNorm too;
- `running_mean` and `running_var` stay in fp32 in a layer of bf16 or fp16;
- SyncBatchNorm also works on CPUs (it is no `torch.nn.SyncBatchNorm` to `isinstance`: DDP refuses those there).

Three layers are called LayerNorm for images. `nn.LayerNorm([C, H, W])` has γ and β for every position;
`nw.GroupNorm(1, C)` is the GroupNorm paper's, γ and β for each channel; `nw.LayerNorm2d(C)` normalizes over C at each
position, as ConvNeXt does.
"""
TIMM_HEAD = """
## timm

`L` is `timm.layers`. timm's layers with "Act" apply ReLU unless told otherwise. Whole models: `nw.swap` and
`normwise compare --model timm:NAME` exchange timm's normalizers; `nw.nets.from_timm` loads its normalizer-free nets.

"""
TIMM_TAIL = """
SplitBatchNorm2d has no equivalent: each of its splits has its own γ, β and statistics, and evaluation uses the first.
For statistics of chunks with one γ and β there is `nw.GhostBatchNorm2d`, for statistics by domain
`nw.statistics_bank`.
"""
KERAS_HEAD = """
## Keras

Three things at once go wrong when a Keras net is rewritten by hand: **eps is 1e-3** (torch 1e-5), **momentum 0.99 is
the weight of the old value** (torch's 0.01), and channels are last. `nw.load_foreign(model, weights, source="keras")`
translates all of them ([load_foreign](load_foreign.md)); it also reads TensorFlow, Flax and Haiku.

"""
KERAS_TAIL = """
Keras remembers the biased variance unless TensorFlow's fused kernel ran; torch and normwise the unbiased one.
The output of loaded weights in evaluation is the same. `mask=` has the same meaning as in Keras. Setting
`layer.trainable = False` in Keras also puts BatchNorm into evaluation; here that is `nw.freeze`.
"""
DETECTRON2_HEAD = """
## detectron2

The names of `get_norm`, as used in configurations:

"""


def pages() -> dict[Path, str]:
    """Every page by its file."""
    return {PAGE: page()}


def page() -> str:
    """The whole page."""
    return (
        HEAD + "".join(map(_torch_line, torch_names())) + TORCH_TAIL + TIMM_HEAD + _table("timm", TIMM) + TIMM_TAIL
        + KERAS_HEAD + _table("keras.layers", KERAS) + KERAS_TAIL + DETECTRON2_HEAD + _table("detectron2", DETECTRON2)
    )  # fmt: skip


def torch_names() -> list[str]:
    """Names of layers that torch.nn has, too."""
    classes = {kind.__name__ for row in NORMALIZERS.values() for kind in row.layers.values()} - {"Identity"}
    return sorted(name for name in classes if hasattr(nn, name))


def _torch_line(name: str) -> str:
    theirs, ours = (inspect.signature(getattr(module, name)).parameters for module in (nn, nw))
    plain = {p: value for p, value in theirs.items() if p not in ("device", "dtype")}
    defaults = ", ".join(f"{p}={v.default}" for p, v in plain.items() if v.default is not inspect.Parameter.empty)
    more = ", ".join(f"`{p}`" for p, v in ours.items() if p not in theirs and v.kind is inspect.Parameter.KEYWORD_ONLY)
    return f"| `{name}` | {defaults} | {more or 'as BatchNorm2d'} |\n"


def _table(whose: str, lines: tuple[Equal, ...]) -> str:
    body = "".join(f"| `{_bare(line.theirs)}` | `{line.ours}` | {line.note} |\n" for line in lines)
    return f"| {whose} | normwise | mind |\n|---|---|---|\n{body}"


def _bare(code: str) -> str:
    return re.sub(r'^"(\w+)", "(\w+)"$', r'"\1"`, `"\2"', code)


if __name__ == "__main__":
    for file, text in pages().items():
        file.write_text(text, encoding="utf-8")
