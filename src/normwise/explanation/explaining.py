"""`explain`: the measured cube of a layer, a formula or a function, with its properties, cost and source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.arguments import as_mask, length_mask
from .checking import checked, shape_taken
from .drawing import png, svg
from .draws import IN_A_BLOCK, Draws
from .findings import Findings
from .measuring import measure
from .output import output_of
from .page import page
from .samples import row_of
from .subject import Subject, asked, check_x, subject_of
from .terminal import text


class Explanation(Findings):
    """What `explain` measured.

    Attributes:
        name: of the layer, row or formula; ``row`` is its row of `NORMALIZERS`, or None.
        training: whether it was in training mode; None for a formula or a function.
        cube: integers of x's shape. Equal numbers share *all* their statistics; -1: the value depends on no other;
            -2: it is masked out, and no statistic takes it in.
        pools: the different extents of a statistic; see `Pool`.
        properties: the articles' table, from question to answer.
        output: mean, variance and range of a random input and of its output, parameters as they are.
        formula: the source of the formula, where there is one.
    """

    def html(self) -> str:
        """A page that needs nothing beside itself: the cube can be turned."""
        return page({self.name: [self]}, "normwise.explain")

    def svg(self) -> str:
        return svg(self)

    def png(self) -> bytes:
        """Needs Pillow."""
        return png(self)

    def save(self, path: str | Path) -> Path:
        """Write the cube by the ending of ``path``: .html (interactive), .svg or .png; ValueError for others."""
        path = Path(path)
        writers = {".html": self.html, ".svg": self.svg, ".png": self.png}
        if path.suffix not in writers:
            raise ValueError(f"{path.name}: a cube is written as .html, .svg or .png.")
        made = writers[path.suffix]()
        path.write_bytes(made if isinstance(made, bytes) else made.encode())
        return path

    def _repr_svg_(self) -> str:
        return self.svg()

    def __str__(self) -> str:
        return text(self)

    __repr__ = __str__


def explain(
    layer_or_formula: Any,
    x: Tensor | None = None,
    *conditions: Any,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
) -> Explanation:
    """Measure which values share their statistics: the cube of the GroupNorm paper, from the layer's own dependence.

    The layer is asked in fp64 at random values of x's shape, mean and standard deviation: its derivatives, and what
    steps of single values change, tell which values enter the statistics of which; values that are made equal, and are
    moved by all others in the same proportion, share all statistics. So it holds for any layer, formula (a function
    of `Moments`) or function of x, in training or evaluation, as it is. Parameters are moved by a tenth meanwhile, for
    a gate at exactly 0 or 1 hides what is read.

    Args:
        layer_or_formula: a module whose output has x's shape, the name of a row of `NORMALIZERS` such as
            ``"group:2"``, a formula, or a function of x.
        x: a batch, floating, of at most 2,048 values; by default a small one that fits.
        conditions: what ``forward`` or the formula takes after x; by default what fits.
        mask, lengths: handed on; what they leave out is -2 in the cube where no statistic takes it in.

    The layer is given back as it was: mode, buffers, gradients, hooks (which are not called, except those of
    ``torch.nn.utils``) and random numbers.

    Raises TypeError and ValueError (`InputError` where it is about the layer) for an unknown name, an x that is empty,
    too large, without values or not floating, a layer that raises or draws random numbers, and for a whole model.

    Figure 2 of Wu and He 2018, arXiv:1803.08494, draws the cubes of four layers.

    >>> import normwise as nw
    >>> told = explain(nw.GroupNorm(2, 4), torch.randn(2, 4, 1, 3))
    >>> told.cube[:, :, 0, 0]
    tensor([[0, 0, 1, 1],
            [2, 2, 3, 3]])
    >>> told.reads(0, 3, 0, 0).sum((2, 3)), told.properties["Range of a statistic"]
    (tensor([[0, 0, 3, 3],
            [0, 0, 0, 0]]), 'C/G, space')
    """
    subject = layer_or_formula if isinstance(layer_or_formula, Subject) else subject_of(layer_or_formula)
    if x is not None:
        check_x(x, subject.name)
    device = x.device if x is not None else _device(subject)
    keywords = {"mask": mask, "lengths": lengths}
    with asked(subject, device, conditions, keywords) as make:
        shape = tuple(x.shape) if x is not None else shape_taken(subject, make, device)
        function = make(shape)
        draws = Draws(x, shape, device)
        function = checked(subject, function, [draw.x for draw in draws.blocks()[::IN_A_BLOCK]])
        measured = measure(function, draws, _valid(shape, mask, lengths))
    with asked(subject, device, conditions, keywords, away=0.0) as make:
        output = output_of(checked(subject, make(shape), [draws.blocks()[0].x]), shape, device)
    row = subject.row or (row_of(subject.layer) if subject.layer is not None else None)
    return Explanation(subject, measured, output, row)


def _device(subject: Subject) -> torch.device:
    tensors = () if subject.layer is None else (*subject.layer.parameters(), *subject.layer.buffers())
    found = next(iter(tensors), torch.empty(0, device="cpu")).device
    if found.type == "meta":
        raise ValueError(f"{subject.name} is on the device 'meta' and has no values; write .to_empty(device='cpu').")
    return found


def _valid(shape: tuple[int, ...], mask: Tensor | None, lengths: Tensor | None) -> Tensor | None:
    """What counts, of x's shape."""
    if mask is None and lengths is None:
        return None
    x = torch.empty(shape)
    if lengths is not None:
        return length_mask(lengths.cpu(), x).expand(shape)
    mask = mask.cpu()  # type: ignore[union-attr]
    if mask.dim() == len(shape) and mask.shape != (shape[0], 1, *shape[2:]):
        return mask.expand(shape)
    if tuple(mask.shape) == shape[:-1] and tuple(mask.shape) != (shape[0], *shape[2:]):
        return mask.unsqueeze(-1).expand(shape)  # of rows [*, C]
    return as_mask(mask, x).expand(shape)
