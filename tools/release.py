"""Build all files of a release, and try them: python tools/release.py --out dist

First it checks that nothing is uncommitted and that the CHANGELOG has a section for the version. Then it builds the
source distribution, a wheel from it, and everything that tools/build_wheel.py builds and tries. Nothing is uploaded.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import build_wheel

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="where everything goes")
    out = parser.parse_args().out
    found = obstacles(ROOT)
    if found:
        raise SystemExit("This cannot be released:\n" + "\n".join(f"  {line}" for line in found))
    source = source_distribution(out)
    platform_wheel, pure_wheel = build_wheel.build_all(out)
    same_files(source, pure_wheel)
    build_wheel.try_all(platform_wheel, pure_wheel)
    print("To be published:", *sorted(path.name for path in out.iterdir()), sep="\n  ")


def obstacles(root: Path) -> list[str]:
    """One sentence for each reason not to release."""
    version = re.findall(r'^version = "(.+)"$', (root / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[0]
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    found = []
    if not re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE):
        found.append(f"CHANGELOG.md has no section '## [{version}] - YYYY-MM-DD'; give [Unreleased] that name.")
    state = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=True)
    if state.stdout:
        found.append(f"Files that are not committed: {len(state.stdout.splitlines())}; git status shows them.")
    return found


def source_distribution(out: Path) -> Path:
    """The archive of the sources, built by the project's back end in an isolated environment."""
    with tempfile.TemporaryDirectory() as home:
        python = str(Path(home) / "bin" / "python")
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "hatchling"], check=True)
        command = [python, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(out.resolve())]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    (archive,) = out.glob("*.tar.gz")
    return archive


def same_files(source: Path, wheel: Path) -> None:
    """Check that a wheel built from the archive has the same files as the one built from the checkout."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, str(source)]
        subprocess.run(command, check=True)
        (again,) = Path(folder).glob("*.whl")
        names, expected = (set(zipfile.ZipFile(path).namelist()) for path in (again, wheel))
    if names != expected:
        raise SystemExit(
            f"The source distribution lacks {sorted(expected - names)}, has besides {sorted(names - expected)}."
        )
    print(f"{source.name}: a wheel from it has the same {len(names)} files")


if __name__ == "__main__":
    main()
