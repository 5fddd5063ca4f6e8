"""Tools that change models people already have."""

from .freezing import freeze as freeze
from .freezing import unfreeze as unfreeze
from .recalibrating import recalibrate as recalibrate
from .swapping import Swap as Swap
from .swapping import swap as swap
