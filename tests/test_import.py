"""What `import normwise` gives, and what it leaves for later."""

import json
import subprocess
import sys

import pytest

import normwise as nw

LATER = ("comparison", "bench", "signal", "pages", "cli", "doctor")
HEAVY = ("matplotlib", "sklearn", "scipy", "pandas", "plotly", "PIL", "rich", "typer", "torchvision", "timm", "onnx")
HEAVY += ("torch.utils.flop_counter", "torch._dynamo", "torch._inductor", "triton")


def new_modules(code, tmp_path):
    """The modules that `code` loads beyond torch's and NumPy's own."""
    program = "import json, sys, torch, numpy; before = set(sys.modules)\n"
    program += f"{code}\nprint(json.dumps(sorted(set(sys.modules) - before)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True)
    return json.loads(done.stdout)


def within(modules, packages):
    return [m for m in modules for package in packages if m == package or m.startswith(f"{package}.")]


def test_a_training_script_loads_neither_tools_nor_extras(tmp_path):
    code = "import normwise as nw; net = nw.nets.resnet(8, 'group'); nw.param_groups(net, 1e-4)"
    modules = new_modules(code, tmp_path)
    assert "normwise.layers" in modules
    assert within(modules, [*(f"normwise.{name}" for name in LATER), *HEAVY]) == []


def test_the_tools_come_when_they_are_asked_for(tmp_path):
    code = "from normwise import compare, trace; import normwise as nw; assert nw.signal.trace is trace"
    modules = new_modules(f"{code}; assert nw.comparison.compare is compare", tmp_path)
    assert within(modules, HEAVY) == []


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


def test_importing_the_package_alone_imports_no_torch(tmp_path):
    program = "import sys, normwise; print('torch' in sys.modules, normwise.__version__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout == f"False {nw.__version__}\n"


def test_a_star_import_brings_every_public_name():
    names = {}
    exec("from normwise import *", names)
    assert {name for name in dir(nw) if not name.startswith("_")} <= set(names)
    assert {"BatchNorm2d", "functional", "compare", "trace", "normalize", "NORMALIZERS"} <= set(names)
