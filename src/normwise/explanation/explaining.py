"""`explain`: the measured cube of a layer, a formula or a function, with what there is to say of it."""

from __future__ import annotations

import inspect
import json
import textwrap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core import formulas
from ..core.arguments import as_mask, length_mask
from ..layers import Normalizer
from ..layers.running_layer import RunningLayer
from .checking import checked, shape_taken
from .cost import cost
from .draws import IN_A_BLOCK, Draws
from .measuring import Measured, measure
from .output import Output, output_of
from .pools import Pool, pools, properties
from .samples import row_of
from .subject import Subject, asked, check_x, subject_of


class Explanation:
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

    def __init__(self, subject: Subject, measured: Measured, output: Output, row: Normalizer | None) -> None:
        self.name, self.row, self.cube, self.output = subject.name, row, measured.cube, output
        self.training = subject.layer.training if subject.layer is not None else None
        self._reads = measured.reads
        self.rows = isinstance(subject.layer, (nn.LayerNorm, nn.RMSNorm)) if row is None else not row.of_maps
        self.pools: list[Pool] = pools(self.cube, self._reads, self.rows)
        self.properties = properties(self.pools, self.groups)
        self.formula = _source(subject, row)
        by_memory = isinstance(subject.layer, (RunningLayer, nn.modules.batchnorm._NormBase)) and not self.pools
        self.cost = cost(row, remembered=by_memory)

    @property
    def groups(self) -> int:
        """How many groups of values share all their statistics."""
        return int(self.cube.max()) + 1

    def reads(self, *place: int) -> Tensor:
        """The values that enter the statistics of the one at ``place``, boolean, of x's shape.

        All false where that depends on no other. Raises IndexError for a place that is not in x.
        """
        shape = tuple(self.cube.shape)
        if len(place) != len(shape) or not all(-s <= p < s for p, s in zip(place, shape, strict=True)):
            raise IndexError(f"reads({', '.join(map(str, place))}): x has the shape {list(shape)}.")
        inside = [p % s for p, s in zip(place, shape, strict=True)]
        number = int(torch.arange(self.cube.numel()).reshape(shape)[tuple(inside)])
        return self._reads[number].reshape(shape)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain numbers and text: what ``normwise explain --json`` writes.

        ``reads`` lists each different set of values once, by their places in the flattened x; ``reads_of`` has for
        every value which of these it is, -1 for none.
        """
        sets: dict[bytes, int] = {}
        of = []
        listed: list[list[int]] = []
        for row in self._reads:
            places = row.nonzero().flatten().tolist()
            key = row.numpy().tobytes()
            if places and key not in sets:
                sets[key] = len(listed)
                listed.append(places)
            of.append(sets[key] if places else -1)
        row = self.row
        return {
            "name": self.name,
            "title": self.name if row is None else row.title,
            "training": self.training,
            "shape": list(self.cube.shape),
            "cube": self.cube.tolist(),
            "reads": listed,
            "reads_of": torch.tensor(of).reshape(self.cube.shape).tolist(),
            "properties": self.properties,
            "output": self.output._asdict(),
            "formula": self.formula,
            "equation": None if row is None else row.equation,
            "paper": None if row is None else row.paper,
            "when_to_use": None if row is None else row.when_to_use,
            "trap": None if row is None else row.trap,
            "cost": self.cost,
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False)

    def html(self) -> str:
        """A page that needs nothing beside itself: the cube can be turned."""
        from .page import page

        return page({self.name: [self]}, "normwise.explain")

    def svg(self) -> str:
        from .drawing import svg

        return svg(self)

    def png(self) -> bytes:
        """Needs Pillow."""
        from .drawing import png

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
        from .terminal import text

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


def _source(subject: Subject, row: Normalizer | None) -> str | None:
    """The code of the formula: the user's, or that of a row of `NORMALIZERS`."""
    found = subject.what if subject.is_formula else getattr(formulas, row.formula, None) if row is not None else None
    try:
        return textwrap.dedent(inspect.getsource(getattr(found, "func", found))) if found is not None else None
    except (OSError, TypeError):
        return None
