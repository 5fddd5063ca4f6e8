"""Residual additions are found, and only they, in nets written in many ways."""

import copy

import libraries
import pytest
import signal_nets as nets
import torch
import torch.nn.functional as F
from torch import nn

import normwise as nw


def found(model, batch, **options):
    result = nw.trace(model, batch, **options)
    return [tap.name for tap in result.blocks], [tap.name for tap in result.branches]


class Functional(nn.Module):
    """No modules at all, and a projection by pooling and padding."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.randn(8, 4, 3, 3) / 6)
        self.b = nn.Parameter(torch.randn(8, 8, 3, 3) / 8)

    def forward(self, x):
        branch = F.conv2d(F.relu(F.conv2d(x, self.a, padding=1, stride=2)), self.b, padding=1)
        return F.pad(F.avg_pool2d(x, 2), (0, 0, 0, 0, 0, 4)) + branch


class Residual(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return x + self.function(x)


class Adder(nn.Module):
    """An addition that is a module of its own."""

    def forward(self, a, b):
        return a + b


class WithAdder(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(3, 3, 3, padding=1)
        self.add = Adder()

    def forward(self, x):
        return self.add(self.conv(x), x)


class Gated(nn.Module):
    """Squeeze and excitation by twice a gate, which is no constant scale, then a constant one."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        y = self.conv(x)
        self.gated = 2 * torch.sigmoid(self.fc(y.mean((2, 3))))[:, :, None, None] * y
        return self.gated * 0.2 + x


class Attention(nn.Module):
    """A bias of the scores, positions, a mask: additions of constants."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(6, 18)
        self.bias = nn.Parameter(torch.randn(5, 5))
        self.register_buffer("positions", torch.randn(4, 5, 6))
        self.table = torch.randn(4, 5, 6)

    def forward(self, x):
        x = x + self.positions + self.table + torch.linspace(0, 1, 6).expand_as(x)
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = q * 6**-0.5 @ k.mT
        scores = scores + self.bias.expand_as(scores)
        return torch.softmax(scores, -1) @ v


class Ours(nn.Module):
    """Custom autograd functions on the way."""

    def __init__(self):
        super().__init__()
        self.norm = nw.BatchNorm2d(3, activation="relu")
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.tail = nw.GroupNorm(1, 3)

    def forward(self, x):
        return x + self.tail(self.conv(self.norm(x)))


class Fused(nn.Module):
    """The addition is part of a normalizer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nw.BatchNorm2d(3, activation="relu")

    def forward(self, x):
        return self.norm(self.conv(x), residual=x)


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.from_numpy(2 * x.detach().numpy())

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


class OutOfSight(nn.Module):
    """The branch ends in a kernel that PyTorch knows nothing of."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(3, 3, 1)

    def forward(self, x):
        return x + Double.apply(self.conv(x))


class Parallel(nn.Module):
    """Two layers of equal rank side by side: neither is a shortcut of the other."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)

    def forward(self, x):
        return torch.tanh(self.a(x) + self.b(x))


class HiddenAddition(nn.Module):
    """The addition itself is out of sight."""

    def __init__(self):
        super().__init__()
        self.branch = nn.Linear(4, 4)

    def forward(self, x):
        return torch.stack([x, self.branch(x)]).sum(0)


IMAGES = (4, 3, 8, 8)
CASES = {
    "torchvision": (nets.ResNet(), (4, 3, 32, 32), ["layer1.0", "layer1.1", "layer2.0", "layer2.1"]),
    "ours": (nw.nets.resnet(8), IMAGES, ["stages.stage1.0", "stages.stage2.0", "stages.stage3.0"]),
    "pre-activation": (
        nw.nets.resnet(8, preactivation=True),
        IMAGES,
        ["stages.stage1.0", "stages.stage2.0", "stages.stage3.0"],
    ),
    "norm-free": (nets.NormFreeNet(), IMAGES, ["blocks.0", "blocks.1", "blocks.2"]),
    "transformer": (
        nets.ViT(),
        (4, 3, 16, 16),
        ["encoder.layers.0", "encoder.layers.0#2", "encoder.layers.1", "encoder.layers.1#2"],
    ),
    "functional": (Functional(), (2, 4, 8, 8), ["Functional"]),
    "wrapper": (nn.Sequential(Residual(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))), (4, 4), ["0"]),
    "nested": (Residual(Residual(nn.Linear(4, 4))), (4, 4), ["function", "Residual"]),
    "adder": (WithAdder(), (2, 3, 9), ["add"]),
    "gate": (Gated(), (2, 4, 3, 3), ["Gated"]),
    "reversible": (nets.Reversible(), (4, 8, 5), ["Reversible", "Reversible#2"]),
    "custom functions": (Ours(), IMAGES, ["Ours"]),
    "fused": (Fused(), IMAGES, ["norm"]),
    "foreign kernel": (OutOfSight(), (2, 3, 5), ["OutOfSight"]),
    "attention": (Attention(), (4, 5, 6), []),
    "parallel": (nn.Sequential(Parallel(), Parallel()), (3, 4), []),
    "unet": (nets.UNet(), (2, 1, 8, 8), []),
    "lstm": (nets.Tagger(), None, []),
    "written out": (nn.Sequential(nn.Linear(4, 4), nets.WrittenOutGelu(), nets.WrittenOutNorm(4)), (8, 4), []),
    "two inputs": (nn.Sequential(Adder()), (torch.ones(2, 3), torch.ones(2, 3)), []),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backward", [False, True])
def test_blocks(case, backward):
    model, batch, names = CASES[case]
    if case == "two inputs":
        model = model[0]
    if case == "foreign kernel" and backward:
        pytest.skip("its kernel takes no tensor that requires a gradient")
    blocks, branches = found(copy.deepcopy(model), batch, backward=backward)
    assert blocks == names
    assert branches == names


@pytest.mark.parametrize("backend", [name for name, missing in nw.available_backends().items() if missing is None])
@pytest.mark.parametrize("name", ["custom functions", "fused"])
def test_kernels_hide_nothing(backend, name):
    """They allocate their results themselves, out of sight, and leave an addition to torch while somebody watches."""
    model, batch, names = CASES[name]
    with nw.use_backend(backend):
        assert found(copy.deepcopy(model), batch) == (names, names)
        result = nw.trace(copy.deepcopy(model).double(), torch.randn(IMAGES, dtype=torch.float64))
    assert result.blocks[0].variance > 0


def test_a_fused_addition_is_measured_before_its_activation():
    model, x = Fused().double(), torch.randn(IMAGES).double()
    result = nw.trace(model, x, backward=True)
    with torch.no_grad():
        branch = nn.BatchNorm2d(3).double()(model.conv(x))
    assert result.branches[0].variance == pytest.approx(branch.var((0, 2, 3), correction=0).mean().item(), rel=1e-9)
    assert result.blocks[0].variance == pytest.approx((branch + x).var((0, 2, 3), correction=0).mean().item(), rel=1e-9)
    assert result.layers[-1].gradient > 0


def test_a_condition_is_not_a_branch():
    assert found(nets.Conditioned(), (torch.randn(4, 6), torch.randn(4, 1))) == ([], [])


def test_the_branch_is_measured_before_scales_and_after_the_gate():
    model, batch = Gated().double(), torch.randn(4, 4, 3, 3).double()
    branch = nw.trace(model, batch).branches[0]
    with torch.no_grad():
        model(batch)
    assert branch.variance == pytest.approx(model.gated.var((0, 2, 3), correction=0).mean().item(), rel=1e-12)


@pytest.mark.parametrize("taps", [{"": "branch"}, {"HiddenAddition": "branch"}])
def test_named_taps(taps):
    model, batch = HiddenAddition().double(), torch.randn(8, 4).double()
    assert found(model, batch) == ([], [])
    taps = {name or "HiddenAddition": end for name, end in taps.items()}
    result = nw.trace(model, batch, taps=taps)
    with torch.no_grad():
        expected = [x.var(0, correction=0).mean().item() for x in (model(batch), model.branch(batch))]
    assert [result.blocks[0].variance, result.branches[0].variance] == pytest.approx(expected, rel=1e-12)
    assert found(model, batch, taps=["HiddenAddition"]) == (["HiddenAddition"], [])


def test_named_taps_replace_what_is_found_there():
    model = nn.Sequential(Residual(nn.Linear(4, 4)), Residual(nn.Linear(4, 4)))
    assert found(model, (8, 4), taps={"0": "0.function"}) == (["0", "1"], ["0", "1"])


def test_unknown_names():
    with pytest.raises(ValueError, match=r"ResNet has no module 'layer1.9'; did you mean 'layer1.\d'"):
        nw.trace(nets.ResNet(), (2, 3, 16, 16), taps=["layer1.9"])
    with pytest.raises(ValueError, match=r"has no module 'qqq'; see model.named_modules\(\)"):
        nw.trace(nets.ResNet(), (2, 3, 16, 16), taps={"layer1.0": "qqq"})


def test_loops_and_branches_in_python():
    """Control flow that depends on the data, which a graph capture cannot follow."""

    class Dynamic(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            for _ in range(int(x.abs().sum() * 0) + 3):
                if bool((x.sum() < 1e9).item()):
                    x = x + self.layer(x)
            return x

    assert found(Dynamic(), (4, 3))[0] == ["Dynamic", "Dynamic#2", "Dynamic#3"]


@pytest.mark.parametrize(
    "kind", ["resnet18", "vit_tiny_patch16_224", "convnext_atto", "nf_resnet26", "swin_tiny_patch4_window7_224"]
)
def test_timm(kind):
    model = libraries.timm().create_model(kind)
    kinds = ("Block", "BasicBlock", "ConvNeXtBlock", "NormFreeBlock", "SwinTransformerBlock")
    blocks = [name for name, m in model.named_modules() if type(m).__name__ in kinds]
    result = nw.trace(model, (2, 3, 224, 224))
    names = [tap.name for tap in result.blocks]
    if kind.startswith(("vit", "swin")):
        blocks = [name + again for name in blocks for again in ("", "#2")]
    assert names == blocks
    assert [tap.name for tap in result.branches] == blocks
