"""The three normalizer-free networks in float64 NumPy, from the paper's and the official code's formulas.

Channels last, "same" padding, gains of the activation beside the activation, as there; convolutions are explicit sums.
"""

import math

import numpy as np

ALPHA = 0.2
GAMMA = {"relu": math.sqrt(2 / (1 - 1 / math.pi)), "silu": 1.78718722, "gelu_tanh": 1.70091656}


def silu(z):
    return z / (1 + np.exp(-z))


def gelu_tanh(z):
    return 0.5 * z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


ACTIVATION = {"relu": lambda z: np.maximum(z, 0.0), "silu": silu, "gelu_tanh": gelu_tanh}


def windows(x, kernel, stride, fill):
    """[N, H, W, C] to [N, H', W', kernel, kernel, C] with "same" padding."""
    pads = []
    for side in x.shape[1:3]:
        total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
        pads.append((total // 2, total - total // 2))
    x = np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), axis=(1, 2))
    return view[:, ::stride, ::stride].transpose(0, 1, 2, 4, 5, 3)


def standardized(weight, gain):
    """Official order: weight [kh, kw, in / groups, out]."""
    mean = weight.mean(axis=(0, 1, 2), keepdims=True)
    variance = ((weight - mean) ** 2).mean(axis=(0, 1, 2), keepdims=True)
    scale = gain / np.sqrt(np.maximum(variance * np.prod(weight.shape[:-1]), 1e-4))
    return weight * scale - mean * scale


class Official:
    """Reads the tensors of our network by name; everything else is the official forward pass."""

    def __init__(self, state, activation):
        self.state = {name: value.double().numpy() for name, value in state.items()}
        self.act = lambda z: ACTIVATION[activation](z) * GAMMA[activation]

    def conv(self, name, x, stride=1, groups=1):
        weight = standardized(self.state[f"{name}.weight"].transpose(2, 3, 1, 0), self.state[f"{name}.gain"])
        outputs = []
        for block, part in zip(np.split(x, groups, 3), np.split(weight, groups, 3), strict=True):
            outputs.append(
                np.einsum("nhwijc,ijco->nhwo", windows(block, len(weight), stride, 0.0), part, optimize=True)
            )
        return np.concatenate(outputs, 3) + self.state[f"{name}.bias"]

    def linear(self, name, x):
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def squeeze_excite(self, name, x):
        hidden = np.maximum(self.linear(f"{name}.reduce", x.mean((1, 2))), 0)
        return (2 / (1 + np.exp(-self.linear(f"{name}.expand", hidden))))[:, None, None] * x

    def block(self, name, x, beta, stride, kind, groups=1):
        has = lambda part: f"{name}.{part}.weight" in self.state  # noqa: E731
        out = self.act(x) * beta
        shortcut = x
        if has("shortcut.conv") and kind in ("resnet", "basic"):
            shortcut = self.conv(f"{name}.shortcut.conv", out, stride)
        elif has("shortcut.conv"):
            pooled = np.nanmean(windows(out, 2, 2, np.nan), axis=(3, 4)) if stride > 1 else out
            shortcut = self.conv(f"{name}.shortcut.conv", pooled)
        out = self.branch(f"{name}.branch", out, stride, kind, groups)
        return out * self.state[f"{name}.skip_gain.gain"] * ALPHA + shortcut

    def branch(self, name, out, stride, kind, groups):
        if kind == "basic":
            out = self.conv(f"{name}.conv1", out, stride)
            return self.conv(f"{name}.conv2", self.act(out))
        out = self.conv(f"{name}.conv1", out)
        out = self.conv(f"{name}.conv2", self.act(out), stride, groups)
        if kind == "nfnet":
            out = self.conv(f"{name}.conv3", self.act(out), 1, groups)
        if kind == "regnet":
            out = self.squeeze_excite(f"{name}.squeeze_excite", out)
        out = self.conv(f"{name}.conv{4 if kind == 'nfnet' else 3}", self.act(out))
        squeezes = kind != "regnet" and f"{name}.squeeze_excite.reduce.weight" in self.state
        return self.squeeze_excite(f"{name}.squeeze_excite", out) if squeezes else out

    def body(self, x, depths, strides, kind, group_size=None):
        std = 1.0
        for stage, (depth, first) in enumerate(zip(depths, strides, strict=True), start=1):
            for index in range(depth):
                name, stride = f"stages.stage{stage}.{index}", first if index == 0 else 1
                width = len(self.state[f"{name}.branch.conv1.bias"])
                x = self.block(name, x, 1 / std, stride, kind, width // group_size if group_size else 1)
                if index == 0:
                    std = 1.0
                std = (std**2 + ALPHA**2) ** 0.5
        return x

    def resnet(self, x, depths, imagenet_stem=False, kind="resnet"):
        x = self.conv("stem.conv1", x, 2 if imagenet_stem else 1)
        if imagenet_stem:
            x = windows(x, 3, 2, -np.inf).max((3, 4))
        x = self.body(x, depths, [1, 2, 2, 2][: len(depths)], "basic" if kind == "basic" else "resnet")
        return self.linear("classifier", self.act(x).mean((1, 2)))

    def regnet(self, x, depths):
        x = self.body(self.conv("stem.conv1", x, 2), depths, [2] * 4, "regnet", group_size=8)
        return self.linear("classifier", self.act(self.conv("final.conv", x)).mean((1, 2)))

    def nfnet(self, x, depths):
        x = self.conv("stem.conv1", x, 2)
        for i, stride in ((2, 1), (3, 1), (4, 2)):
            x = self.conv(f"stem.conv{i}", self.act(x), stride)
        x = self.body(x, depths, [1, 2, 2, 2], "nfnet", group_size=128)
        return self.linear("classifier", self.act(self.conv("final.conv", x)).mean((1, 2)))
