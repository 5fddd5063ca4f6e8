"""`normwise convert` within this process: what it writes, and what it says where it cannot."""

from functools import partial

import pytest
import torch
from surgery_nets import error, in_fp64, trained
from torch import nn

import normwise as nw

SMALL = ("--input", "2x3x8x8")


@pytest.fixture
def call(command):
    """`normwise convert`: exit code, stdout, stderr."""
    return partial(command, "convert")


@pytest.fixture
def module(user_module):
    return user_module(
        "from torch import nn\n"
        "def net(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4))\n"
        "def synced(): return nn.SyncBatchNorm.convert_sync_batchnorm(net())\n"
        "def lonely(): return nn.Sequential(nn.SyncBatchNorm(4))\n"
        "class Strange(nn.Module):\n"
        "    def forward(self, x): return x\n"
    )


def example_net():
    return trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4)))


@pytest.mark.parametrize("columns", [80, 120])
def test_fold_writes_the_folded_state(call, module, tmp_path, columns):
    net, x = example_net(), torch.randn(2, 3, 8, 8)
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}}, tmp_path / "w.pth")
    code, output, errors = call(f"{module}:net", "w.pth", "--fold", *SMALL, "--out", "folded.pt", columns=columns)
    assert (code, errors) == (0, "")
    assert "fold: 1 of 2 normalizers folded" in output
    assert "Written: folded.pt" in output
    assert max(map(len, output.splitlines())) <= columns
    fresh = nw.fold(example_net(), x).model
    fresh.load_state_dict(torch.load(tmp_path / "folded.pt", weights_only=True))
    assert error(fresh(x), in_fp64(net, x)) < 1e-5
    assert sorted(path.suffix for path in tmp_path.iterdir() if path.is_file()) == [".pt", ".pth", ".py"]


def test_fold_writes_a_program_that_needs_no_code(call, module, tmp_path):
    net = example_net()
    torch.save(net.state_dict(), tmp_path / "w.pt")
    code, _, _ = call(f"{module}:net", "w.pt", "--fold", *SMALL, "--out", "folded.pt2")
    assert code == 0
    program = torch.export.load(tmp_path / "folded.pt2")
    assert sum("batch_norm" in str(node.target) for node in program.graph.nodes) == 1
    for size in ((2, 3, 8, 8), (5, 3, 12, 9)):
        x = torch.randn(size)
        assert error(program.module()(x), in_fp64(net, x)) < 1e-5


def test_unsync_says_which_layers(call, module, tmp_path):
    code, output, _ = call(f"{module}:synced", "--unsync", *SMALL, "--out", "plain.pt")
    assert code == 0
    assert "unsync: 2 layers" in output
    assert "SyncBatchNorm  BatchNorm2d" in output
    assert "1.running_mean" in torch.load(tmp_path / "plain.pt", weights_only=True)


def test_safetensors_there_and_back(call, module, tmp_path):
    pytest.importorskip("safetensors")
    code, _, _ = call(f"{module}:net", "--fold", *SMALL, "--out", "folded.safetensors")
    assert code == 0
    code, _, errors = call(f"{module}:net", "folded.safetensors", "--fold", *SMALL)
    assert code == 2
    assert "is the state of another model: it lacks 1.bias, 1.num_batches_tracked, 1.running_mean and 2 more" in errors


BAD = {
    "nothing asked": ((), "one of: --fold, --swap NORM, --recalibrate DATA, --unsync, --normalizer-free."),
    "two things": (("--fold", "--unsync"), "Say which conversion"),
    "suffix": (("--fold", "--out", "folded.onnx"), "write a file .pt, .pth, .safetensors, .pt2"),
    "folder": (("--fold", "--out", "no/folded.pt"), "must be a file in a folder that exists"),
    "shape": (("--fold", "--input", "2x3xa"), "write the sizes of a batch"),
    "wrong shape": (("--fold", "--input", "2x5x8x8"), "does not take the example"),
    "no checkpoint": (("nowhere.pt", "--fold"), "nowhere.pt: there is no such file"),
    "checkpoint kind": (("weights.onnx", "--fold"), "a checkpoint is a file .pt, .pth, .safetensors"),
    "nothing synced": (("--unsync", *SMALL), "has no SyncBatchNorm; there is nothing to convert"),
}


@pytest.mark.parametrize(("arguments", "said"), BAD.values(), ids=BAD)
def test_what_cannot_be_done_is_said_in_a_sentence(arguments, said, call, module, tmp_path):
    code, _, errors = call(f"{module}:net", *arguments)
    assert code == 2
    assert said in errors
    assert "Traceback" not in errors
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [f"{module}.py"]


def test_damaged_pickled_and_bare_checkpoints(call, module, tmp_path):
    (tmp_path / "damaged.pt").write_bytes(b"not a checkpoint")
    torch.save(example_net(), tmp_path / "pickled.pt")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    torch.save({"0.weight": torch.zeros(2)}, tmp_path / "other.pt")
    for name, said in (
        (
            "damaged.pt",
            "damaged.pt is no checkpoint, is damaged, or holds more than tensors; save model.state_dict() again",
        ),
        ("pickled.pt", "holds more than tensors"),
        ("empty.pt", "holds no state_dict"),
        ("other.pt", "is the state of another model"),
    ):
        code, _, errors = call(f"{module}:net", name, "--fold", *SMALL)
        assert code == 2
        assert said in errors
    torch.save(example_net().state_dict(), tmp_path / "weights.pt")
    code, _, errors = call("weights.pt", "--fold")
    assert code == 2
    assert "holds weights without a model; write the model's name in front of it" in errors
    code, _, errors = call(f"{module}:Strange", "--fold")
    assert code == 2
    assert "write it, as in --input 2x3x224x224" in errors


def test_help_fits_80_columns_and_has_examples(command):
    code, output, _ = command("convert", "--help")
    assert code == 0
    assert max(map(len, output.splitlines())) <= 80
    assert "normwise convert timm:resnet50 weights.safetensors --fold --out folded.pt" in output
