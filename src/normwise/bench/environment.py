"""The machine and versions of a bench: the columns that must agree before two rows may be compared."""

from __future__ import annotations

import subprocess
from datetime import datetime, timezone
from pathlib import Path

import torch

from ..backends.allocator import allocator
from ..backends.huge_pages import huge_pages, system_huge_pages
from ..backends.tunings.stored import instructions
from ..comparison.machine import machine, versions

COLUMNS = ("normwise", "commit", "torch", "machine", "instructions", "clock", "backend", "huge_pages", "allocator")
DATE = "date"


def environment(device: torch.device, clock: str, backend: str) -> dict[str, str]:
    """The columns that every row of one run shares."""
    about = machine(str(device))
    number = versions()
    return {
        "normwise": number["normwise"],
        "commit": commit(),
        "torch": number["torch"],
        "machine": about.get("gpu", about["processor"]),
        "instructions": instructions() if device.type == "cpu" else "",
        "clock": clock,
        "backend": backend,
        "huge_pages": f"{'on' if huge_pages() else 'off'}, system: {system_huge_pages() or 'unknown'}",
        "allocator": allocator(),
    }


def today() -> str:
    """The date, UTC."""
    return datetime.now(timezone.utc).date().isoformat()


def commit() -> str:
    """The commit of the running sources, with a + if files have changed since; empty outside of a checkout."""
    folder = Path(__file__).parent
    head, changes = (
        _git(folder, *arguments) for arguments in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "."])
    )
    return head + "+" if changes else head


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
