"""Signal propagation plots: the figure over depth, and histograms of activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from .pictures import histograms, propagation
from .pictures.page import page
from .pictures.png import render
from .pictures.shapes import Panel
from .pictures.sheet import sheet
from .pictures.svg import document
from .records import Trace

COLUMNS = 3


class Figure:
    """Panels that can be written as HTML, SVG and PNG; a notebook displays them directly."""

    def __init__(
        self, title: str, lead: str, traces: Mapping[str, Trace], panels: Sequence[Panel], *, predicted: bool = False
    ) -> None:
        self.title, self.lead, self.traces, self.panels = title, lead, dict(traces), tuple(panels)
        self._predicted = predicted

    def save(self, path: str | Path, *, columns: int = COLUMNS) -> Path:
        """Write the picture in the format of the ending of `path`: .html, .svg or .png.

        ``columns`` is the number of panels side by side in an SVG or PNG; HTML adapts to the width of the window. PNG
        needs Pillow; no format needs a browser or a network. Raises ValueError for other endings.
        """
        path = Path(path)
        if path.suffix == ".html":
            path.write_text(self.html(), encoding="utf-8")
        elif path.suffix == ".svg":
            path.write_text(self.svg(columns=columns), encoding="utf-8")
        elif path.suffix == ".png":
            path.write_bytes(self.png(columns=columns))
        else:
            raise ValueError(f"{path.name}: the ending must be .html, .svg or .png; write signal.html, for example.")
        return path

    def html(self, command: str | None = None) -> str:
        """A page with pictures and numbers; ``command`` is the command line that repeats it."""
        return page(self.title, self.lead, self.traces, self.panels, predicted=self._predicted, command=command)

    def svg(self, *, columns: int = COLUMNS) -> str:
        """One picture as SVG text."""
        width, height, shapes = self._sheet(columns)
        return document(width, height, shapes, " ".join(panel.alt for panel in self.panels))

    def png(self, *, columns: int = COLUMNS) -> bytes:
        """One picture as a PNG file, two pixels per unit of the SVG."""
        return render(*self._sheet(columns))

    def _sheet(self, columns: int):
        return sheet(self.title, list(self.traces), self.panels, predicted=self._predicted, columns=columns)

    def _repr_svg_(self) -> str:
        return self.svg()


def plot(
    traces: Trace | Mapping[str, Trace],
    predicted: Trace | Mapping[str, Trace] | None = None,
    title: str = "Signal propagation",
) -> Figure:
    """The paper's figure: squared mean, variance and branch variance over the residual blocks.

    Args:
        traces: the trace of one model, or of several by name in the same panels. If no model has residual blocks, the
            panels are over the layers.
        predicted: the result of `predict`, for one model or by the same names; shown as dashed lines.
        title: above the picture.

    A panel is linear from 0, or logarithmic if its values span more than a factor of 30; a logarithmic axis of squared
    means ends at 0.1, and smaller values are hollow marks at its lower end.

    Raises ValueError if there is no trace, or if a prediction has a name that no trace has.

    Source: Brock, De and Smith 2021, arXiv:2101.08692, figures 1 to 3.

    >>> import normwise as nw
    >>> from normwise.signal import trace, predict, plot
    >>> net = nw.nets.resnet(8, preactivation=True)
    >>> figure = plot(trace(net, (8, 3, 16, 16)), predict(net, (8, 3, 16, 16)))
    >>> [panel.title for panel in figure.panels][:2]
    ['Average channel squared mean', 'Average channel variance']
    """
    named, theory = _named(traces), {} if predicted is None else _named(predicted)
    if isinstance(traces, Trace) and isinstance(predicted, Trace):
        theory = dict(zip(named, theory.values(), strict=True))
    if not named or not any(trace.taps for trace in named.values()):
        raise ValueError("plot: there is no trace to draw; pass the result of normwise.trace.")
    unknown = theory.keys() - named.keys()
    if unknown:
        raise ValueError(f"plot: there is a prediction for {min(unknown)!r}; the traces are {', '.join(named)}.")
    inputs = dict.fromkeys(trace.input for trace in named.values() if trace.input)
    lead = f"Measured on: {'; '.join(inputs)}." if inputs else ""
    return Figure(title, lead, named, propagation.panels(named, theory), predicted=bool(theory))


def plot_histograms(
    traces: Trace | Mapping[str, Trace], types: Sequence[str] = (), title: str = "Activations layer by layer"
) -> Figure:
    """Histograms of the layers' outputs, one panel per model: how its initialization spreads or collapses a deep net.

    Args:
        traces: made with ``histograms=True``.
        types: only layers of these classes, such as ``["ReLU"]``; by default all, but not more than 12 layers.
        title: above the picture.

    All panels share one axis, which shows 99 % of the values of the widest layer; each row is scaled to its highest
    bin. Raises ValueError if there are no histograms.

    >>> import normwise as nw
    >>> traced = nw.trace(nw.nets.resnet(8), (8, 3, 16, 16), histograms=True)
    >>> [panel.title for panel in plot_histograms(traced, types=["ReLU"]).panels]
    ['ResNet']
    """
    named = _named(traces)
    panels = histograms.panels(named, types)
    if not any(tap.histogram for trace in named.values() for tap in trace.layers if not types or tap.type in types):
        raise ValueError(
            "plot_histograms: the traces have no histograms of such layers; write trace(..., histograms=True)."
        )
    return Figure(title, "One row per layer, the first on top; each is scaled to its highest bin.", named, panels)


def _named(traces: Trace | Mapping[str, Trace]) -> dict[str, Trace]:
    if isinstance(traces, Trace):
        return {traces.model: traces}
    if not isinstance(traces, Mapping) or not all(isinstance(trace, Trace) for trace in traces.values()):
        raise TypeError(f"a plot takes a Trace, or several by name as {{'a name': trace}}, received {traces!r:.60}.")
    return dict(traces)
