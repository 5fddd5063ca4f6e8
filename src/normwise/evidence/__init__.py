"""Experiments on every claim of the source articles, each with a rule for its verdict that was fixed in advance."""

from .catalogue import EXPERIMENTS as EXPERIMENTS
from .experiment import Experiment as Experiment
from .experiment import Verdict as Verdict
from .running import run_experiment as run_experiment
