"""Models that begin with trained weights."""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from normwise import nets
from normwise.comparison import InputError, SweepStarted, compare
from normwise.comparison.contestants.zoo import open_model
from normwise.layers import GroupNorm

IMAGES = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def trained(classes=10):
    net = nets.resnet(8, "batch", 1, classes)
    net(torch.randn(8, 1, 8, 8) + 1)
    return net.eval()


def small(classes):
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, classes))


@pytest.mark.parametrize("form", ["state", "whole", "training", "processes", "legacy"])
def test_every_kind_of_file_is_read(form, tmp_path):
    net, path = trained(), tmp_path / "weights.pt"
    state = net.state_dict()
    kinds = {
        "state": state,
        "whole": net,
        "training": {"epoch": 3, "model_state_dict": state},
        "processes": {f"module.{name}": value for name, value in state.items()},
        "legacy": state,
    }
    torch.save(kinds[form], path, _use_new_zipfile_serialization=form != "legacy")
    network = open_model("resnet8", IMAGES, 10, str(path)).build("batch", seed=1)
    torch.testing.assert_close(network.module.eval()(IMAGES), net(IMAGES))


def test_other_normalizers_keep_gains_and_biases(tmp_path):
    net = trained()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight)
    torch.save(net.state_dict(), tmp_path / "w.pth")
    module = open_model("resnet8", IMAGES, 10, str(tmp_path / "w.pth")).build("group", 0).module
    pairs = [(a, b) for (_, a), (_, b) in zip(net.named_modules(), module.named_modules(), strict=True)]
    found = [(a, b) for a, b in pairs if isinstance(a, nn.BatchNorm2d)]
    assert len(found) == 9
    for before, after in found:
        assert type(after) is GroupNorm
        assert torch.equal(before.weight, after.weight)


def test_a_last_layer_for_other_classes_begins_anew_by_the_seed(tmp_path):
    torch.save(small(7).state_dict(), tmp_path / "w.pt")
    recipe = open_model(lambda classes: small(classes), IMAGES, 3, str(tmp_path / "w.pt"))
    assert "; 4 begins anew, with as many outputs as the data have classes." in recipe.notes[0]
    first, other = (recipe.build("batch", seed).module[4].weight for seed in (0, 1))
    assert first.shape == (3, 144)
    assert not torch.equal(first, other)
    assert torch.equal(recipe.build("group", 0).module[4].weight, first)
    without = {name: value for name, value in small(3).state_dict().items() if not name.startswith("4.")}
    torch.save(without, tmp_path / "body.pt")
    assert "4 begins anew" in open_model(lambda: small(3), IMAGES, 3, str(tmp_path / "body.pt")).notes[0]


def _state(**changes):
    state = small(3).state_dict() | changes
    return {name: value for name, value in state.items() if value is not None}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (_state(**{"0.weight": None}), "does not fit the model .Sequential.: it lacks 0.weight"),
        (_state(**{"9.weight": torch.ones(2)}), "it also has 9.weight"),
        (_state(**{"0.weight": torch.ones(4, 3, 3, 3)}), r"0.weight is \[4, 3, 3, 3\] there and \[4, 1, 3, 3\]"),
        (_state(**{"1.weight": torch.ones(5)}), r"1.weight is \[5\] there and \[4\]"),
        (_state(**{"1.bias": torch.full((4,), float("nan"))}), "holds NaN or infinity in 1.bias"),
        ({}, "holds no state_dict"),
    ],
)
def test_weights_that_do_not_fit_are_one_sentence(state, message, tmp_path):
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(InputError, match=message):
        open_model(lambda: small(3), IMAGES, 3, str(tmp_path / "w.pt"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--weights", "none.pt"), "none.pt: there is no such file"),
        (("--weights", "text.pt"), "text.pt is no checkpoint, is damaged, or holds more than tensors"),
        (("--weights", "pretrained"), "'pretrained' works for timm:NAME and torchvision:NAME only"),
        (("--model", "state.pt"), "'state.pt' holds weights without a model; write model='torchvision:resnet18'"),
    ],
)
def test_what_the_command_says(options, message, command, tmp_path):
    (tmp_path / "text.pt").write_text("nothing that torch wrote")
    torch.save(trained().state_dict(), tmp_path / "state.pt")
    code, _, errors = command("compare", *options, "--out", "out")
    assert code == 2
    assert len(errors.strip().splitlines()) <= 4
    assert message in " ".join(errors.split())


def test_weights_and_train_exclude_each_other():
    with pytest.raises(InputError, match="weights: with train= the function has its own model, data and training"):
        compare(train=lambda run: {"x": 1.0}, metric="x", direction="max", weights="w.pt")


def test_the_whole_way(tmp_path, command):
    torch.save(trained().state_dict(), tmp_path / "w.pt")
    asked = ("--weights", "w.pt", "--norms", "batch:frozen,swap:group", "--batch-sizes", "64", "--seeds", "1")
    code, output, _ = command("compare", *asked, "--epochs", "1", "--out", "out")
    assert code == 0
    assert "All contestants begin with the weights of w.pt." in output
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<span>--weights</span> w.pt" in page
    assert "Peak learning rate: 0.05" in page


def test_a_file_that_holds_a_whole_model_is_a_model(tmp_path):
    torch.save(trained(), tmp_path / "net.pt")
    events = []
    rows = compare(
        str(tmp_path / "net.pt"), norms=["batch:frozen"], batch_sizes=(64,), seeds=1, epochs=1, on_event=events.append
    )
    assert rows[0]["status"] == "finished"
    assert next(e for e in events if isinstance(e, SweepStarted)).about["left_out"] == []


def test_what_a_library_has_in_its_cache(monkeypatch, tmp_path):
    """Loaded where it is there, one sentence where it is not; with stand-ins for both libraries."""
    url = "https://host.invalid/net-1234.pth"
    weights = SimpleNamespace(DEFAULT=SimpleNamespace(url=url))
    models = SimpleNamespace(
        list_models=lambda: ["net"],
        get_model=lambda name, weights, num_classes: small(num_classes),
        get_model_builder=lambda name: small,
        get_model_weights=lambda name: weights,
    )
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(models=models))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(InputError, match=r"are not in the cache .* and nothing is downloaded"):
        open_model("torchvision:net", IMAGES, 3, "pretrained")
    (tmp_path / "checkpoints").mkdir()
    net = small(5)
    torch.save(net.state_dict(), tmp_path / "checkpoints" / "net-1234.pth")
    module = open_model("torchvision:net", IMAGES, 3, "pretrained").build("batch", 0).module
    assert torch.equal(module[0].weight, net[0].weight)

    def create_model(name, pretrained, num_classes, in_chans, pretrained_cfg_overlay=None):
        made = small(num_classes)
        if pretrained:
            made[0].weight.data = torch.load(pretrained_cfg_overlay["file"])["0.weight"]
        return made

    config = SimpleNamespace(hf_hub_id=None, url=url)
    timm = SimpleNamespace(
        list_models=lambda: ["net"], create_model=create_model, get_pretrained_cfg=lambda name: config
    )
    monkeypatch.setitem(sys.modules, "timm", timm)
    recipe = open_model("timm:net", IMAGES, 3, "pretrained")
    assert torch.equal(recipe.build("group", 0).module[0].weight, net[0].weight)
    config.url = "https://host.invalid/other.pth"
    with pytest.raises(InputError, match="timm has no weights of timm:net in its cache, and nothing is downloaded"):
        open_model("timm:net", IMAGES, 3, "pretrained")


def test_weights_are_part_of_what_a_result_depends_on(tmp_path):
    keys = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save(trained().state_dict(), tmp_path / "w.pt")
        keys.append(open_model("resnet8", IMAGES, 10, str(tmp_path / "w.pt")).fingerprint("batch"))
    assert keys[0] != keys[1]
