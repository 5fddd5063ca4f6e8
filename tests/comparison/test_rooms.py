"""The rooms of the comparison: whatever is imported there stands in a lower one."""

import ast
from pathlib import Path

import pytest

import normwise.comparison

FOLDER = Path(normwise.comparison.__file__).parent
PACKAGE = ("normwise", "comparison")
#: From the ground floor up: folders, and modules that stand beside them.
ROOMS = (
    *("metric", "fingerprints", "references", "isolation", "groups", "machine", "tasks", "contestants", "settings"),
    *("storage", "events", "data", "training", "verdicts", "experiments", "request", "sweeping", "report", "terminal"),
    *("entry", "__init__"),
)


def room_of(path):
    """Of a module's parts below the package."""
    return path[0] if path else "__init__"


def imported_rooms(file):
    """The rooms of the comparison that a file imports from, within functions too."""
    home = (*PACKAGE, *file.relative_to(FOLDER).with_suffix("").parts)
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            start = home[: len(home) - node.level] if node.level else ()
            module = (*start, *(node.module or "").split(".")) if node.module else start
            names = [module] if module != PACKAGE else [(*module, alias.name) for alias in node.names]
            yield from (room_of(name[2:]) for name in names if name[:2] == PACKAGE)
        elif isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
            yield from (room_of(name[2:]) for name in names if name[:2] == PACKAGE)


def test_every_room_has_its_place():
    found = {path.stem for path in FOLDER.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert found == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_from_lower_ones_alone(room):
    place = FOLDER / room
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    allowed = {*ROOMS[: ROOMS.index(room)], room}
    assert {
        f"{file.name} imports {other}" for file in files for other in imported_rooms(file) if other not in allowed
    } == set()


def test_an_arrow_that_goes_up_is_seen(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "FOLDER", tmp_path)
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "wrong.py"
    file.write_text(
        "from ..sweeping.jobs import check_jobs\nfrom .. import entry\nimport normwise.comparison.report.page\n"
    )
    assert list(imported_rooms(file)) == ["sweeping", "entry", "report"]
