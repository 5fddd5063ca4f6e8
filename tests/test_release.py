"""`make release` stops before it builds anything that cannot be released."""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
from release import obstacles


@pytest.fixture
def project(tmp_path):
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "1.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## [1.2.0] - 2026-11-30\n")
    for command in ("init -q", "add .", "-c user.name=a -c user.email=a@b commit -q -m first"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    return tmp_path


def test_a_finished_project(project):
    assert obstacles(project) == []


def test_no_section_for_the_version(project):
    (project / "CHANGELOG.md").write_text("# Changelog\n\n## [Unreleased]\n\n## [1.1.0] - 2026-01-01\n")
    assert obstacles(project) == [
        "CHANGELOG.md has no section '## [1.2.0] - YYYY-MM-DD'; give [Unreleased] that name.",
        "Files that are not committed: 1; git status shows them.",
    ]
