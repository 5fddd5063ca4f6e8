"""Normalization for PyTorch: choose it by measurement, use it right, see it, change it, do without it."""

import typing as _typing

from . import integrations as _integrations  # noqa: F401  # registers the layers with other tools

if _typing.TYPE_CHECKING:
    from . import comparison as comparison
    from . import explanation as explanation
    from . import signal as signal
    from . import style as style
    from . import surgery as surgery
    from ._public import *  # noqa: F403
    from .comparison import compare as compare
    from .explanation import Explanation as Explanation
    from .explanation import explain as explain
    from .machine_summary import machine_report as machine_report
    from .signal import Figure as Figure
    from .signal import Finding as Finding
    from .signal import Findings as Findings
    from .signal import Histogram as Histogram
    from .signal import Tap as Tap
    from .signal import Trace as Trace
    from .signal import assert_signal as assert_signal
    from .signal import diagnose as diagnose
    from .signal import plot as plot
    from .signal import plot_histograms as plot_histograms
    from .signal import predict as predict
    from .signal import trace as trace
    from .signal import watch as watch
    from .style import stylize as stylize
    from .surgery import Folded as Folded
    from .surgery import FoldRow as FoldRow
    from .surgery import adapt as adapt
    from .surgery import doctor as doctor
    from .surgery import fold as fold
    from .surgery import freeze as freeze
    from .surgery import load_foreign as load_foreign
    from .surgery import normalizer_free as normalizer_free
    from .surgery import recalibrate as recalibrate
    from .surgery import swap as swap
    from .surgery import tiles as tiles
    from .surgery import unfreeze as unfreeze
    from .surgery import unsync as unsync

__version__ = "0.1.0"

# `_public` has all other names; these are imported one by one, since a training script does not need them.
_IN_SIGNAL = (
    *("signal", "Figure", "Finding", "Findings", "Histogram", "Tap", "Trace", "assert_signal", "diagnose"),
    *("plot", "plot_histograms", "predict", "trace", "watch"),
)
_IN_SURGERY = (
    *("surgery", "Folded", "FoldRow", "adapt", "fold", "freeze", "recalibrate", "swap", "tiles", "unfreeze"),
    *("doctor", "load_foreign", "normalizer_free", "unsync"),
)
_LATER = (
    dict.fromkeys(_IN_SIGNAL, "signal")
    | dict.fromkeys(_IN_SURGERY, "surgery")
    | dict.fromkeys(("comparison", "compare"), "comparison")
    | {"machine_report": "machine_summary"}
    | dict.fromkeys(("style", "stylize"), "style")
    | dict.fromkeys(("explanation", "Explanation", "explain"), "explanation")
)


if not _typing.TYPE_CHECKING:  # otherwise a type checker would accept every misspelt name

    def __getattr__(name: str) -> _typing.Any:
        """Import a name on its first use: importing the package alone, as the command line does, imports no torch."""
        if name in _LATER:
            module = _submodule(_LATER[name])
            globals()[name] = found = module if name == _LATER[name] else getattr(module, name)
            return found
        if name == "__all__":
            return [each for each in __dir__() if not each.startswith("_")]
        if not name.startswith("_"):
            globals().update(_public_names())
            if name in globals():
                return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _submodule(name: str) -> _typing.Any:
    """Import a submodule by the import statement's own function, since torch.package does not know `importlib`."""
    return __import__(name, globals(), None, ("__name__",), 1)


def _public_names() -> dict[str, _typing.Any]:
    return {name: value for name, value in vars(_submodule("_public")).items() if not name.startswith("_")}


def __dir__() -> list[str]:
    return sorted(globals().keys() | _LATER.keys() | _public_names().keys())
