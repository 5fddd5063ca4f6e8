"""Tools that change models people already have."""

from .freezing import freeze as freeze
from .freezing import unfreeze as unfreeze
from .recalibrate import recalibrate as recalibrate
