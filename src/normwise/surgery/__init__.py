"""Tools that change models people already have."""

from .fold import Folded as Folded
from .fold import FoldRow as FoldRow
from .fold import fold as fold
from .unsync import unsync as unsync
