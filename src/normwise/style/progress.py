"""The files of a running training: a preview, and the state from which it can continue."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from .. import files
from ..errors import InputError
from ..nets.style import AdaptiveStyleNet, StyleNet
from .features import Features
from .photographs import Crops
from .pictures import Picture, read_picture, write_picture
from .plan import Plan
from .sheets import contact_sheet
from .style_file import ANY, MANY, VERSION, load_mapping

FORM = "normwise style training"
SHOWN = 4


def resume_file(out: Path) -> Path:
    """The path of the saved state."""
    return out.with_name(out.name + ".resume")


def preview_file(out: Path) -> Path:
    """The path of the preview."""
    return out.with_name(out.stem + ".preview.png")


class Resume:
    """The file next to a style file from which its training can continue."""

    def __init__(self, out: Path, plan: Plan, features: Features) -> None:
        self.path = resume_file(out)
        self._settings = plan.settings() | {"features": features.description}

    def load(self, net: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Load the saved state; returns the number of finished steps. InputError for a file of another training."""
        if not self.path.exists():
            return 0
        content = load_mapping(self.path, FORM)
        before = content["settings"]
        other = next((name for name, value in self._settings.items() if before.get(name) != value), None)
        if other is not None:
            raise InputError(
                f"{self.path} is of a training with other settings: {other.replace('_', ' ')} was {before.get(other)}, "
                f"now {self._settings[other]}. Write the same command to continue, remove the file to start again, or "
                "choose another --out."
            )
        net.load_state_dict(content["net"])
        optimizer.load_state_dict(content["optimizer"])
        return content["done"]

    def save(self, net: nn.Module, optimizer: torch.optim.Optimizer, done: int) -> None:
        content = {"format": FORM, "version": VERSION, "settings": self._settings, "done": done}
        content |= {"net": net.state_dict(), "optimizer": optimizer.state_dict()}
        with files.replacing(self.path) as temporary:
            torch.save(content, temporary)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


class Painted:
    """The preview: crops of some photographs, and the net's paintings of them."""

    def __init__(self, plan: Plan, net: StyleNet | AdaptiveStyleNet, photos: Crops, out: Path) -> None:
        self._plan, self._net = plan, net
        self._crops = photos(0, SHOWN)
        self.path = preview_file(out)

    def preview(self) -> Path:
        """Write the preview again; returns its path."""
        training = self._net.training
        with torch.no_grad():
            rows = [self._crops, *self._painted(self._net.eval())]
        self._net.train(training)
        pictures = [Picture(crop) for row in rows for crop in row]
        write_picture(self.path, contact_sheet(pictures, columns=len(self._crops), longest=self._plan.size))
        return self.path

    def _painted(self, net: nn.Module) -> list[Tensor]:
        shown = len(self._crops)
        if self._plan.kind == MANY:
            return [net(self._crops, torch.full((shown,), k)) for k in range(min(SHOWN, len(self._plan.styles)))]
        if self._plan.kind == ANY:
            styles = [read_picture(path, self._plan.style_size).pixels for path in self._plan.styles[:SHOWN]]
            return [net(self._crops, style.unsqueeze(0)) for style in styles]
        return [net(self._crops)]
