"""Plotly figures of a comparison: rows in, one `Picture` out."""

from .curves import learning_curves as learning_curves
from .figure import HEIGHT as HEIGHT
from .figure import Picture as Picture
from .overview import against_batch_size as against_batch_size
from .overview import one_by_one as one_by_one
from .pareto import pareto as pareto
from .signal import MOMENTS as MOMENTS
from .signal import TIMES as TIMES
from .signal import signal as signal
from .signal import sites as sites
