"""`normwise convert --swap` and `--recalibrate`: they write what the Python functions make."""

import copy
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from surgery_nets import error, in_fp64, trained

import normwise as nw

SMALL = ("--input", "4x3x12x12")
NETS = """
import torch
from torch import nn

def net():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3),
    )

def wide(): return net().double()
def table(): return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
def plain(): return nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
def maps(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

class Own(nn.BatchNorm2d):
    def forward(self, x): return super().forward(x) + 1

def own(): return nn.Sequential(nn.Conv2d(3, 4, 1), Own(4))

class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(3)
    def forward(self, x): return self.bn(x) if x.sum() > 0 else x
"""


@pytest.fixture
def call(command):
    """`normwise convert`: exit code, stdout, stderr."""
    return partial(command, "convert")


@pytest.fixture
def module(user_module):
    return user_module(NETS)


@pytest.fixture
def nets(module, tmp_path, monkeypatch):
    """The same module for the test itself."""
    monkeypatch.syspath_prepend(tmp_path)
    return __import__(module)


def written(path):
    return torch.load(path, weights_only=True)


def shuffled(x):
    """The order in which the command reads data."""
    return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]


def recalibrated(net, x, batch_size):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # few samples
        nw.recalibrate(net, shuffled(x).split(batch_size))
    return net


def assert_same_state(found, net):
    wanted = net.state_dict()
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("columns", [80, 120])
def test_swap_writes_a_start_and_says_how_far_off_it_is(call, module, nets, tmp_path, columns):
    old = trained(nets.net())
    torch.save(old.state_dict(), tmp_path / "w.pt")
    code, output, errors = call(f"{module}:net", "w.pt", "--swap", "group:4", *SMALL, columns=columns)
    assert (code, errors) == (0, "")
    assert max(map(len, output.splitlines())) <= columns
    x = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    change = nw.swap(copy.deepcopy(old), "group:4", start="data-free", example_inputs=x)
    said = " ".join(output.split())
    moved = (change.model(x) - old(x)).square().sum().sqrt() / old(x).square().sum().sqrt()
    assert f"differs from the old model's by {moved:.3g} of its root mean square" in said
    assert "Fine-tune it before use" in said
    assert "Written: converted.pt" in output
    assert_same_state(written(tmp_path / "converted.pt"), change.model)
    fresh = nw.swap(nets.net(), "group:4", start="data-free").finish().eval()
    fresh.load_state_dict(written(tmp_path / "converted.pt"))
    assert torch.equal(fresh(x), change.model(x))


def test_swap_computes_gamma_and_beta_from_the_running_statistics(call, module, nets, tmp_path):
    old = trained(nets.net())
    torch.save(old.state_dict(), tmp_path / "w.pt")
    assert call(f"{module}:net", "w.pt", "--swap", "group:4", *SMALL)[0] == 0
    gamma, beta, mean, var = (
        t.detach().double().numpy().reshape(4, 4)
        for t in (old[1].weight, old[1].bias, old[1].running_mean, old[1].running_var)
    )
    pooled = mean.mean(1, keepdims=True)
    spread = var.mean(1, keepdims=True) + mean.var(1, keepdims=True)
    scale = gamma / np.sqrt(var + 1e-5)
    state = written(tmp_path / "converted.pt")
    np.testing.assert_allclose(state["1.weight"], (scale * np.sqrt(spread + 1e-5)).ravel(), rtol=1e-5)
    np.testing.assert_allclose(state["1.bias"], (beta + scale * (pooled - mean)).ravel(), rtol=1e-5, atol=1e-6)


def test_swap_to_what_computes_the_same_does_not_ask_for_training(call, module, nets, tmp_path):
    old = trained(nets.net())
    torch.save(old.state_dict(), tmp_path / "w.pt")
    code, output, _ = call(f"{module}:net", "w.pt", "--swap", "batch", *SMALL, "--out", "batch.pth")
    assert code == 0
    assert "2 of 2 normalizers swapped" in output
    assert "Warning" not in output
    assert_same_state(written(tmp_path / "batch.pth"), old)


def test_swap_writes_a_program(call, module, nets, tmp_path):
    old = trained(nets.net())
    torch.save(old.state_dict(), tmp_path / "w.pt")
    assert call(f"{module}:net", "w.pt", "--swap", "layer", *SMALL, "--out", "layer.pt2")[0] == 0
    wanted = nw.swap(old, "layer", start="data-free").model
    program = torch.export.load(tmp_path / "layer.pt2").module()
    for size in ((4, 3, 12, 12), (2, 3, 9, 14)):
        x = torch.randn(size)
        assert error(program(x), in_fp64(wanted, x)) < 1e-5


def image_problem(samples=96):
    """Images sorted by class, each class with a mean of its own, as float64 [N, C, H, W] and labels."""
    random = np.random.default_rng(0)
    y = np.repeat(np.arange(3), samples // 3)
    return random.normal(size=(samples, 3, 10, 10)) + y[:, None, None, None] * 3.0, y


def standardized(x):
    x = torch.as_tensor(x, dtype=torch.float32)
    std, mean = torch.std_mean(x, dim=(0, 2, 3), correction=0, keepdim=True)
    return (x - mean) / std


@pytest.mark.parametrize("columns", [80, 120])
def test_recalibrate_by_an_npz_that_is_sorted_by_class(call, module, nets, tmp_path, columns):
    x, y = image_problem()
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x[::8], y_test=y[::8])
    old = trained(nets.net())
    torch.save(old.state_dict(), tmp_path / "w.pt")
    code, output, errors = call(
        f"{module}:net", "w.pt", "--recalibrate", "d.npz", "--batch-size", "16", "--out", "new.pt", columns=columns
    )
    assert (code, errors) == (0, "")
    assert max(map(len, output.splitlines())) <= columns
    assert "2 of 2 layers recalibrated by 96 samples in 6 batches" in " ".join(output.split())
    assert "Data: the training split, 96 samples 3×10×10" in output
    assert "the channels' means from 0 to 0 and σ from 1 to 1" in " ".join(output.split())
    data = standardized(x)
    state = written(tmp_path / "new.pt")
    into_first = in_fp64(old[0], data)
    torch.testing.assert_close(state["1.running_mean"].double(), into_first.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state["1.running_var"].double(), into_first.var((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert_same_state(state, recalibrated(old, data, 16))


def test_recalibrate_says_its_doubts_once_and_among_the_results(call, module, nets, tmp_path, recwarn):
    x, y = image_problem(12)
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    code, output, errors = call(f"{module}:net", "--recalibrate", "d.npz")
    assert (code, errors) == (0, "")
    assert output.count("Few samples: after 12 the mean of a channel of layer") == 1
    assert not [warning for warning in recwarn if "recalibrate" in str(warning.message)]


def test_recalibrate_by_a_folder_of_images(call, module, nets, tmp_path):
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (24, 12, 12, 3), dtype=np.uint8)
    for i, array in enumerate(pixels):
        folder = tmp_path / "photos" / ("train" if i < 20 else "val") / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        image.fromarray(array).save(folder / f"{i:02}.png")
    order = [*range(0, 20, 2), *range(1, 20, 2)]
    data = standardized(pixels[order].transpose(0, 3, 1, 2) / np.float32(255))
    code, output, _ = call(f"{module}:net", "--recalibrate", "photos", "--image-size", "12", "--batch-size", "8")
    assert code == 0
    assert "20 samples 3×12×12" in output
    found = written(tmp_path / "converted.pt")
    fresh = nets.net()
    fresh.load_state_dict(found)
    assert_same_state(found, recalibrated(fresh, data, 8))
    code, output, _ = call(f"{module}:net", "--recalibrate", "photos")
    assert code == 0
    assert "20 samples 3×32×32" in output


@pytest.mark.parametrize("standardize", [False, True])
def test_recalibrate_by_a_table(call, module, nets, tmp_path, standardize):
    rows = np.random.default_rng(0).normal(size=(80, 2)) * (1.0, 5.0)
    lines = [f"{a!r},{'xy'[i % 2]},{b!r}" for i, (a, b) in enumerate(rows.tolist())]
    (tmp_path / "t.csv").write_text("\n".join(["height,kind,weight", *lines]))
    old = trained(nets.table())
    torch.save(old.state_dict(), tmp_path / "w.pt")
    arguments = ("--recalibrate", "t.csv", "--target", "kind", *["--standardize"] * standardize)
    assert call(f"{module}:table", "w.pt", *arguments)[0] == 0
    data = nw.comparison.data.sources.load_data(str(tmp_path / "t.csv"), 0, "kind", standardize).x_train
    assert_same_state(written(tmp_path / "converted.pt"), recalibrated(old, data, 64))


def test_recalibrate_by_a_function_in_the_dtype_of_the_net_and_as_a_program(call, module, nets, tmp_path):
    x, y = image_problem()
    torch.save((torch.tensor(x).float(), torch.tensor(y)), tmp_path / "xy.pt")
    (tmp_path / f"{module}_data.py").write_text("import torch\ndef data(): return [torch.load('xy.pt')] * 2\n")
    old = trained(nets.wide())
    torch.save(old.state_dict(), tmp_path / "w.pt")
    code, _, _ = call(f"{module}:wide", "w.pt", "--recalibrate", f"{module}_data:data", "--out", "new.pt2")
    assert code == 0
    wanted = recalibrated(old, torch.tensor(x).float().double(), 64)
    example = torch.randn(3, 3, 11, 9, dtype=torch.float64)
    assert error(torch.export.load(tmp_path / "new.pt2").module()(example), in_fp64(wanted, example)) < 1e-12


@pytest.mark.parametrize("arguments", [("--swap", "group", *SMALL), ("--recalibrate", "d.npz")], ids=lambda a: a[0])
def test_a_file_that_cannot_be_replaced_is_kept(call, module, tmp_path, arguments):
    x, y = image_problem(12)
    np.savez(tmp_path / "d.npz", x=np.abs(x), y=y)
    (tmp_path / "new.pt2").write_bytes(b"what was there")
    code, _, errors = call(f"{module}:Branching", *arguments, "--out", "new.pt2")
    assert code == 2
    assert "The model cannot be exported" in errors
    assert (tmp_path / "new.pt2").read_bytes() == b"what was there"
    assert sorted(path.suffix for path in tmp_path.iterdir() if path.is_file()) == [".npz", ".pt2", ".py"]


BAD = {
    "two conversions": ("net", ("--swap", "group", "--recalibrate", "digits"), "Say which conversion, one of: --fold"),
    "swap and fold": ("net", ("--swap", "group", "--fold"), "--recalibrate DATA, --unsync, --normalizer-free."),
    "no such norm": ("net", ("--swap", "grop", *SMALL), "grop"),
    "empty norm": ("net", ("--swap", "", *SMALL), "Unknown normalizer ''"),
    "groups that do not divide": ("net", ("--swap", "group:5", *SMALL), "16"),
    "nothing to swap": ("plain", ("--swap", "group", *SMALL), "has no BatchNorm, InstanceNorm or GroupNorm layer"),
    "nothing that can be": ("own", ("--swap", "group", *SMALL), "Own has a forward of its own, which would be lost"),
    "another shape": ("net", ("--swap", "group", "--input", "2x5x8x8"), "does not take the example, 2×5×8×8"),
    "batch size with swap": ("net", ("--swap", "group", "--batch-size", "8"), "--batch-size goes with --recalibrate"),
    "target with fold": ("net", ("--fold", "--target", "y"), "--target goes with --recalibrate DATA"),
    "standardize with unsync": ("net", ("--unsync", "--standardize"), "--standardize goes with --recalibrate DATA"),
    "input with data": (
        "net",
        ("--recalibrate", "digits", *SMALL),
        "--input goes with every conversion but --recalibrate",
    ),
    "batch of none": ("net", ("--recalibrate", "digits", "--batch-size", "0"), "--batch-size 0: write a whole number"),
    "no data": ("net", ("--recalibrate", "nowhere"), "data='nowhere': there is no such folder"),
    "no file": ("net", ("--recalibrate", "nowhere.npz"), "there is no such file"),
    "no column": ("table", ("--recalibrate", "t.csv"), "say which column holds the target (--target NAME)"),
    "column of images": (
        "net",
        ("--recalibrate", "d.npz", "--target", "y"),
        "only a table, .csv, .parquet or .npy, has columns",
    ),
    "size of a file": ("net", ("--recalibrate", "d.npz", "--image-size", "8"), "--image-size goes with a folder"),
    "other channels": ("net", ("--recalibrate", "digits"), "does not take these data, 2×1×8×8"),
    "nothing to renew": ("plain", ("--recalibrate", "d.npz"), "has no layer with running statistics"),
    "one value": ("table", ("--recalibrate", "f.npz", "--batch-size", "1"), "one value per channel"),
    "no logits": ("maps", ("--recalibrate", "photos"), "Set the size of the images of photos with --image-size N"),
    "suffix": ("net", ("--recalibrate", "d.npz", "--out", "new.npz"), "write a file .pt, .pth, .safetensors, .pt2"),
}


@pytest.mark.parametrize(("net", "arguments", "said"), BAD.values(), ids=BAD)
def test_what_cannot_be_done_is_said_in_a_sentence(net, arguments, said, call, module, tmp_path):
    x, y = image_problem(12)
    np.savez(tmp_path / "d.npz", x=x, y=y)
    np.savez(tmp_path / "f.npz", x=x[:, :2, 0, 0], y=y)
    (tmp_path / "t.csv").write_text("a,b,kind\n" + "1,2,x\n3,4,y\n" * 4)
    if "photos" in arguments:
        for name in "abab":
            folder = tmp_path / "photos" / name
            folder.mkdir(parents=True, exist_ok=True)
            pixels = np.full((12, 12, 3), 99, dtype=np.uint8)
            pytest.importorskip("PIL.Image").fromarray(pixels).save(folder / f"{len(list(folder.iterdir()))}.png")
    before = sorted(tmp_path.iterdir())
    code, _, errors = call(f"{module}:{net}", *arguments)
    assert code == 2
    assert said in errors
    assert errors.count("\n") == 1
    assert sorted(p for p in tmp_path.iterdir() if p.name != "__pycache__") == before
