import sys
from types import ModuleType

import libraries
import pytest
import small_problems
import torch
from PIL import Image
from torch import nn

from normwise import nets
from normwise.comparison import compare
from normwise.comparison.contestants.models import Recipe
from normwise.comparison.contestants.replacement import normalization_layers
from normwise.comparison.contestants.zoo import nearest_name, open_model
from normwise.comparison.settings import InputError
from normwise.layers import GroupNorm

IMAGES = torch.randn(2, 1, 8, 8)
NORMS = ["batch", "group", "group:2", "instance", "layer", "none"]


def shared_tensors(network):
    """Everything that no normalization site owns, by name."""
    return {
        name: tensor
        for name, tensor in network.module.state_dict().items()
        if not any(name.startswith(f"{site}.") for site in network.sites)
    }


class RandomInitNet(small_problems.Net):
    """Draws other random numbers for other normalizers before it makes its layers."""

    def __init__(self, norm: str = "batch") -> None:
        torch.rand(len(norm))
        super().__init__(norm)


@pytest.mark.parametrize("model", ["resnet8", "small_problems:net", "small_problems:fixed_net", RandomInitNet])
def test_all_normalizers_start_from_the_same_weights(model):
    example = IMAGES[..., :6, :6]
    recipe = open_model(model, example, 3)
    for seed in (0, 1):
        reference = shared_tensors(recipe.build("batch", seed))
        assert len(reference) >= 4
        for norm in NORMS:
            tensors = shared_tensors(recipe.build(norm, seed))
            assert set(tensors) >= set(reference)
            for name, tensor in reference.items():
                assert torch.equal(tensors[name], tensor), (norm, name)
    first, second = shared_tensors(recipe.build("group", 0)), shared_tensors(recipe.build("group", 1))
    assert not any(torch.equal(first[name], second[name]) for name in first if name.endswith("conv.weight"))


def test_sites_are_known_also_where_nothing_stands():
    recipe = open_model("resnet8", IMAGES, 10)
    sites = recipe.build("batch", 0).sites
    assert len(sites) == 9
    assert recipe.build("none", 0).sites == sites
    replaced = open_model("small_problems:fixed_net", IMAGES[..., :6, :6], 3)
    assert replaced.build("none", 0).sites == ("1",)


def test_our_resnet_follows_the_data():
    network = open_model("resnet18", torch.randn(2, 3, 32, 32), 5).build("group", 0)
    assert network.module.stem[0].weight.shape == (64, 3, 3, 3)
    assert network.module.classifier.out_features == 5
    assert open_model("resnet18", torch.randn(2, 3, 64, 64), 5).build("none", 0).module.stem[0].kernel_size == (7, 7)


def test_building_leaves_the_random_state_alone():
    recipe = open_model("resnet8", IMAGES, 10)
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    recipe.build("group", 0)
    assert torch.equal(torch.rand(3), expected)


def test_a_module_keeps_its_own_weights_for_every_seed_and_is_not_changed():
    model = small_problems.fixed_net()
    with torch.no_grad():
        model[1].weight.fill_(3.0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    recipe = open_model(model, IMAGES[..., :6, :6], 3)
    assert recipe.name == "Sequential"
    for seed in (0, 1):
        network = recipe.build("group", seed)
        assert torch.equal(network.module[0].weight, before["0.weight"])
        assert network.module[1].weight.eq(3).all()
    assert isinstance(model[1], nn.BatchNorm2d)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_fingerprint_follows_architecture_weights_and_code():
    recipe = open_model("resnet8", IMAGES, 10)
    assert recipe.fingerprint("group") == open_model("resnet8", IMAGES, 10).fingerprint("group")
    others = [
        recipe.fingerprint("layer"),
        open_model("resnet14", IMAGES, 10).fingerprint("group"),
        open_model("resnet8", IMAGES, 9).fingerprint("group"),
    ]
    model = small_problems.fixed_net()
    first = open_model(model, IMAGES[..., :6, :6], 3).fingerprint("group")
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] += 1
    others += [first, open_model(model, IMAGES[..., :6, :6], 3).fingerprint("group")]
    assert len({recipe.fingerprint("group"), *others}) == 6


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)

    def forward(self, x):
        return self.norm(x), x


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("resnet9", "the depth must be 18, 26, 34"),
        ("resnext50", "model='resnext50' is unknown. Write resnet8"),
        ("small_problems:missing", "has no 'missing'"),
        ("small_problems:not_a_function", "is not a function; it must return a torch.nn.Module"),
        ("small_problems:needs_width", "has the required parameters width; .* give its other parameters defaults"),
        ("small_problems:number", "must return a torch.nn.Module, it returned int"),
        (5, "model must be a name, a torch.nn.Module or a function, received 5"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "cannot be replaced: it has no BatchNorm"),
        (
            nn.Sequential(nn.BatchNorm2d(3)),
            r"Sequential cannot take samples of shape \[1, 8, 8\]: .*Choose a model for",
        ),
        (TwoOutputs, r"must give logits \[N, classes\], it gives tuple for 2 samples"),
        (nn.Sequential(nn.BatchNorm2d(1)), r"must give logits \[N, classes\], it gives \[2, 1, 8, 8\]"),
        (
            nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 9)),
            "gives 9 outputs, the data have 10 classes; let the model's function take `classes`",
        ),
    ],
)
def test_bad_models(model, message):
    with pytest.raises(InputError, match=message):
        open_model(model, IMAGES, 10)


def test_our_nets_take_images_only():
    with pytest.raises(InputError, match=r"resnet8 takes images \[N, C, H, W\], the data have samples of shape \[64\]"):
        open_model("resnet8", torch.randn(2, 64), 10)


@pytest.fixture
def fake_timm(monkeypatch):
    timm = ModuleType("timm")
    built = []

    def create_model(name, pretrained, num_classes, in_chans):
        built.append((name, pretrained, num_classes, in_chans))
        return nn.Sequential(
            nn.Conv2d(in_chans, 8, 3), small_problems.NormAct(8), nn.Flatten(), nn.Linear(288, num_classes)
        )

    timm.create_model, timm.list_models, timm.built = create_model, lambda: ["tiny_net", "other"], built
    monkeypatch.setitem(sys.modules, "timm", timm)
    return timm


def test_timm_models_are_made_for_the_data(fake_timm):
    recipe = open_model("timm:tiny_net.tag_in1k", IMAGES, 4)
    assert isinstance(recipe, Recipe)
    assert set(fake_timm.built) == {("tiny_net.tag_in1k", False, 4, 1)}
    assert isinstance(recipe.build("layer", 0).module[1].norm, GroupNorm)
    with pytest.raises(InputError, match="timm has no such model; did you mean 'timm:tiny_net'"):
        open_model("timm:tinynet", IMAGES, 4)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_missing_library_is_named(library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError, match=f"{library} is not installed; run `pip install {library}`"):
        open_model(f"{library}:resnet18", IMAGES, 4)


@pytest.mark.parametrize("name", ["timm:resnet18", "timm:resnetv2_50", "timm:efficientnet_b0", "torchvision:resnet18"])
def test_real_libraries(name):
    getattr(libraries, name.partition(":")[0])()
    recipe = open_model(name, torch.randn(2, 3, 64, 64), 4)
    reference = shared_tensors(recipe.build("batch", 0))
    for norm in ("group", "none"):
        network = recipe.build(norm, 0)
        assert network.module(torch.randn(2, 3, 64, 64)).shape == (2, 4)
        assert all(torch.equal(tensor, reference[key]) for key, tensor in shared_tensors(network).items())


def test_our_resnet_has_a_normalizer_free_counterpart():
    recipe = open_model("resnet8", IMAGES, 10)
    network = recipe.build("nf", 0)
    assert network.sites == ()
    assert isinstance(network.module, nets.NormalizerFreeNet)
    assert not normalization_layers(network.module)
    assert network.module(IMAGES).shape == (2, 10)
    again, other = recipe.build("nf", 0), recipe.build("nf", 1)
    first = dict(network.module.named_parameters())
    for name, parameter in again.module.named_parameters():
        assert torch.equal(parameter, first[name])
    assert any(not torch.equal(parameter, first[name]) for name, parameter in other.module.named_parameters())
    sizes = [sum(p.numel() for p in recipe.build(norm, 0).module.parameters()) for norm in ("batch", "nf")]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)  # what is compared is of one size


def test_other_models_have_none():
    assert open_model(small_problems.fixed_net, IMAGES[..., :6, :6], 3).normalizer_free is None
    assert open_model("small_problems:net", IMAGES, 3).normalizer_free is None


@pytest.mark.parametrize(
    ("name", "known", "near"),
    [
        ("resnet99", ["resnet9t", "resnet50", "resnet101", "resnetv2_99"], "resnet101"),
        ("efficientnet_b9", ["efficientnet_b0", "efficientnet_b8", "efficientnet_es"], "efficientnet_b8"),
        ("convnextv3_base", ["convnext_base", "convnextv2_base", "convnextv2_tiny"], "convnextv2_base"),
        ("resnt18", ["resnet18", "vgg16"], "resnet18"),
    ],
)
def test_the_nearest_name_is_the_nearest_by_number(name, known, near):
    assert nearest_name(name, known) == near


def test_the_first_example_of_the_readme_leaves_nobody_out(tmp_path):
    """Every normalizer of a ResNet-18 gets a map, with an image size that nobody chose."""
    libraries.timm()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(8):
            pixels = torch.randint(256, (90, 70, 3), dtype=torch.uint8).numpy()
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.jpg")
    events = []
    asked = {"norms": ["batch", "group", "instance"], "batch_sizes": [2, 8], "seeds": 1, "epochs": 1}
    rows = compare("timm:resnet18", str(tmp_path), **asked, on_event=events.append)
    assert events[0].about["left_out"] == []
    assert events[0].about["settings"]["image_size"] == 64
    assert {row["norm"] for row in rows} == {"batch", "group", "instance"}


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_torchvision_for_another_torch_is_told_in_words(library, monkeypatch):
    def broken(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("normwise.comparison.contestants.zoo.importlib.import_module", broken)
    with pytest.raises(InputError) as raised:
        open_model(f"{library}:resnet18", torch.rand(2, 3, 8, 8), 2)
    said = str(raised.value)
    minor = int(torch.__version__.split(".")[1])
    assert "the installed torchvision" in said
    assert f"was not built for torch {torch.__version__}" in said
    assert f"--no-deps 'torchvision==0.{minor + 15}.*'" in said
    assert ("which timm imports" in said) == (library == "timm")


def test_a_module_may_be_named_in_its_file(tmp_path, monkeypatch):
    (tmp_path / "mine_too.py").write_text(
        "from torch import nn\n"
        "instance = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    recipe = open_model("mine_too:instance", torch.rand(2, 1, 6, 6), 3)
    first, second = recipe.build("batch", 0).module, recipe.build("group", 1).module
    torch.testing.assert_close(first[0].weight, second[0].weight)
    assert first[0] is not second[0]
