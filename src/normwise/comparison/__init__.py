"""`normwise.compare`: the same model trained with each normalizer, measured and compared."""

from .entry import compare as compare
from .events import EpochFinished as EpochFinished
from .events import Event as Event
from .events import RateTried as RateTried
from .events import RunFinished as RunFinished
from .events import RunSkipped as RunSkipped
from .events import RunStarted as RunStarted
from .events import SweepStarted as SweepStarted
from .experiments.run import TrainingRun as TrainingRun
from .settings import InputError as InputError
from .settings import Run as Run
from .settings import Settings as Settings
from .verdicts.summary import Summary as Summary
from .verdicts.summary import summarize as summarize
from .verdicts.summary import to_csv as to_csv
