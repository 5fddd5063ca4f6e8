"""`normwise doctor MODEL`, and checkpoints as MODEL for it and for `normwise convert`."""

import json
import sys
from functools import partial

import libraries
import numpy as np
import pytest
import torch
from surgery_nets import error, in_fp64, trained
from torch import nn

import normwise as nw


@pytest.fixture
def call(command):
    return partial(command, "doctor")


@pytest.fixture
def convert(command):
    return partial(command, "convert")


@pytest.fixture
def module(user_module):
    return user_module(
        "from torch import nn\n"
        "def net(): return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())\n"
        "def residual():\n"
        "    import normwise as nw\n"
        "    return nw.nets.resnet(8, in_channels=3)\n"
        "class Own(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.norm = nn.BatchNorm2d(3)\n"
        "    def forward(self, x): return self.norm(x)\n"
    )


def sequential():
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())


def test_a_model_by_name(call, module):
    code, output, errors = call(f"{module}:net", "--batch-size", "2", "--target", "onnx")
    assert (code, errors) == (0, "")
    assert "small batch" in output
    assert "nw.swap(model, 'group')" in output
    assert "nw.fold(model.eval(), example)" in output


def test_weights_data_and_json(call, module, tmp_path):
    net = sequential().eval()
    net[1].running_var[0] = -1
    torch.save(net.state_dict(), tmp_path / "w.pt")
    code, output, _ = call(f"{module}:net", "w.pt", "--json")
    assert code == 1
    found = json.loads(output)
    assert [f["rule"] for f in found["findings"] if f["severity"] == "error"] == ["negative variance"]
    assert "nw.recalibrate" in found["findings"][0]["remedy"]


def test_data_are_run(call, module, tmp_path):
    x = 4 + 3 * np.random.default_rng(0).normal(size=(64, 3, 12, 12)).astype("float32")
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(64) % 2)
    net = trained(sequential())
    net[1].num_batches_tracked.fill_(50)
    net[1].running_mean += 20
    torch.save(net.state_dict(), tmp_path / "w.pt")
    code, output, errors = call(f"{module}:net", "w.pt", "--data", "data.npz")
    assert (code, errors) == (0, "")
    assert "1: stale statistics" in output


def test_a_checkpoint_alone(call, tmp_path):
    state = sequential().state_dict()
    state["1.running_mean"][0] = torch.nan
    torch.save({"epoch": 1, "state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "w.pth")
    code, output, _ = call("w.pth")
    assert code == 1
    assert "1.running_mean: poisoned statistics" in output
    assert "A checkpoint alone: 6 tensors, running statistics of 1" in output
    torch.save(sequential().state_dict(), tmp_path / "fresh.pt")
    code, output, _ = call("fresh.pt")
    assert code == 0
    assert "warning: 1: stale statistics" in output


CHANGED = {
    "complex": (lambda t: t + 1j, 1, "error: 1.running_var: statistics of another type"),
    "integers": (torch.Tensor.long, 1, "error: 1.running_var: statistics of another type"),
    "without values": (lambda t: t.to("meta"), 1, "error: 1.running_var: no values"),
    "below zero in float8": (lambda t: (-t).to(torch.float8_e4m3fn), 1, "error: 1: negative variance"),
    "sparse": (lambda t: (2 * t).to_sparse(), 0, "nothing found"),
}


@pytest.mark.parametrize("case", CHANGED)
def test_a_checkpoint_alone_whatever_its_tensors_are(case, call, tmp_path):
    change, expected, words = CHANGED[case]
    state = trained(sequential()).state_dict()
    state["1.running_var"] = change(state["1.running_var"])
    torch.save(state, tmp_path / "w.pt")
    code, output, errors = call("w.pt")
    assert (code, errors) == (expected, "")
    assert words in output


def test_a_whole_model_in_a_file(call, convert, tmp_path):
    net = trained(sequential())
    torch.save(net, tmp_path / "whole.pt")
    code, output, _ = call("whole.pt", "--target", "onnx")
    assert code == 0
    assert "unfolded normalizers" in output
    code, output, errors = convert("whole.pt", "--fold", "--input", "2x3x8x8", "--out", "folded.pt")
    assert (code, errors) == (0, "")
    x = torch.randn(2, 3, 8, 8)
    folded = nw.fold(net, x).model
    folded.load_state_dict(torch.load(tmp_path / "folded.pt", weights_only=True))
    assert error(folded(x), in_fp64(net, x)) < 1e-5


def test_a_whole_model_of_torchvision(call, tmp_path):
    torch.save(libraries.torchvision().models.resnet18(), tmp_path / "resnet.pt")
    code, output, _ = call("resnet.pt", "--target", "quantization")
    assert code == 0
    assert "unfolded normalizers" in output


class Harmful:
    def __reduce__(self):
        return (exec, ("import sys; sys.modules['__main__'].reached = True",))


def test_a_file_runs_no_code(call, convert, module, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "reached", False, raising=False)
    torch.save([sequential(), Harmful()], tmp_path / "evil.pt")
    monkeypatch.syspath_prepend(tmp_path)
    own = __import__(module).Own()
    torch.save(own, tmp_path / "own.pt")
    for run in (call, partial(convert, "--fold")):
        for file, named in (("evil.pt", "exec"), ("own.pt", f"{module}.Own")):
            code, output, errors = run(file)
            assert (code, output) == (2, "")
            assert named in errors
            assert "could run any code" in " ".join(errors.split())
    assert sys.modules["__main__"].reached is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.pt"], "missing.pt: there is no such file."),
        (["broken.pt"], "broken.pt is no checkpoint, is damaged, or holds more than tensors"),
        (["--batch-size", "4"], "--batch-size is about a model"),
        (["w.pt", "--data", "digits"], "--data needs the model"),
        (["w.pt", "--batch-size", "4"], "--batch-size needs the model"),
        (["w.pt", "--world-size", "0"], "--world-size needs the model"),
        (["resnet8", "--batch-size", "0"], "batch_size must be at least 1, received 0"),
        (["resnet8", "--world-size", "0"], "world_size must be at least 1, received 0"),
        (["w.pt", "w.pt"], "are both files"),
        (["resnet8", "--target", "tflite"], "target must be one of"),
        (["nonsense"], "model 'nonsense' is unknown"),
    ],
)
def test_wrong_command_lines(call, tmp_path, arguments, message):
    (tmp_path / "broken.pt").write_bytes(b"no checkpoint")
    torch.save(sequential().state_dict(), tmp_path / "w.pt")
    code, output, errors = call(*arguments)
    assert (code, output) == (2, "")
    assert message in " ".join(errors.split())


def test_convert_normalizer_free(convert, module, tmp_path):
    code, output, errors = convert(f"{module}:residual", "--normalizer-free", "--input", "8x3x16x16", "--out", "f.pt")
    assert (code, errors) == (0, "")
    assert "normalizer_free: 3 residual blocks, 9 normalizers removed" in " ".join(output.split())
    free = nw.normalizer_free(nw.nets.resnet(8), torch.randn(8, 3, 16, 16)).model
    free.load_state_dict(torch.load(tmp_path / "f.pt", weights_only=True))
    code, _, errors = convert(f"{module}:net", "--normalizer-free", "--input", "8x3x16x16", "--out", "g.pt")
    assert code == 2
    assert "no residual addition" in " ".join(errors.split())
    assert not (tmp_path / "g.pt").exists()
