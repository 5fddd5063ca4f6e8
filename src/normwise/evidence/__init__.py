"""Every claim of the source articles, tried: each an experiment, with a rule for its verdict that was fixed before."""

from .catalogue import EXPERIMENTS as EXPERIMENTS
from .experiment import Experiment as Experiment
from .experiment import Verdict as Verdict
from .running import run_experiment as run_experiment
