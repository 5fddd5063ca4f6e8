"""Nets of many kinds, written as people write them. Those with `seen` note branch ends and block outputs themselves."""

import torch
import torch.nn.functional as F
from torch import nn


class Noting(nn.Module):
    """Notes copies of activations under a name: the oracle for what a trace finds by itself."""

    def __init__(self):
        super().__init__()
        self.notes = None

    def note(self, kind, x):
        if self.notes is not None:
            self.notes.append((kind, self, x.detach().clone()))
        return x


class Bottleneck(Noting):
    """As in torchvision: one ReLU for three places, in place, and an addition in place."""

    def __init__(self, inputs, width, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inputs != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x):
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        self.note("branch", out)
        out += identity
        self.note("block", out)
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(Bottleneck(8, 4), Bottleneck(16, 4))
        self.layer2 = nn.Sequential(Bottleneck(16, 8, 2), Bottleneck(32, 8))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(32, 5)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer2(self.layer1(x))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class StochasticDepth(nn.Module):
    """Per sample, by a random tensor, as everywhere."""

    def __init__(self, p):
        super().__init__()
        self.p = p

    def forward(self, x):
        if not self.training:
            return x
        keep = x.new_empty(x.shape[0], *[1] * (x.dim() - 1)).bernoulli_(1 - self.p)
        return x * keep


class SkipGain(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return x * self.gain


class NormFreeBlock(Noting):
    """x + α · gain · f(act(x) · β), and a projection of act(x) · β where the shape changes."""

    def __init__(self, inputs, outputs, beta, project):
        super().__init__()
        self.beta = beta
        self.conv1 = nn.Conv2d(inputs, outputs, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.stochastic_depth = StochasticDepth(0.5)
        self.skip_gain = SkipGain()
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if project else None

    def forward(self, x):
        out = F.relu(x) * self.beta
        skip = x if self.shortcut is None else self.shortcut(out)
        out = self.conv2(F.relu(self.conv1(out)))
        self.note("branch", out)
        out = self.skip_gain(self.stochastic_depth(out))
        return self.note("block", skip + 0.2 * out)


class NormFreeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        blocks = [
            NormFreeBlock(8, 16, 1.0, True),
            NormFreeBlock(16, 16, 0.98, False),
            NormFreeBlock(16, 16, 0.96, False),
        ]
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(16, 4)

    def forward(self, x):
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


class ConvNextBlock(Noting):
    """Channels last inside of the block, a layer scale by a parameter, a permutation back."""

    def __init__(self, channels):
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))
        self.drop_path = StochasticDepth(0.1)

    def forward(self, x):
        y = self.dwconv(x).permute(0, 2, 3, 1)
        y = self.pwconv2(self.act(self.pwconv1(self.norm(y))))
        self.note("branch", y)
        y = (self.gamma * y).permute(0, 3, 1, 2)
        return self.note("block", x + self.drop_path(y))


class ViT(nn.Module):
    def __init__(self, norm_first=True):
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 16))
        self.positions = nn.Parameter(torch.randn(1, 17, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        return self.head(self.encoder(x + self.positions)[:, 0])


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1 = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU())
        self.down2 = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU())
        self.up = nn.ConvTranspose2d(8, 4, 2, 2)
        self.out = nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, x):
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        return self.out(torch.cat([a, self.up(b)], 1))


class Tagger(nn.Module):
    """Tokens, positions, a recurrent net."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(20, 6)
        self.positions = nn.Embedding(64, 6)
        self.lstm = nn.LSTM(6, 5, batch_first=True, bidirectional=True)
        self.out = nn.Linear(10, 3)

    def forward(self, ids):
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        x = x + self.positions(torch.arange(ids.shape[1]).expand(len(ids), -1))
        return self.out(self.lstm(x)[0])


class WrittenOutNorm(nn.Module):
    """RMSNorm by hand: a weight that multiplies, but is no gain of a branch."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), 0.5))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6))


class WrittenOutGelu(nn.Module):
    """An addition of two activations of one shape that is not residual."""

    def forward(self, x):
        return 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.044715 * x**3)))


class PostNormMlp(Noting):
    def __init__(self, channels):
        super().__init__()
        self.fc1 = nn.Linear(channels, channels)
        self.act = WrittenOutGelu()
        self.norm = WrittenOutNorm(channels)

    def forward(self, x):
        y = self.note("branch", self.norm(self.act(self.fc1(x))))
        return self.note("block", y / 2 + x)


class Conditioned(nn.Module):
    """A time embedding joins every block: additions that are not residual."""

    def __init__(self, channels=6):
        super().__init__()
        self.stem = nn.Linear(channels, channels)
        self.embed = nn.Linear(1, channels)
        self.layers = nn.ModuleList(nn.Linear(channels, channels) for _ in range(2))
        self.times = nn.ModuleList(nn.Linear(channels, channels) for _ in range(2))

    def forward(self, x, t):
        x, t = self.stem(x), self.embed(t)
        for layer, time in zip(self.layers, self.times, strict=True):
            x = torch.relu(layer(x + time(t)))
        return x


class Reversible(Noting):
    """Two streams from one tensor, each adding a function of the other."""

    def __init__(self, channels=4):
        super().__init__()
        self.f = nn.Conv1d(channels, channels, 3, padding=1)
        self.g = nn.Conv1d(channels, channels, 3, padding=1)

    def forward(self, x):
        a, b = x.chunk(2, dim=1)
        a = self.note("block", torch.add(a, self.note("branch", self.f(b)), alpha=0.5))
        b = self.note("block", torch.addcmul(b, self.note("branch", self.g(a)), torch.full((1, 1, 1), 0.1)))
        return torch.cat([a, b], 1)


class Dictionaries(nn.Module):
    """Several inputs by keyword, a dict out."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 5)
        self.b = nn.Linear(3, 5)

    def forward(self, *, left, right, options=None):
        return {"sum": torch.relu(self.a(left) + self.b(right)), "parts": (left, right)}


def noted(model, run):
    """What the noting blocks of a model saw while `run` ran: (kind, block's name, activation)."""
    notes = []
    blocks = {m: name for name, m in model.named_modules() if isinstance(m, Noting)}
    for block in blocks:
        block.notes = notes
    try:
        run()
    finally:
        for block in blocks:
            block.notes = None
    return [(kind, blocks[block] or type(model).__name__, x) for kind, block, x in notes]
