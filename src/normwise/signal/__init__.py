"""Measure and predict the signal: mean and variance of the channels after each layer, block and residual branch."""

from .assertions import assert_signal as assert_signal
from .diagnosing import diagnose as diagnose
from .diagnosis.findings import Finding as Finding
from .diagnosis.findings import Findings as Findings
from .plotting import Figure as Figure
from .plotting import plot as plot
from .plotting import plot_histograms as plot_histograms
from .predicting import predict as predict
from .records import Histogram as Histogram
from .records import Tap as Tap
from .records import Trace as Trace
from .tracing import trace as trace
from .watching import watch as watch
