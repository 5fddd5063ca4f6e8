"""The command line within this process: help, bad input and usage errors."""

import inspect
import re

import pytest

from normwise import compare
from normwise.cli.app import COMMANDS
from normwise.cli.compare import compare as compare_command
from normwise.comparison.contestants.token_layers import is_for_tokens
from normwise.layers import NORMALIZERS
from normwise.layers.registry import map_normalizers

SMALL = ("--norms", "batch,none", "--batch-sizes", "64", "--seeds", "1", "--epochs", "1")


@pytest.mark.parametrize("arguments", [("--help",), *((name, "--help") for name in COMMANDS), ("compare", "-h")])
def test_help_fits_80_columns(arguments, command):
    code, output, _ = command(*arguments)
    assert code == 0
    assert max(map(len, output.splitlines())) <= 80


def test_help_of_compare_has_examples_and_every_name(command):
    _, text, _ = command("compare", "--help")
    assert "\n    normwise compare --data photos/ --model torchvision:resnet18 --image-size 64\n" in text
    names = re.split(r"[\s,]+", text.partition("are left out if MODEL has none:")[2].strip())
    assert names == [*map_normalizers(), "nf", "bank", *filter(is_for_tokens, NORMALIZERS)]


def test_the_defaults_of_the_command_are_those_of_the_function():
    command = {name: of.default for name, of in inspect.signature(compare_command).parameters.items()}
    function = {name: of.default for name, of in inspect.signature(compare).parameters.items()}
    function = {
        n: ",".join(map(str, v)) if isinstance(v, tuple) else v
        for n, v in function.items()
        if n not in ("on_event", "direction")
    }
    only_here = {"json_file": None, "csv_file": None, "out": command["out"], "watch": False}
    assert command == function | only_here


def test_every_command_has_its_module_and_its_line_of_help(command):
    code, text, _ = command("--help")
    assert code == 0
    for name, said in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(said)}$", text, re.MULTILINE)


BAD = {
    "unknown normalizer": (("--norms", "bach"), "did you mean 'batch'"),
    "twice": (("--norms", "batch,batch"), "given twice"),
    "not a number": (("--batch-sizes", "2,x"), "write integers separated by commas, such as 2,8,64"),
    "empty list": (("--batch-sizes", ""), "write integers separated by commas, such as 2,8,64"),
    "batch size 0": (("--batch-sizes", "0"), "not an integer of at least 1"),
    "batch size 1 with BatchNorm": (("--batch-sizes", "1", "--norms", "batch"), "no batch to normalize over"),
    "batch size beyond the data": (("--batch-sizes", "5000"), "larger than the training split"),
    "no epochs": (("--epochs", "0"), "not an integer of at least 1"),
    "no seeds": (("--seeds", "0"), "not an integer of at least 1"),
    "rate": (("--learning-rate", "-1"), "must be a positive number"),
    "unknown model": (("--model", "resnet"), "is unknown. Write resnet8"),
    "missing module": (("--model", "nowhere:model"), "there is no module 'nowhere'"),
    "missing data": (("--data", "nowhere"), "there is no such folder"),
    "missing table": (("--data", "nowhere.csv"), "there is no such file"),
    "no domains": (("--batches-by", "domain"), "write 'mixed-digits' with 'domain'"),
    "no such key": (("--data", "mixed-digits", "--batches-by", "site"), "told apart by 'domain'"),
    "an empty key": (("--batches-by", ""), "must say where the groups"),
    "a bank of nothing": (("--norms", "bank"), "without --batches-by there are no groups"),
    "a target of no table": (("--target", "class"), "only a table, .csv, .parquet or .npy, has columns"),
    "an image size of no images": (("--image-size", "16"), "image_size=16 goes with a folder of images, and 'digits'"),
    "unknown task": (("--task", "detection"), "task='detection' is unknown; write classification, regression"),
    "data of another task": (
        ("--task", "regression", "--data", "digits"),
        "are for classification, not for regression",
    ),
    "metric of another task": (("--metric", "rmse"), "metric='rmse': classification has accuracy"),
    "unknown optimizer": (("--optimizer", "lion"), "optimizer='lion' is unknown; write 'sgd' or 'adamw'"),
    "fp16 on the CPU": (("--precision", "fp16", "--device", "cpu"), "is for CUDA, and the device is cpu; write bf16"),
    "workers of nothing": (("--workers", "2"), "digits is held in memory; leave workers out"),
    "rates": (("--lrs", "0.1,x"), "write numbers separated by commas, such as 0.1,0.3,0.6"),
    "one rate": (("--lrs", "0.1"), "must be a list of different learning rates"),
    "a metric without a direction": (("--train", "m:f", "--metric", "rmse"), "as in accuracy:max or rmse:min"),
    "another direction": (("--train", "m:f", "--metric", "rmse:down"), "as in accuracy:max or rmse:min"),
    "no metric": (("--train", "m:f"), "train= needs metric="),
    "a metric without a function": (
        ("--metric", "rmse:min"),
        "metric='rmse': classification has accuracy; write one of these, or return any other from train=",
    ),
    "missing function": (("--train", "nowhere:f", "--metric", "rmse:min"), "there is no module 'nowhere'"),
    "no processes": (("--jobs", "0"), "jobs must be how many processes do runs at a time"),
    "no part": (("--shard", "4"), "shard must be a part of how many"),
    "missing device": (("--device", "gpu"), "is not available here; write 'cpu'"),
    "groups": (("--norms", "group:5"), "group:5"),
    "out is a file": (("--out", "file"), "cannot be written"),
    "csv is a folder": (("--csv", "."), "must be a file in a folder that exists"),
    "json in no folder": (("--json", "no/folder.json"), "must be a file in a folder that exists"),
}


@pytest.mark.parametrize(("arguments", "said"), BAD.values(), ids=BAD)
def test_bad_input_is_explained_in_a_sentence_or_two(arguments, said, command, tmp_path):
    (tmp_path / "file").touch()
    code, output, errors = command("compare", *SMALL, "--out", "out", *arguments)
    assert code == 2
    assert said in errors
    assert errors.startswith("normwise: ")
    assert len(errors.splitlines()) == 1
    assert output == ""
    assert not (tmp_path / "out" / "results.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("compare", "--epochs", "x"), "--epochs"),
        (("compare", "--epoch", "3"), "--epoch"),
        (("compare", "digits"), "digits"),
        (("compere",), "compere"),
    ],
)
def test_usage_errors(arguments, said, command):
    code, output, errors = command(*arguments)
    assert code == 2
    assert said in errors
    assert "normwise" in errors.splitlines()[0]
    assert output == ""
