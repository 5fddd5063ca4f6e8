"""Fixtures of the tests of operations."""

import pytest

from normwise.operations.formula import recorded
from normwise.operations.ways import by_graph


@pytest.fixture
def runs(monkeypatch):
    """What `recorded_run` gave."""
    given, real = [], by_graph.recorded_run
    monkeypatch.setattr(by_graph, "recorded_run", lambda *a, **k: given.append(real(*a, **k)) or given[-1])
    monkeypatch.setattr(recorded, "_kinds", {})
    return given
