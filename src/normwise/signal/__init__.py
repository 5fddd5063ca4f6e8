"""See the signal: what each layer, block and residual branch does to the mean and the variance of its channels."""

from .assertions import assert_signal as assert_signal
from .diagnose import diagnose as diagnose
from .diagnosis.findings import Finding as Finding
from .diagnosis.findings import Findings as Findings
from .plot import Figure as Figure
from .plot import plot as plot
from .plot import plot_histograms as plot_histograms
from .predict import predict as predict
from .records import Histogram as Histogram
from .records import Tap as Tap
from .records import Trace as Trace
from .tracing import trace as trace
from .watching import watch as watch
