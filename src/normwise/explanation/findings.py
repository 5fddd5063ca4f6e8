"""The measurements of a layer, a formula or a function, and the properties that follow from them, as data."""

from __future__ import annotations

import inspect
import json
import textwrap
from typing import Any

import torch
from torch import Tensor, nn

from ..core import formulas
from ..layers import Normalizer
from ..layers.running_layer import RunningLayer
from .cost import cost
from .measuring import Measured
from .output import Output
from .pools import Pool, pools, properties
from .subject import Subject


class Findings:
    """The results of `explain` without pictures; `Explanation` describes the attributes."""

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
        """The number of groups of values that share all their statistics."""
        return int(self.cube.max()) + 1

    def reads(self, *place: int) -> Tensor:
        """The values that enter the statistics of the value at ``place``, boolean, of x's shape.

        All false if it depends on no other value. Raises IndexError for a place outside of x.
        """
        shape = tuple(self.cube.shape)
        if len(place) != len(shape) or not all(-s <= p < s for p, s in zip(place, shape, strict=True)):
            raise IndexError(f"reads({', '.join(map(str, place))}): x has the shape {list(shape)}.")
        inside = [p % s for p, s in zip(place, shape, strict=True)]
        number = int(torch.arange(self.cube.numel()).reshape(shape)[tuple(inside)])
        return self._reads[number].reshape(shape)

    def to_dict(self) -> dict[str, Any]:
        """The results as numbers and text: the content of ``normwise explain --json``.

        ``reads`` lists each different set of values once, by their indices in the flattened x; ``reads_of`` has for
        every value the index of its set, -1 for none.
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


def _source(subject: Subject, row: Normalizer | None) -> str | None:
    """The code of the formula: the user's, or that of a row of `NORMALIZERS`."""
    found = subject.what if subject.is_formula else getattr(formulas, row.formula, None) if row is not None else None
    try:
        return textwrap.dedent(inspect.getsource(getattr(found, "func", found))) if found is not None else None
    except (OSError, TypeError):
        return None
