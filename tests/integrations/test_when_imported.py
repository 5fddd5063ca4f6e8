"""Something to do once somebody imports a module."""

import importlib.util
import sys
from importlib.machinery import SourceFileLoader

import pytest

from normwise.integrations.when_imported import when_imported


@pytest.fixture
def later(tmp_path, monkeypatch):
    """The name of a module that nobody has imported."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    (tmp_path / "imported_later.py").write_text("value = 1\n")
    yield "imported_later"
    sys.modules.pop("imported_later", None)


def test_right_after_the_first_import(later):
    seen, finders = [], len(sys.meta_path)
    when_imported(later, lambda module: seen.append(module.value))
    assert seen == []
    module = importlib.import_module(later)
    assert seen == [1]
    assert len(sys.meta_path) == finders
    importlib.reload(module)
    when_imported(later, lambda module: seen.append(module))
    assert seen == [1, module]
    assert isinstance(module.__loader__, SourceFileLoader)  # as without us
    assert module.__spec__.loader is module.__loader__


def test_after_somebody_looked_whether_it_is_there(later):
    seen = []
    when_imported(later, seen.append)
    for _ in range(2):
        assert importlib.util.find_spec(later) is not None
    module = importlib.import_module(later)
    assert seen == [module]


def test_after_an_import_that_failed(later, tmp_path):
    seen = []
    when_imported(later, seen.append)
    (tmp_path / f"{later}.py").write_text("raise ImportError('not yet')\n")
    with pytest.raises(ImportError, match="not yet"):
        importlib.import_module(later)
    assert seen == []
    (tmp_path / f"{later}.py").write_text("value = 'is there by now'\n")
    importlib.invalidate_caches()
    assert seen == [importlib.import_module(later)]
