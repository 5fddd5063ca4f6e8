"""The paper's figure: squared mean, variance and branch variance over depth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import NamedTuple

from ..names import shortened
from ..records import Tap, Trace
from .line_styles import line_style
from .scales import Scale, count_scale, scale_for, written
from .shapes import Marker, Panel, Path, Series, Shape, Text

WIDTH, HEIGHT = 440, 300
LEFT, RIGHT, TOP, BOTTOM = 50, 124, 12, 42
LABEL_LETTERS, LABEL_GAP = 17, 15
MARKERS_SHOWN = 24
PARTS = {"attention": "attention", "mlp": "MLP", "decoder": "decoder"}


class Curve(NamedTuple):
    """One line of a panel: the values of one model, or of a part of it, and the names and numbers of the places.

    style: its colour and marker; label: the shortened name; predicted: the predicted values, if there are any.
    """

    model: int
    style: int
    name: str
    label: str
    places: tuple[str, ...]
    at: tuple[int, ...]
    values: tuple[float, ...]
    predicted: tuple[float, ...] = ()


class Quantity(NamedTuple):
    """A quantity of a panel; `smallest` is the lower end of a logarithmic axis."""

    title: str
    unit: str
    smallest: float = 0.0


# Squared means of 1e-5 and of 1e-2 are both negligible next to a variance of 1.
SQUARED_MEAN = Quantity("Average channel squared mean", "squared mean", 0.1)
VARIANCE = Quantity("Average channel variance", "variance")
BRANCH = Quantity("Variance at the end of the residual branch", "branch variance")


def panels(traces: Mapping[str, Trace], predicted: Mapping[str, Trace]) -> list[Panel]:
    """Three panels over the residual blocks, or two over the layers if no model has blocks."""
    blocks = any(trace.blocks for trace in traces.values())
    places = {name: list(_places(trace, blocks)) for name, trace in traces.items()}
    count = max(len(taps) for taps in places.values())
    axis_title = _axis_title(blocks, [tap for taps in places.values() for tap in taps])
    return [
        _panel(quantity, list(_curves(traces, predicted, quantity, places)), count, axis_title)
        for quantity in (SQUARED_MEAN, VARIANCE, *([BRANCH] if any(t.branches for t in traces.values()) else []))
    ]


def _places(trace: Trace, blocks: bool) -> Iterator[Tap]:
    """The residual blocks, and the stages of a decoder without blocks; or all layers."""
    if not blocks:
        yield from trace.layers
        return
    yield from trace.blocks
    if not any(tap.part == "decoder" for tap in trace.blocks):
        yield from _stages([tap for tap in trace.layers if tap.part == "decoder"])


def _stages(layers: Sequence[Tap]) -> Iterator[Tap]:
    """The last layer of each module; gates with a single position are left out."""
    layers = [tap for tap in layers if math.prod(tap.shape[2:]) > 1]
    for tap, after in zip_longest(layers, layers[1:]):
        parent, _, _ = tap.name.rpartition(".")
        if after is None or not parent or after.name.rpartition(".")[0] != parent:
            yield tap


def _axis_title(blocks: bool, places: Sequence[Tap]) -> str:
    if not blocks:
        return "layer"
    return "residual block" + (", then stage of the decoder" if any(tap.kind == "layer" for tap in places) else "")


def _curves(
    traces: Mapping[str, Trace],
    predicted: Mapping[str, Trace],
    quantity: Quantity,
    places: Mapping[str, Sequence[Tap]],
) -> Iterator[Curve]:
    """A line for each part of each model."""
    for model, (name, trace) in enumerate(traces.items()):
        parts = _parts_of(places[name], quantity)
        for i, (part, at) in enumerate(parts.items()):
            taps = [places[name][place] for place in at]
            theory = predicted.get(name)
            yield Curve(
                model,
                model + i * len(traces),
                *_named("" if len(traces) == 1 and part else name, PARTS.get(part, "")),
                tuple(tap.name for tap in taps),
                tuple(place + 1 for place in at),
                _values(trace, taps, quantity),
                _values(theory, taps, quantity) if theory else (),
            )


def _named(model: str, part: str) -> tuple[str, str]:
    """The name of a line, and its shortened form for the end of the line, in which the part is not shortened."""
    left = LABEL_LETTERS - len(part) - 1 if part else LABEL_LETTERS
    return f"{model} {part}".strip(), f"{shortened(model, left)} {part}".strip()


def _parts_of(places: Sequence[Tap], quantity: Quantity) -> dict[str, list[int]]:
    """The places of each line: one line for the signal, separate lines for the branches of attention and MLP."""
    separate = ("attention", "mlp", "decoder") if any(tap.part == "attention" for tap in places) else ("decoder",)
    found: dict[str, list[int]] = {}
    for place, tap in enumerate(places):
        part = tap.part if tap.part in (separate if quantity is BRANCH else ("decoder",)) else ""
        if quantity is not BRANCH or tap.kind == "block":
            found.setdefault(part, []).append(place)
    return found


def _values(trace: Trace, places: Sequence[Tap], quantity: Quantity) -> tuple[float, ...]:
    found = {(tap.kind, tap.name): tap for tap in trace.taps}
    field = "squared_mean" if quantity is SQUARED_MEAN else "variance"
    wanted = [found.get(("branch" if quantity is BRANCH else tap.kind, tap.name)) for tap in places]
    return tuple(math.nan if tap is None else getattr(tap, field) for tap in wanted)


def _panel(quantity: Quantity, curves: Sequence[Curve], count: int, axis_title: str) -> Panel:
    x = count_scale(count, LEFT, WIDTH - RIGHT)
    y = scale_for(
        [v for curve in curves for v in (*curve.values, *curve.predicted)], HEIGHT - BOTTOM, TOP, quantity.smallest
    )
    shapes: list[Shape] = [*_axes(x, y, count, axis_title), *(_series(curve, quantity, x, y) for curve in curves)]
    return Panel(WIDTH, HEIGHT, quantity.title, _in_words(quantity, curves), (*shapes, *_labels(curves, x, y)))


def _axes(x: Scale, y: Scale, count: int, axis_title: str) -> Iterator[Shape]:
    for value, text in y.ticks():
        yield Path(((x.start, y(value)), (x.end, y(value))), "grid")
        yield Text(x.start - 6, y(value), text, anchor="end")
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if count / s <= 9)
    for place in range(step if step > 1 else 1, count + 1, step):
        yield Text(x(place), y.start + 14, str(place), anchor="middle")
    yield Path(((x.start, y.start), (x.end, y.start)), "quiet")
    yield Text((x.start + x.end) / 2, y.start + 32, axis_title, anchor="middle")


def _series(curve: Curve, quantity: Quantity, x: Scale, y: Scale) -> Series:
    color, marker = line_style(curve.style)
    lines = [Path(tuple(part), color, 2.0) for part in _parts(curve.at, curve.values, x, y)]
    theory = [Path(tuple(part), "ink", 1.5, dashed=True) for part in _parts(curve.at, curve.predicted, x, y)]
    every = math.ceil(len(curve.values) / MARKERS_SHOWN)
    markers = [
        Marker(x(curve.at[i]), y(v), marker, color, _title(curve, quantity, i), hollow=not y.shows(v))
        for i, v in enumerate(curve.values)
        if math.isfinite(v) and (i % every == 0 or i == len(curve.values) - 1)
    ]
    return Series(curve.model, (*lines, *markers, *theory))


def _parts(at: Sequence[int], values: Sequence[float], x: Scale, y: Scale) -> Iterator[list[tuple[float, float]]]:
    """Lines through the finite values."""
    part: list[tuple[float, float]] = []
    for place, value in zip(at, values, strict=False):
        if math.isfinite(value):
            part.append((x(place), y(value)))
        elif part:
            yield part
            part = []
    if part:
        yield part


def _title(curve: Curve, quantity: Quantity, i: int) -> str:
    text = f"{curve.name}, {curve.places[i]}: {quantity.unit} {curve.values[i]:.4g}"
    return f"{text}, predicted {curve.predicted[i]:.4g}" if curve.predicted else text


def _labels(curves: Sequence[Curve], x: Scale, y: Scale) -> Iterator[Shape]:
    """The models' names at the ends of their lines, moved apart so that they do not overlap."""
    ends = [(curve, _last(curve)) for curve in curves]
    wanted = sorted(((y(last[1]), curve, last) for curve, last in ends if last), key=lambda entry: entry[0])
    places = spread([at for at, _, _ in wanted], LABEL_GAP, y.end, y.start)
    for place, (at, curve, (i, _)) in zip(places, wanted, strict=True):
        color = line_style(curve.style).color
        name = Text(x.end + 6, place, curve.label, color, size=12, whole=curve.name)
        tie = Path(((x(curve.at[i]) + 4, at), (x.end + 3, place)), color, 0.75)
        yield Series(curve.model, (tie, name))


def _last(curve: Curve) -> tuple[int, float] | None:
    return next(((i, v) for i, v in reversed(list(enumerate(curve.values))) if math.isfinite(v)), None)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Sorted positions at least `gap` apart, near the wanted ones, between `low` and `high` if there is room.

    >>> spread([10, 11, 50], 10, 0, 100)
    [10, 20, 50]
    >>> spread([95, 96], 10, 0, 100)
    [90, 100]
    """
    places: list[float] = []
    for at in wanted:
        places.append(max(at, places[-1] + gap) if places else max(at, low))
    excess = places[-1] - high if places else 0
    limit = high
    for i in range(len(places) - 1, -1, -1):
        if excess <= 0:
            break
        places[i] = min(places[i], limit)
        limit = places[i] - gap
    return places


def _in_words(quantity: Quantity, curves: Sequence[Curve]) -> str:
    parts = []
    for curve in curves:
        finite = [v for v in curve.values if math.isfinite(v)]
        if finite:
            parts.append(f"{curve.name} from {written_short(finite[0])} to {written_short(finite[-1])}")
    return f"{quantity.title}, first to last: {'; '.join(parts) or 'no finite value'}."


def written_short(value: float) -> str:
    return written(float(f"{value:.3g}"))
