"""Where something is added in several places, none may be forgotten: normalizers, activations, functions of backends.

CONTRIBUTING names the places; each test here watches over one of them.
"""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
from torch import nn

import normwise as nw
from normwise import ACTIVATIONS, NORMALIZERS, layers
from normwise.backends import cpu, protocols, reference, triton_kernels
from normwise.backends.cpu_library import _PARAMETERS
from normwise.bench import bytes_model
from normwise.bench.subjects import SUBJECTS
from normwise.core import activations, formulas
from normwise.signal.prediction.normalizers import RULES

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src" / "normwise"
KERNELS = SOURCES / "backends" / "cpu_kernels"
#: What a layer is built on, and what takes its place inside a scripted model.
_BASES = re.compile(r"(Layer|Tables|Activation|StatisticsBank)$|^Scripted|^(IBN|ZeroCentered)$")
#: Public, but no normalizer: it gives back what one took away.
_BESIDE = {"MomentShortcut"}


def _classes():
    modules = [importlib.import_module(m.name) for m in pkgutil.walk_packages(layers.__path__, f"{layers.__name__}.")]
    found = (c for m in modules for c in vars(m).values() if inspect.isclass(c) and c.__module__ == m.__name__)
    return {c.__name__: c for c in found if issubclass(c, nn.Module) and not c.__name__.startswith("_")}


LAYERS = {name: cls for name, cls in _classes().items() if not _BASES.search(name)}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_public_and_in_a_row_of_the_table(name):
    cls = LAYERS[name]
    assert getattr(layers, name) is cls
    assert getattr(nw, name) is cls
    assert any(cls in row.layers.values() for row in NORMALIZERS.values()) != (name in _BESIDE)


def _formulas():
    found = {
        name: f for name, f in vars(formulas).items() if inspect.isfunction(f) and f.__module__ == formulas.__name__
    }
    return [
        name for name, f in found.items() if not name.startswith("_") and "moments" in inspect.signature(f).parameters
    ]


#: Its layer chooses it by another name.
_BY_ANOTHER_NAME: set[tuple[str, str]] = {("src/normwise/layers", "gated_rms_norm")}


@pytest.mark.parametrize("name", _formulas())
def test_a_formula_has_a_layer_a_function_and_an_oracle(name):
    for place in ("src/normwise/layers", "src/normwise/functional", "tests"):
        modules = [path for path in (ROOT / place).rglob("*.py") if path.name != "guidance.py"]  # it only names them
        found = any(re.search(rf"\b{name}\b", path.read_text()) for path in modules)
        assert found != ((place, name) in _BY_ANOTHER_NAME), f"no module of {place} names it"


@pytest.mark.parametrize("name", [name for name in NORMALIZERS if name != "none"])
def test_a_row_is_in_the_documentation(name):
    title = NORMALIZERS[name].title
    for page in ("normalizers", "conformance", "tools"):
        assert f"`{name}`" in (ROOT / "docs" / f"{page}.md").read_text(), f"docs/{page}.md: make matrix writes it"
    assert title.split()[0] in (ROOT / "docs" / "normalizers.md").read_text()


#: Not timed: without a baseline of torch's or a paper's, or no more than another row with another argument.
UNTIMED = {
    *("none", "sync", "ghost", "tanh", "token-tanh", "erf", "token-erf", "spade"),
    *("adaptive-instance", "conditional-instance", "conditional-batch", "adaptive-layer", "adaptive-rms", "gated-rms"),
    *("ibn", "positional", "token-layer-zero", "token-rms-zero"),
}


@pytest.mark.parametrize("name", NORMALIZERS)
def test_a_row_is_timed(name):
    assert (name in SUBJECTS) != (name in UNTIMED)
    if name in SUBJECTS:
        floor = bytes_model.floor_bytes(
            name, (2, 8, 4, 4), 4, last=False, direction="both", residual=False, device="cpu"
        )
        assert floor > 0


#: Of a layer with a condition beside x no statistics can be foretold.
UNFORETOLD = {
    *("none", "spade", "adaptive-instance", "conditional-instance", "conditional-batch"),
    *("adaptive-layer", "adaptive-rms", "gated-rms"),
}


@pytest.mark.parametrize("name", NORMALIZERS)
def test_the_signal_behind_a_row_is_foretold(name):
    for cls in NORMALIZERS[name].layers.values():
        assert (cls in RULES) != (name in UNFORETOLD), "a rule of the class it derives from would be taken"


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_in_every_table(name):
    assert name in activations.MODULES
    header = (KERNELS / "activations.hpp").read_text()
    symbol = re.search(rf'X\((k\w+), "{name}"\)', header)
    assert symbol is not None, "the kernels in C++ do not list it"
    for function in ("any_value", "any_slope"):
        body = re.split(r"\n}\n", header.partition(f" {function}(int act, V z) {{")[2])[0]
        assert f"case {symbol[1]}:" in body, f"{function} would take it for the identity"
    triton = (SOURCES / "backends" / "triton_kernels" / "code" / "activations.py").read_text()
    for function in ("activate", "slope"):
        body = triton.partition(f"def {function}(")[2].partition("\n@triton.jit")[0]
        assert f'NAME == "{name}"' in body, f"Triton's {function} does not know it"


def test_the_oracle_in_c_has_as_many_activations():
    text = (ROOT / "tests" / "abi" / "scalar.hpp").read_text()
    body = text.partition("inline Point activation(int number, double z) {")[2].partition("\n}\n")[0]
    assert [int(number) for number in re.findall(r"case (\d+):", body)] == list(range(1, len(ACTIVATIONS) + 1))


BACKENDS = {cpu: None, triton_kernels: {"Backend", "Fused", "Rows"}, reference: {"Backend", "Responses"}}
PROTOCOLS = (
    "Backend",
    "Fused",
    "Rows",
    "BoundRows",
    "RowsOfSums",
    "ModulatedRows",
    "Responses",
    "Formulas",
    "Remembering",
    "Squashing",
)


def test_every_protocol_is_looked_at():
    """What a backend can do besides; `Standardization` and `DenseRows` are what functions of it give."""
    found = {name for name, cls in vars(protocols).items() if getattr(cls, "_is_protocol", False)}
    assert found - {"Protocol", "Standardization", "DenseRows"} == set(PROTOCOLS)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
def test_a_backend_has_all_of_a_protocol_or_nothing(backend, protocol):
    """One function left out, and `offering` would silently take the rest away, too."""
    found = vars(getattr(protocols, protocol))
    methods = {n: m for n, m in found.items() if inspect.isfunction(m) and not n.startswith("_")}
    offered = BACKENDS[backend] is None or protocol in BACKENDS[backend]
    assert {name for name in methods if hasattr(backend, name)} == (set(methods) if offered else set())
    for name, method in methods.items() if offered else ():
        wanted = list(inspect.signature(method).parameters)[1:]
        assert list(inspect.signature(getattr(backend, name)).parameters) == wanted, name


def _declared():
    """The functions of the library, and what each takes: as `_PARAMETERS` writes it."""
    text = (KERNELS / "kernels.cpp").read_text()
    kinds = {"int": "i", "int64_t": "n", "double": "d"}
    for name, parameters in re.findall(r"^NW_PUBLIC\((nw_\w+)\)\(((?:[^()]|\([^()]*\))*)\) \{", text, re.MULTILINE):
        parts = (part.strip() for part in re.split(r",(?![^()]*\))", parameters) if part.strip())
        yield (
            name,
            "".join(
                "*" if part.startswith("NW_SPAN") else "p" if "*" in part else kinds[part.split()[0]] for part in parts
            ),
        )


def test_python_knows_the_functions_of_the_library():
    """A parameter more or less, or of another type, and a kernel would read what is none."""
    expected = {name: "".join(p[0] for p in parameters.split()) for name, parameters in _PARAMETERS.items()}
    assert dict(_declared()) == expected


#: What the names in CONTRIBUTING begin at: `core/formulas` is a module of the package, `cases.py` one of the suite.
_BEGINNINGS = (
    *(ROOT, ROOT / "docs", ROOT / "tests" / "conformance", ROOT / "tests" / "explanation"),
    *(SOURCES.parent, SOURCES, SOURCES / "backends", SOURCES / "explanation", KERNELS),
)


def _named_in_contributing():
    """Everything in it that has the form of a path; `<family>` stands for any."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    found = re.findall(r"`([\w/*<>-]+/[\w/*<>.-]*|[\w*<>]+\.(?:py|md|[ch]pp))`", text)
    return {re.sub(r"<\w+>", "*", name).rstrip("/") for name in found}


def test_what_contributing_names_is_there():
    named = _named_in_contributing()
    assert len(named) > 40
    ends = ("", ".py")
    assert {n for n in named if not any([*b.glob(n + end)] for b in _BEGINNINGS for end in ends)} == set()


def test_contributing_says_where_every_test_is():
    """A folder of tests has the name of a package, or stands in the map; so does a file beside the folders."""
    named = {place for name in _named_in_contributing() for place in ROOT.glob(name)}
    packages = {path.name for path in SOURCES.iterdir() if path.is_dir()}
    tests = {p for p in (ROOT / "tests").iterdir() if p.is_dir() and any(p.glob("test_*.py"))}
    assert {p.name for p in tests if p.name not in packages and p not in named} == set()
    assert {p.name for p in (ROOT / "tests").glob("test_*.py") if p not in named} == set()
