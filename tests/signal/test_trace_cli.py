"""`normwise trace` within this process: its tables, its files, and bad input."""

import json
import re
from functools import partial

import pytest

from normwise.signal import Trace, trace
from normwise.signal.paper import paper_networks

SMALL = ("--input", "4x3x16x16", "--out", "out")


@pytest.fixture
def call(command):
    """`normwise trace`: exit code, stdout, stderr."""
    return partial(command, "trace")


@pytest.fixture
def module(user_module):
    return user_module(
        "from torch import nn\n"
        "def net(width=8): return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU())\n"
        "def recurrent(): return nn.Sequential(nn.LSTM(5, 7))\n"
        "def needs(width): return net(width)\n"
        "def nothing(): return 1\n"
        "number = 3\n"
        "instance = net()\n"
    )


@pytest.mark.parametrize("columns", [80, 120])
def test_one_model_with_its_prediction(columns, call, tmp_path):
    code, output, errors = call("--model", "nf_resnet26", *SMALL[2:], "--input", "4x3x32x32", columns=columns)
    assert (code, errors) == (0, "")
    lines = output.splitlines()
    assert max(map(len, lines)) <= columns
    row = next(line for line in lines if line.startswith("stages.stage1.0"))
    numbers = [float(number) for number in row.split()[1:]]
    assert len(numbers) == 5
    assert numbers[1] == pytest.approx(numbers[2], rel=0.2)
    assert "nf_resnet26: the variance is as predicted to " in output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"trace.html", "trace.svg", "trace.png"}
    page = (tmp_path / "out" / "trace.html").read_text(encoding="utf-8")
    assert "normwise trace --model nf_resnet26 --input 4x3x32x32 --skip-gain 1 --seed 0" in page


@pytest.mark.parametrize("columns", [80, 120])
def test_the_papers_comparison(columns, call, tmp_path):
    code, output, _ = call("--paper", "--depth", "14", *SMALL, "--json", "numbers.json", columns=columns)
    assert code == 0
    assert max(map(len, output.splitlines())) <= columns
    traces = {k: Trace.from_json(json.dumps(v)) for k, v in json.loads((tmp_path / "numbers.json").read_text()).items()}
    assert traces.keys() == paper_networks().keys()
    means = {name: max(tap.squared_mean for tap in t.blocks[1:]) for name, t in traces.items()}
    last = {name: t.blocks[-1].variance for name, t in traces.items()}
    # Figure 1: the mean shifts where ReLU comes last before the convolution, unless its weights have no mean.
    assert means["BN-ReLU-Conv"] > 5 * means["ReLU-BN-Conv"]
    assert means["NF without SWS"] > 5 * means["NF-ResNet"]
    # Without a normalizer the variance grows with every block; normalized or scaled it does not.
    assert last["No normalizer"] > 5 * last["BN-ReLU-Conv"]
    assert last["NF-ResNet"] == pytest.approx(1.04, rel=0.3)
    assert output.count("stages.stage1.0") == 3
    for title in ("Average channel squared mean", "Average channel variance", "end of the residual branch"):
        assert title in output


def test_models_of_ones_own_with_labels(call, module, tmp_path):
    code, output, _ = call("--model", f"mine={module}:net", "--model", f"{module}:instance", *SMALL, "--no-predict")
    assert code == 0
    assert "mine" in output
    assert "predicted" not in output
    assert re.search(r"^0 +\d", output, re.M)
    assert "Average channel variance" in (tmp_path / "out" / "trace.svg").read_text(encoding="utf-8")


def test_what_cannot_be_predicted_is_measured(call, module):
    code, output, _ = call("--model", f"{module}:recurrent", "--input", "2x3x5", "--out", "out")
    assert code == 0
    assert f"No prediction for {module}:recurrent: predict cannot follow the module 0 (LSTM)" in " ".join(
        output.split()
    )


def test_json_on_stdout_is_all_there_is(call):
    code, output, errors = call("--model", "resnet8", *SMALL, "--json", "-")
    assert code == 0
    assert Trace.from_json(json.dumps(json.loads(output)["resnet8"])).blocks
    assert "Measuring resnet8" in errors


def test_the_seed_decides(call, tmp_path):
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert call("--model", "resnet8", *SMALL, "--seed", seed, "--json", f"{name}.json")[0] == 0
    a, b, c = ((tmp_path / f"{name}.json").read_text() for name in "abc")
    assert a == b != c


BAD = {
    "nothing asked": ((), "--model nf_resnet50, for example, or --paper"),
    "unknown": (("--model", "nf_resnet51"), "did you mean 'nf_resnet50'?"),
    "far from anything": (("--model", "zzz"), "is unknown: Write resnet50"),
    "depth": (("--model", "resnet21"), "depth must be 18"),
    "paper's depth": (("--paper", "--depth", "21"), "depth must be 18"),
    "twice": (("--model", "resnet8", "--model", "resnet8"), "write LABEL=MODEL"),
    "no module": (("--model", "nowhere:net"), "there is no module 'nowhere'"),
    "no function": (("--model", "MODULE:net2"), "has no 'net2'"),
    "no model": (("--model", "MODULE:nothing"), "must return a torch.nn.Module, it returned int"),
    "a number": (("--model", "MODULE:number"), "is not a function"),
    "arguments": (("--model", "MODULE:needs"), "required parameters width"),
    "shape": (("--model", "resnet8", "--input", "8x3xbig"), "such as 8x3x224x224"),
    "channels": (("--model", "resnet8", "--input", "4x5x16x16"), "resnet8 does not take input 4x5x16x16"),
    "json": (("--model", "resnet8", "--json", "no/where.json"), "must be a file in a folder that exists"),
    "out": (("--model", "resnet8", "--out", "file"), "--out file: cannot be written"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_explained_in_a_sentence_or_two(case, call, module, tmp_path):
    (tmp_path / "file").touch()
    arguments, said = BAD[case]
    code, _, errors = call(*(word.replace("MODULE", module) for word in arguments))
    assert code == 2
    assert said in errors
    assert errors.startswith("normwise: ")
    assert len(errors.splitlines()) == 1


def test_help_fits_80_columns(call):
    code, output, _ = call("--help")
    assert code == 0
    assert max(map(len, output.splitlines())) <= 80
    assert "\n    normwise trace --paper\n" in output


def test_the_papers_networks_have_the_same_shapes():
    shapes = {
        name: [tap.shape for tap in trace(make(), (2, 3, 16, 16)).blocks] for name, make in paper_networks(8).items()
    }
    assert len({str(shape) for shape in shapes.values()}) == 1
