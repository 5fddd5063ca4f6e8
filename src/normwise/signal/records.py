"""The content of a trace: plain numbers, one record per place in the net."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from .names import shortened

Kind = Literal["layer", "block", "branch"]
NUMBERS = ("squared_mean", "variance", "dead_share", "nonfinite", "gradient")


@dataclass(frozen=True)
class Histogram:
    """Counts of values in bins of one width: bin i holds those from ``start + i·width`` up to the next bin's start."""

    start: float
    width: float
    counts: tuple[int, ...]

    @property
    def edges(self) -> tuple[float, ...]:
        """The ``len(counts) + 1`` borders of the bins."""
        return tuple(self.start + i * self.width for i in range(len(self.counts) + 1))


@dataclass(frozen=True)
class Tap:
    r"""The signal at one place: an activation ``x`` with its channels on ``channel_axis``, measured over all batches.

    .. math:: \text{squared\_mean} = \frac1C \sum_c \overline{x_c}^2, \qquad
              \text{variance} = \frac1C \sum_c \overline{(x_c - \overline{x_c})^2}

    The averages are over everything but the channel (all samples of all batches, all positions); the variance is
    **biased**.

    Attributes:
        name: the module's path; ``#2``, ``#3``, ... from the second call (or addition) on, in the order of execution.
        kind: ``"layer"``, the output of a module that calls no other; ``"block"``, the output of a residual addition,
            under the name of the module that adds; ``"branch"``, the end of its residual branch, before gain, scale,
            stochastic depth and addition, under the same name.
        type: the class of the module.
        shape: of one batch (the first).
        dead_share: the share of channels that are constant over the whole input.
        nonfinite: how many values were NaN or inf; all other numbers are of the finite ones (NaN where there are none).
        gradient: mean square of the gradient with respect to this activation, None where there was no backward pass.
        part: ``"attention"`` or ``"mlp"``, of a residual branch and its block; ``"decoder"``, behind the upsampling
            after which no resolution falls again; otherwise empty.
    """

    name: str
    kind: Kind
    type: str
    shape: tuple[int, ...]
    squared_mean: float
    variance: float
    dead_share: float = 0.0
    nonfinite: int = 0
    gradient: float | None = None
    histogram: Histogram | None = None
    channel_axis: int = 1
    part: str = ""


@dataclass(frozen=True)
class Trace:
    """The taps of one model in the order of execution, and how they were measured.

    >>> block = Tap("stage1.0", "block", "Block", (8, 64, 4, 4), 0.01, 2.0)
    >>> trace = Trace("Net", (block,), "Gaussian 8×3×4×4")
    >>> trace.blocks[0].variance, trace.branches
    (2.0, ())
    >>> Trace.from_json(trace.to_json()) == trace
    True
    """

    model: str
    taps: tuple[Tap, ...]
    input: str = ""
    batches: int = 1
    notes: tuple[str, ...] = ()

    @property
    def layers(self) -> tuple[Tap, ...]:
        return self._of("layer")

    @property
    def blocks(self) -> tuple[Tap, ...]:
        return self._of("block")

    @property
    def branches(self) -> tuple[Tap, ...]:
        return self._of("branch")

    def _of(self, kind: Kind) -> tuple[Tap, ...]:
        return tuple(tap for tap in self.taps if tap.kind == kind)

    def table(self, kind: Kind | None = None) -> str:
        """A table of 80 columns: the taps of one kind, or blocks together with the variance of their branches.

        Without a kind and without blocks: the layers. If values are NaN or inf, their number is shown instead of the
        dead share.
        """
        if kind is None and self.blocks:
            return _table(self.blocks, {tap.name: tap.variance for tap in self.branches})
        return _table(self._of(kind or "layer"))

    def __str__(self) -> str:
        heading = f"{self.model}: {len(self.layers)} layers, {len(self.blocks)} blocks"
        source = f"{self.input}{f', {self.batches} batches' if self.batches > 1 else ''}"
        return "\n".join([f"{heading}; {source}" if source else heading, self.table(), *self.notes])

    def to_json(self, path: str | Path | None = None) -> str:
        """The trace as JSON text, also written to ``path``; NaN and infinities are the strings "nan", "inf", "-inf"."""
        text = json.dumps(_encoded(asdict(self)), allow_nan=False, ensure_ascii=False)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    @classmethod
    def from_json(cls, source: str | Path) -> Trace:
        """A trace from the text of `to_json`, or from its file (a `Path`).

        Raises ValueError if the source is not a trace.
        """
        text = source.read_text(encoding="utf-8") if isinstance(source, Path) else source
        try:
            parts = json.loads(text)
            taps = tuple(_tap(entry) for entry in parts.pop("taps"))
            return cls(taps=taps, **{**parts, "notes": tuple(parts.get("notes", ()))})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"Trace.from_json expects what to_json wrote (a text, or the Path of a file): {error}"
            ) from error

    def to_csv(self, path: str | Path) -> None:
        """One line per tap; histograms are left out."""
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(CSV_COLUMNS)
            writer.writerows(csv_row(tap) for tap in self.taps)


CSV_COLUMNS = tuple(field.name for field in fields(Tap) if field.name != "histogram")


def csv_row(tap: Tap) -> list[object]:
    """The cells of a tap under `CSV_COLUMNS`; empty for missing numbers."""
    cells = {name: getattr(tap, name) for name in CSV_COLUMNS}
    cells["shape"] = "×".join(map(str, tap.shape))
    return ["" if cell is None else cell for cell in cells.values()]


def _tap(entry: dict[str, Any]) -> Tap:
    histogram = entry.pop("histogram")
    if histogram is not None:
        histogram = Histogram(histogram["start"], histogram["width"], tuple(histogram["counts"]))
    for name in NUMBERS:
        if isinstance(entry[name], str):
            entry[name] = float(entry[name])
    return Tap(**{**entry, "shape": tuple(entry["shape"])}, histogram=histogram)


def _encoded(value: Any) -> Any:
    """A value for JSON, which has no NaN and no infinities."""
    if isinstance(value, dict):
        return {key: _encoded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encoded(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


NAME_WIDTH = 30


def _table(taps: Iterable[Tap], branches: dict[str, float] | None = None) -> str:
    taps = list(taps)
    with_gradient = any(tap.gradient is not None for tap in taps)
    heads = ["sq. mean", "variance", *(["branch"] if branches is not None else []), "dead"]
    lines = [_line("", heads + (["gradient"] if with_gradient else []))]
    for tap in taps:
        cells = [_number(tap.squared_mean), _number(tap.variance)]
        if branches is not None:
            cells.append(_number(branches.get(tap.name)))
        cells.append(f"{tap.nonfinite} NaN" if tap.nonfinite else f"{tap.dead_share:.1%}" if tap.dead_share else "")
        if with_gradient:
            cells.append(_number(tap.gradient))
        lines.append(_line(tap.name, cells))
    return "\n".join(lines)


def _line(name: str, cells: list[str]) -> str:
    return (f"{shortened(name, NAME_WIDTH):<{NAME_WIDTH}}" + "".join(f"{cell:>10}" for cell in cells)).rstrip()


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
