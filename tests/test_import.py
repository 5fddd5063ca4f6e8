"""What `import normwise` gives, and what it leaves for later."""

import io
import json
import subprocess
import sys

import pytest
import torch
from marks import needs_kernels
from torch.package import PackageExporter, PackageImporter

import normwise as nw

#: Before a second copy takes the package's place, which whatever comes later would be taken from.
BatchNorm2d, BatchRenorm2d = nw.BatchNorm2d, nw.BatchRenorm2d
LATER = ("comparison", "bench", "tuning", "signal", "style", "surgery", "explanation", "pages", "cli", "doctor")
HEAVY = ("matplotlib", "sklearn", "scipy", "pandas", "plotly", "PIL", "rich", "typer", "torchvision", "timm", "onnx")
HEAVY += ("torch.utils.flop_counter", "torch._dynamo", "torch._inductor", "triton")


SCRIPT = "import normwise as nw; net = nw.nets.resnet(8, 'group'); nw.param_groups(net, 1e-4)"
TOOLS = (
    """from normwise import compare, trace; assert nw.signal.trace is trace; assert nw.comparison.compare is compare"""
)


@pytest.fixture(scope="module")
def new_modules():
    """The modules that a training script loads beyond torch's and NumPy's own, and those that its tools add."""
    look = "print(json.dumps(sorted(set(sys.modules) - before)))"
    program = f"import json, sys, torch, numpy; before = set(sys.modules)\n{SCRIPT}\n{look}\n{TOOLS}\n{look}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def within(modules, packages):
    return [m for m in modules for package in packages if m == package or m.startswith(f"{package}.")]


def test_a_training_script_loads_neither_tools_nor_extras(new_modules):
    assert "normwise.layers" in new_modules[0]
    assert within(new_modules[0], [*(f"normwise.{name}" for name in LATER), *HEAVY]) == []


def test_the_tools_come_when_they_are_asked_for(new_modules):
    assert {"normwise.comparison", "normwise.signal"} <= {*new_modules[1]} - {*new_modules[0]}
    assert within(new_modules[1], HEAVY) == []


@pytest.mark.parametrize("name", nw._LATER)
def test_every_name_is_there_and_listed(name):
    assert name in dir(nw)
    found = getattr(nw, name)
    home = sys.modules[f"normwise.{nw._LATER[name]}"]
    assert found is (home if name == nw._LATER[name] else getattr(home, name))


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match=r"module 'normwise' has no attribute 'Compare'"):
        nw.Compare  # noqa: B018
    assert not hasattr(nw, "Compare")


SECOND_COPY = """
import copy, importlib, sys, torch
import normwise as nw
nw.BatchNorm2d(4)
for name in [name for name in sys.modules if name.partition(".")[0] == "normwise"]:
    del sys.modules[name]
second = importlib.import_module("normwise")
assert second is not nw
x, layer = torch.randn(64, 4, 20, 20), second.BatchNorm2d(4)
graph = torch.compile(copy.deepcopy(layer), backend="aot_eager", fullgraph=True)
expected = torch.nn.BatchNorm2d(4)(x)
for found in (layer(x), graph(x), nw.BatchNorm2d(4)(x)):
    torch.testing.assert_close(found, expected)
torch.testing.assert_close(second.BatchRenorm2d(4)(x), nw.BatchRenorm2d(4)(x))
"""


def test_a_second_copy_has_operators_of_its_own(tmp_path):
    """The package imported once more in a process, as two installations would be.

    A process of its own: what Dynamo has seen of the second copy stays in the globals of torch's modules.
    """
    done = subprocess.run(
        [sys.executable, "-c", SECOND_COPY], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr


@needs_kernels
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_within_torch_package(caplog):
    """Dataclasses there cannot look names up, and the kernels have no sources: plain PyTorch serves, and says so."""
    layer, file = nw.BatchNorm2d(4, activation="relu"), io.BytesIO()
    with PackageExporter(file) as exporter:
        exporter.intern("normwise.**")
        exporter.extern("**")
        exporter.save_module("normwise")
        exporter.save_pickle("model", "model.pkl", layer)
    file.seek(0)
    importer = PackageImporter(file)
    found, packaged = importer.load_pickle("model", "model.pkl"), importer.import_module("normwise")
    assert type(found) is packaged.BatchNorm2d is not nw.BatchNorm2d
    x = torch.randn(8, 4, 5, 5)
    torch.testing.assert_close(found(x), torch.nn.BatchNorm2d(4)(x).relu())
    assert "sources are not in a folder" in caplog.text


def test_importing_the_package_alone_imports_no_torch(tmp_path):
    program = "import sys, normwise; print('torch' in sys.modules, normwise.__version__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout == f"False {nw.__version__}\n"


def test_a_star_import_brings_every_public_name():
    names = {}
    exec("from normwise import *", names)
    assert {name for name in dir(nw) if not name.startswith("_")} <= set(names)
    assert {"BatchNorm2d", "functional", "compare", "trace", "normalize", "NORMALIZERS"} <= set(names)
