"""Every example of README, docs and examples/ runs as it stands there, or says here why it does not."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import libraries
import pytest
import torch
from PIL import Image
from torch import nn

from normwise import nets

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
DOCS = [path for path in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in path.parts]
PAGES = [ROOT / "README.md", ROOT / "README.ja.md", *DOCS]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
#: By how an example begins.
NOT_RUN = {
    "git clone": "the checkout is there",
    "pip install": "this is installed already: `make wheel` tries an installation",
    "make ": "what it runs is tested piece by piece; `test_every_target_exists` looks for its name",
    "normwise compare": "minutes, on data of the reader's own: `test_a_comparison` runs it on small stand-ins",
    "normwise bench": "minutes: tests/bench/test_bench_command.py runs a small one",
    "normwise tune": "half a minute and more, or a GPU: tests/tuning/test_measuring.py runs it with few sizes",
    "normwise trace --paper": "minutes, five ResNet-50s: docs/make_signal.py draws them",
    "normwise trace --model nf_resnet50": "tests/signal/test_trace_cli.py runs it on smaller nets",
    "torchrun": "tests/comparison/experiments/test_together.py starts two processes of it",
    "normwise convert torchvision": "a checkpoint of the reader's own: tests/surgery/test_convert_cli.py has one",
    "normwise convert package": "a module of the reader's own: tests/surgery/test_convert_cli.py writes one",
    "normwise stylize": "pictures of the reader's own: tests/style/test_stylize_cli.py runs every form on small ones",
    "theirs = timm.create_model": "downloads weights: tests/nets/test_from_timm.py takes random ones",
    "x [N,C,*] ──moments": "a picture",
    "import normwise as nw\n\nprint(nw.reuse_memory())": "cannot be undone: tests/backends/test_allocator.py",
    ">>> ": "from the docstrings, whose doctests the suite runs",
}
if not torch.cuda.is_available():
    NOT_RUN['import torch, normwise as nw\n\nlayer = nw.GroupNorm(32, 256, activation="silu").cuda()'] = "needs a GPU"


class Example(NamedTuple):
    """A block of Python, or one line for the shell."""

    page: Path
    line: int
    text: str
    is_python: bool

    @property
    def id(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def examples(page: Path) -> Iterator[Example]:
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        line = text[: found.start()].count("\n") + 2
        if found[1] == "py":  # the package's own code, shown; tests/docs holds it against the source
            continue
        if found[1] == "python" or found[2].startswith("x [N,C,*]"):
            yield Example(page, line, found[2], True)
            continue
        for number, command in enumerate(found[2].splitlines()):
            yield Example(page, line + number, command.partition(" #")[0].strip(), False)


EXAMPLES = [example for page in PAGES for example in examples(page)]


def reason_not_to(example: Example) -> str | None:
    return next((reason for start, reason in NOT_RUN.items() if example.text.startswith(start)), None)


def model_of_the_reader() -> dict[str, object]:
    """What the examples take for granted."""
    torch.manual_seed(0)
    net = nets.nf_resnet(8, width=8, num_classes=4, in_channels=3, skip_gain=1.0, stochastic_depth=0.0)
    batch = torch.randn(4, 3, 32, 32)

    def train(net: nn.Module) -> None:
        net(batch).square().mean().backward()

    return {"net": net, "model": net, "batch": batch, "loader": [batch] * 16, "train": train}


WITH_CODE = [page for page in PAGES if any(e.is_python and reason_not_to(e) is None for e in examples(page))]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_blocks_of_a_page_run_one_after_another(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = model_of_the_reader()
    for example in examples(page):
        if example.is_python and reason_not_to(example) is None:
            code = compile("\n" * (example.line - 1) + example.text, str(page), "exec")
            exec(code, names)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script(script, tmp_path):
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout
    assert script.name in (ROOT / "examples" / "README.md").read_text()


#: A command that stands on several pages runs once.
COMMANDS = list({e.text: e for e in EXAMPLES if not e.is_python}.values())


@pytest.mark.parametrize("example", COMMANDS, ids=[e.id for e in COMMANDS])
def test_a_command(example, tmp_path):
    reason = reason_not_to(example)
    if reason is not None:
        pytest.skip(f"{example.text}: {reason}")
    program, *arguments = shlex.split(example.text)
    assert program == "normwise", f"{example.id}: say in NOT_RUN why `{example.text}` is not run"
    command = [sys.executable, "-m", "normwise", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


MY_CODE = """
import torch
from torch import nn
from normwise.layers import make_norm

def split(samples):
    y = torch.arange(samples) % 3
    return torch.randn(samples, 3, 8, 8) + y.view(-1, 1, 1, 1), y

def datasets():
    return split(48), split(24)

def make_model(norm, in_channels, classes):
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))
    return nn.Sequential(nn.Conv2d(in_channels, 8, 3), make_norm(norm, 8), nn.ReLU(), *head)

class make_vit(nn.Module):
    def __init__(self, in_channels, classes):
        super().__init__()
        self.embed, self.norm = nn.Conv2d(in_channels, 8, 4, 4), nn.LayerNorm(8)
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        return self.head(self.norm(self.embed(x).flatten(2).mT).mean(1))

def my_train(run):
    model = nn.Sequential(nn.Linear(4, 8), run.norm(8, rank=1), nn.Linear(8, 1))
    return {"rmse": model(torch.randn(run.batch_size, 4)).square().mean().sqrt()}

def make_unet(norm, in_channels, classes):
    return nn.Sequential(nn.Conv2d(in_channels, 8, 3, padding=1), make_norm(norm, 8), nn.Conv2d(8, classes, 1))

def tokenizer(text):
    return [ord(letter) % 32 for letter in text]
"""
# Of an option that is given twice the last counts.
SHORT = ("--epochs", "1", "--seeds", "1", "--batch-sizes", "8")
COMPARISONS = [e for e in COMMANDS if e.text.startswith("normwise compare")]


@pytest.mark.parametrize("example", COMPARISONS, ids=[e.id for e in COMPARISONS])
def test_a_comparison(example, command, tmp_path):
    """As it stands there, made short, with files and code under the names that it takes for granted."""
    if "timm:" in example.text:
        libraries.timm()
    (tmp_path / "my_code.py").write_text(MY_CODE)
    trained = nets.resnet(8, "batch", 3, 5, "small")
    trained(torch.randn(4, 3, 8, 8))
    torch.save(trained.state_dict(), tmp_path / "resnet8.pt")
    photographs(tmp_path / "photos", "{}.jpg")
    photographs(tmp_path / "scans", "patient{}.jpg")
    cells(tmp_path / "cells")
    for name in ("book.txt", "topics.txt"):
        (tmp_path / name).write_text("It was a bright cold day in April. " * 90)
    for script in sorted((ROOT / "examples" / "compare").glob("*.py")):
        shutil.copy(script, tmp_path)
    if "lightning_module" in example.text:
        libraries.lightning()
    if ".parquet" in example.text:
        pandas = pytest.importorskip("pandas")
        pytest.importorskip("pyarrow")
        prices = pandas.DataFrame({"size": range(40), "price": [n * 1.5 for n in range(40)]})
        prices.to_parquet(tmp_path / "prices.parquet")
    program, *arguments = shlex.split(example.text)
    assert program == "normwise"
    code, output, errors = command(*arguments, *SHORT)
    assert (code, errors) == (0, "")
    left_out = [line for line in output.splitlines() if "is left out" in line]
    assert [line for line in left_out if not line.startswith("nf is left out")] == []
    assert (tmp_path / "results" / "compare" / "report.html").is_file()
    sys.modules.pop("my_code", None)


def cells(folder):
    """Images and masks of the same names: what is light is a cell."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for i in range(16):
        light = torch.rand(40, 40) > 0.5
        for part, pixels in (("images", 100 + 100 * light), ("masks", 255 * light)):
            Image.fromarray(pixels.byte().numpy()).save(folder / part / f"{i}.png")


def photographs(folder, name_of):
    """Two classes of small colour files, light ones and dark ones; four files share a number."""
    for name, shade in (("light", 150), ("dark", 0)):
        (folder / name).mkdir(parents=True)
        for i in range(12):
            pixels = torch.randint(shade, shade + 100, (70, 90, 3), dtype=torch.uint8).numpy()
            Image.fromarray(pixels).save(folder / name / name_of.format(f"{i % 3}-{i}"))


def test_every_target_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {e.text.split()[1] for e in EXAMPLES if e.text.startswith("make ")}
    named |= set(re.findall(r"`make ([a-z-]+)", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    assert named
    assert named <= targets


def test_no_reason_is_left_over():
    assert [start for start in NOT_RUN if not any(e.text.startswith(start) for e in EXAMPLES)] == []
