"""Attention, MLP and decoder have lines of their own in the pictures; branches of zeros are explained."""

import libraries
import pytest
import signal_nets as nets
import torch
import torch.nn.functional as F
from test_plot import elements, markers, panel_of
from torch import nn

import normwise as nw
from normwise.signal.names import shortened


def parts(model, batch, kind):
    return {tap.name: tap.part for tap in nw.trace(model, batch).taps if tap.kind == kind}


def test_attention_and_mlp_of_a_transformer():
    for norm_first in (True, False):
        found = parts(nets.ViT(norm_first), torch.randn(2, 3, 16, 16), "branch")
        assert list(found.values()) == ["attention", "mlp"] * 2


class Attention(nn.Module):
    """By matrix products, as in BERT."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(6, 18), nn.Linear(6, 6)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.out(torch.softmax(q @ k.mT, -1) @ v)


class WrittenOut(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.mlp = Attention(), nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6))

    def forward(self, x):
        x = x + self.attention(x)
        return x + self.mlp(x)


def test_attention_written_out():
    assert parts(WrittenOut(), torch.randn(2, 5, 6), "branch") == {"WrittenOut": "attention", "WrittenOut#2": "mlp"}


def test_a_convolutional_net_has_no_parts():
    assert set(parts(nets.ResNet(), torch.randn(2, 3, 32, 32), "branch").values()) == {""}
    assert {t.part for t in nw.trace(nets.NormFreeNet(), torch.randn(2, 3, 8, 8)).taps} == {""}


def double(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(2, outputs), nn.ReLU())


class UNet(nn.Module):
    """With a residual encoder and a decoder of plain convolutions, as people make them of a ResNet."""

    def __init__(self, up="interpolate"):
        super().__init__()
        self.down1, self.down2, self.down3 = double(1, 8), double(8, 8), double(8, 8)
        self.gate = nn.Conv2d(8, 8, 1)
        self.up = nn.ConvTranspose2d(8, 8, 2, 2) if up == "transposed" else nn.Upsample(scale_factor=2)
        self.up2, self.up1, self.out = double(16, 8), double(16, 8), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        a = self.down1(x)
        b = F.max_pool2d(a, 2)
        b = b + self.down2(b)
        c = F.avg_pool2d(b, 2)
        c = c + self.down3(c)
        y = self.up2(torch.cat([b, self.up(c)], 1))
        y = y * torch.sigmoid(self.gate(F.adaptive_avg_pool2d(y, 1)))  # a gate is no change of resolution
        return self.out(self.up1(torch.cat([a, self.up(y)], 1)))


@pytest.mark.parametrize("up", ["interpolate", "transposed"])
def test_the_decoder_of_a_unet(up):
    result = nw.trace(UNet(up), torch.randn(2, 1, 32, 32))
    decoder = [tap.name for tap in result.layers if tap.part == "decoder"]
    assert decoder == ["up", "up2.0", "up2.1", "up2.2", "gate", "up#2", "up1.0", "up1.1", "up1.2", "out"]
    assert {tap.part for tap in result.blocks} == {""}
    figure = nw.plot(result)
    panel = panel_of(figure, "Average channel variance")
    assert markers(panel)[2][2].startswith("decoder, up: variance")
    assert [t.text for t in elements(panel, "text") if t.text in ("UNet", "decoder")] == ["UNet", "decoder"]
    assert "residual block, then stage of the decoder" in figure.svg()
    places = [words.partition(": ")[0] for _, _, words in markers(panel)]
    assert places[2:] == [f"decoder, {name}" for name in ("up", "up2.2", "up#2", "up1.2", "out")]


def test_a_net_that_only_goes_up_or_down_has_no_decoder():
    up = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ConvTranspose2d(4, 4, 2, 2), nn.Conv2d(4, 1, 1))
    assert {t.part for t in nw.trace(up, torch.randn(2, 1, 8, 8)).taps} == {""}
    assert {t.part for t in nw.trace(nets.ResNet(), torch.randn(2, 3, 32, 32)).taps} == {""}


def test_branches_of_attention_and_mlp_are_lines_of_their_own():
    figure = nw.plot(nw.trace(nets.ViT(), torch.randn(2, 3, 16, 16)))
    branch = panel_of(figure, "Variance at the end")
    assert [t.text for t in elements(branch, "text") if t.text in ("attention", "MLP")] == ["MLP", "attention"]
    across = {words.partition(",")[0]: [] for _, _, words in markers(branch)}
    for x, _, words in markers(branch):
        across[words.partition(",")[0]].append(round(x))
    assert across["attention"][0] < across["MLP"][0] < across["attention"][1] < across["MLP"][1]
    stream = panel_of(figure, "Average channel variance")
    assert {words.partition(",")[0] for _, _, words in markers(stream)} == {"ViT"}
    both = nw.plot({"a": nw.trace(nets.ViT(), torch.randn(2, 3, 16, 16)), "b": nw.trace(WrittenOut(), (2, 5, 6))})
    labels = {t.text for t in elements(panel_of(both, "Variance at the end"), "text")}
    assert {"a attention", "a MLP", "b attention", "b MLP"} <= labels


def test_parts_survive_json_and_csv(tmp_path):
    result = nw.trace(nets.ViT(), torch.randn(2, 3, 16, 16))
    assert nw.Trace.from_json(result.to_json()) == result
    result.to_csv(tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()[0].endswith(",part")


def test_a_branch_of_zeros_is_explained():
    note = nw.trace(nw.nets.resnet(8), (4, 3, 16, 16)).notes[0]
    assert note.startswith("3 of the branches are 0, from stages.stage1.0 on: the weight of the last BatchNorm2d")
    assert note in str(nw.trace(nw.nets.resnet(8), (4, 3, 16, 16)))
    assert "branches are 0" in nw.plot(nw.trace(nw.nets.resnet(8), (4, 3, 16, 16))).html()
    one = nets.ResNet()
    nn.init.zeros_(one.layer1[1].bn3.weight)
    assert nw.trace(one, (2, 3, 32, 32)).notes == (
        "The branch of layer1.1 is 0: the weight of the last BatchNorm2d in it (layer1.1.bn3) is 0, a usual "
        "initial value, so the block returns its input.",
    )
    assert nw.trace(nets.ResNet(), (2, 3, 32, 32)).notes == ()


def test_long_names_keep_both_ends_and_are_whole_on_hover():
    name = "a very long name of a model that ends in v2"
    assert shortened(name, 17) == "a very l…ds in v2"
    assert len(shortened(name, 16)) == 16
    names = [f"encoder.layer.{i}.attention.output" for i in range(12)]
    assert len({shortened(name, 24) for name in names}) == 12
    figure = nw.plot({name: nw.trace(nw.nets.resnet(8), (2, 3, 8, 8)), "b": nw.trace(nets.ResNet(), (2, 3, 32, 32))})
    text = next(t for t in elements(figure.panels[0], "text") if t.text == "a very l…ds in v2")
    assert next(iter(text)).text == name
    assert not [t for t in elements(figure.panels[0], "text") if t.text == "b" and len(t)]
    parts = nw.plot({name: nw.trace(nets.ViT(), (2, 3, 16, 16)), "b": nw.trace(WrittenOut(), (2, 5, 6))})
    labels = {t.text: next(iter(t)).text for t in elements(parts.panels[2], "text") if len(t)}
    assert labels == {"a v… v2 attention": f"{name} attention", "a very… in v2 MLP": f"{name} MLP"}


def test_bert_and_vit_of_transformers():
    transformers = libraries.transformers()
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    bert = transformers.BertModel(transformers.BertConfig(vocab_size=50, **small))
    found = parts(bert, torch.randint(5, 50, (2, 8)), "branch")
    assert found == {
        f"encoder.layer.{i}.{place}": part
        for i in range(2)
        for place, part in (("attention.output", "attention"), ("output", "mlp"))
    }
    vit = transformers.ViTModel(transformers.ViTConfig(image_size=16, patch_size=4, **small))
    assert sorted(parts(vit, (2, 3, 16, 16), "branch").values()) == ["attention"] * 2 + ["mlp"] * 2
