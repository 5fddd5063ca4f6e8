"""The machine and the software versions of a result."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

PROCESSOR_FILE = Path("/proc/cpuinfo")


def versions() -> dict[str, str]:
    """Versions of normwise, torch, NumPy and Python."""
    return {
        "normwise": metadata.version("normwise"),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def machine(device: str) -> dict[str, str]:
    """Processor, operating system, device, and the GPU where one is used."""
    about = {
        "processor": _processor(),
        "system": platform.platform(),
        "device": device,
    }
    if torch.device(device).type == "cuda":
        about["gpu"] = torch.cuda.get_device_name(device)
    return about


def _processor() -> str:
    if PROCESSOR_FILE.exists():
        for line in PROCESSOR_FILE.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
