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
from .subject import Subject, check_x, prepared, subject_of
from .terminal import text


class Explanation(Findings):
    """The results of `explain`.

    Attributes:
        name: the name of the layer, row or formula; ``row`` is its row of `NORMALIZERS`, or None.
        training: whether it was in training mode; None for a formula or a function.
        cube: integers of x's shape. Equal numbers share *all* their statistics; -1: the value depends on no other;
            -2: it is masked out and is in no statistic.
        pools: the different extents of a statistic; see `Pool`.
        properties: the articles' table, from question to answer.
        output: mean, variance and range of a random input and of its output, with the parameters as they are.
        formula: the source of the formula, if there is one.
    """

    def html(self) -> str:
        """A page in one file, on which the cube can be turned."""
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

    The layer is called in fp64 at random values of x's shape, mean and standard deviation. Its derivatives, and the
    effect of steps of single values, show which values enter whose statistics. Two values that are made equal, and
    react to all others in the same proportion, share all their statistics. So the result is right for any layer,
    formula (a function of `Moments`) or function of x, in training or evaluation. For the measurement parameters are
    changed by a tenth, because a gate at exactly 0 or 1 would hide a statistic.

    Args:
        layer_or_formula: a module whose output has x's shape, the name of a row of `NORMALIZERS` such as
            ``"group:2"``, a formula, or a function of x.
        x: a batch, floating, of at most 2,048 values; by default a small one that fits.
        conditions: the further arguments of ``forward`` or the formula; by default suitable ones.
        mask, lengths: passed on; values that they exclude are -2 in the cube if they are in no statistic.

    The layer is not changed: mode, buffers, gradients, hooks (which are not called, except those of
    ``torch.nn.utils``) and random numbers.

    Raises TypeError and ValueError (`InputError` where it is about the layer) for an unknown name, an x that is empty,
    too large, without values or not floating, a layer that raises or draws random numbers, and for a whole model.

    Figure 2 of Wu and He 2018, arXiv:1803.08494, draws the cubes of four layers.

    >>> import normwise as nw
    >>> findings = explain(nw.GroupNorm(2, 4), torch.randn(2, 4, 1, 3))
    >>> findings.cube[:, :, 0, 0]
    tensor([[0, 0, 1, 1],
            [2, 2, 3, 3]])
    >>> findings.reads(0, 3, 0, 0).sum((2, 3)), findings.properties["Range of a statistic"]
    (tensor([[0, 0, 3, 3],
            [0, 0, 0, 0]]), 'C/G, space')
    """
    subject = layer_or_formula if isinstance(layer_or_formula, Subject) else subject_of(layer_or_formula)
    if x is not None:
        check_x(x, subject.name)
    device = x.device if x is not None else _device(subject)
    keywords = {"mask": mask, "lengths": lengths}
    with prepared(subject, device, conditions, keywords) as make:
        shape = tuple(x.shape) if x is not None else shape_taken(subject, make, device)
        function = make(shape)
        draws = Draws(x, shape, device)
        function = checked(subject, function, [draw.x for draw in draws.blocks()[::IN_A_BLOCK]])
        measured = measure(function, draws, _valid(shape, mask, lengths))
    with prepared(subject, device, conditions, keywords, away=0.0) as make:
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
    """The mask of the values that count, of x's shape."""
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
