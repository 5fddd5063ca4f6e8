"""Trained styles on pictures: any size, tiles like the whole, and files of another kind."""

import pytest
import torch
from torch import nn

from normwise.errors import InputError
from normwise.nets import AdaptiveStyleNet, StyleNet, vgg_trunk
from normwise.style.painting import net_for, paint
from normwise.style.style_file import Style, load_style, save_style

TRAINED = {"size": 32, "style_size": 64, "steps": 1, "features": "random"}


def style_of(kind, norm="instance"):
    torch.manual_seed(3)
    if kind == "any":
        net = AdaptiveStyleNet(vgg_trunk((1, 1, 1), width=4), "relu3_1")
        plan = {"layer": "relu3_1", "convolutions": [1, 1, 1], "width": 4}
    else:
        plan = {"norm": norm, "width": 4, "blocks": 1, "styles": 2 if kind == "many" else None}
        net = StyleNet(norm, 4, 1, plan["styles"])
    names = ("wave", "village")[: 1 if kind == "one" else 2]
    for parameter in net.parameters():
        if parameter.dim() < 3 and parameter.requires_grad:
            nn.init.normal_(parameter, 1.0, 0.5)
    return Style(net.eval(), kind, names, plan, dict(TRAINED))


def net_of(kind):
    style = style_of(kind)
    if kind == "any":
        return net_for(style, picture=torch.rand(3, 30, 40), strength=0.7)
    return net_for(style, {"wave": 0.3, "village": 0.7} if kind == "many" else None)


@pytest.mark.parametrize("kind", ["one", "many", "any"])
def test_tiles_give_what_the_whole_gives(kind):
    net, picture = net_of(kind), torch.rand(3, 150, 203)
    whole, tiled = paint(net, picture), paint(net, picture, tile=48, whole=1)
    assert whole.shape == picture.shape
    torch.testing.assert_close(tiled, whole, rtol=0, atol=2e-5)
    assert float(whole.std()) > 1e-3


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (33, 34), (40, 64)])
@pytest.mark.parametrize("kind", ["one", "many", "any"])
def test_every_size(kind, size):
    painted = paint(net_of(kind), torch.rand(3, *size))
    assert painted.shape == (3, *size)
    assert bool(torch.isfinite(painted).all())


def test_a_style_of_one_pixel():
    net = net_for(style_of("any"), picture=torch.rand(3, 1, 1))
    assert bool(torch.isfinite(paint(net, torch.rand(3, 20, 20))).all())


def test_a_normalizer_that_no_tile_can_have():
    net = net_for(style_of("one", "switchable"))
    with pytest.raises(InputError, match="too large to be painted whole, and its net cannot paint in tiles"):
        paint(net, torch.rand(3, 300, 300), tile=32, whole=1)


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("many", {}, "It holds several styles; write --style with one of: wave, village"),
        ("many", {"wanted": {"sea": 1.0}}, "There is no style 'sea' in it; write --style with one of: wave, village"),
        ("many", {"wanted": {"wave": -1.0}}, "weights of styles must be positive"),
        ("any", {}, "paints in any style; write --style and a picture"),
        ("one", {"wanted": {"sea": 1.0}}, "paints in the style wave alone; leave --style out"),
        ("one", {"picture": torch.rand(3, 20, 20)}, "only a net of --any takes a picture as style"),
        ("one", {"strength": 0.5}, "--strength 0.5: write a number from 0 to 1, for a net of any style"),
        ("any", {"picture": torch.rand(3, 20, 20), "strength": 1.5}, "--strength 1.5"),
    ],
)
def test_a_style_that_does_not_belong_to_the_net(kind, options, said):
    with pytest.raises(InputError, match=said):
        net_for(style_of(kind), **options)


@pytest.mark.parametrize("kind", ["one", "many", "any"])
def test_a_style_file_paints_as_what_was_saved(kind, tmp_path):
    style, picture = style_of(kind), torch.rand(3, 33, 40)
    save_style(style, tmp_path / "a.pt")
    again = load_style(tmp_path / "a.pt")
    options = {"one": {}, "many": {"wanted": {"village": 1.0}}, "any": {"picture": torch.ones(3, 20, 20) * 0.3}}[kind]
    expected = paint(net_for(style, **options), picture)
    torch.testing.assert_close(paint(net_for(again, **options), picture), expected, rtol=0, atol=1e-6)


class TestFiles:
    """Files that are no style files."""

    def content(self, tmp_path, **changes):
        save_style(style_of("one"), tmp_path / "a.pt")
        content = torch.load(tmp_path / "a.pt", weights_only=True)
        torch.save(content | changes, tmp_path / "a.pt")
        return tmp_path / "a.pt"

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"kind": "other"}, "a net of 'other' with one styles"),
            ({"kind": "many"}, "a net of 'many' with one styles"),
            ({"names": ["wave", "village"]}, "2 names of 1 styles"),
            ({"names": []}, "styles without names"),
            ({"trained": {"size": 32}}, "style_size is missing"),
        ],
    )
    def test_one_that_contradicts_itself(self, changes, said, tmp_path):
        with pytest.raises(InputError, match=rf"a\.pt: its weights are not those of the net .*{said}.*train it again"):
            load_style(self.content(tmp_path, **changes))

    def test_weights_that_are_no_numbers(self, tmp_path):
        style = style_of("one")
        with torch.no_grad():
            style.net.paint.weight[0, 0, 0, 0] = torch.nan
        save_style(style, tmp_path / "a.pt")
        with pytest.raises(InputError, match=r"a\.pt: some of its weights are not finite; train it again"):
            load_style(tmp_path / "a.pt")

    def test_none(self, tmp_path):
        with pytest.raises(InputError, match="there is no such file"):
            load_style(tmp_path / "none.pt")

    @pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04"])
    def test_other_bytes(self, content, tmp_path):
        (tmp_path / "a.pt").write_bytes(content)
        with pytest.raises(InputError, match=r"a\.pt is no file of `normwise stylize train`"):
            load_style(tmp_path / "a.pt")

    @pytest.mark.parametrize("content", [[1, 2], {"weight": torch.zeros(2)}, {"format": "normwise style training"}])
    def test_other_contents(self, content, tmp_path):
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(InputError, match="it does not say 'normwise style'"):
            load_style(tmp_path / "a.pt")

    def test_a_pickle_that_would_run_code(self, tmp_path):
        torch.save({"format": "normwise style", "net": nn.Linear(2, 2)}, tmp_path / "a.pt")
        with pytest.raises(InputError, match="is no file of `normwise stylize train`"):
            load_style(tmp_path / "a.pt")

    def test_another_version(self, tmp_path):
        with pytest.raises(InputError, match=r"written by another version of normwise \(99\)"):
            load_style(self.content(tmp_path, version=99))

    @pytest.mark.parametrize(
        "changes",
        [
            {"plan": {"norm": "instance", "width": 8, "blocks": 1, "styles": None}},
            {"plan": {"norm": "instance", "width": 4, "blocks": 2, "styles": None}},
            {"plan": {"norm": "no such", "width": 4, "blocks": 1, "styles": None}},
            {"plan": {"norm": "instance"}},
            {"state": {}},
            {"names": []},
            {"kind": "any"},
        ],
    )
    def test_weights_of_another_net(self, changes, tmp_path):
        with pytest.raises(InputError, match="its weights are not those of the net that it names"):
            load_style(self.content(tmp_path, **changes))
