"""Tools that change models people already have."""

from .adapting import Adapted as Adapted
from .adapting import adapt as adapt
from .fold import Folded as Folded
from .fold import FoldRow as FoldRow
from .fold import fold as fold
from .foreign import Foreign as Foreign
from .foreign import load_foreign as load_foreign
from .freezing import freeze as freeze
from .freezing import unfreeze as unfreeze
from .recalibrated import Recalibrated as Recalibrated
from .recalibrating import recalibrate as recalibrate
from .swapping import Swap as Swap
from .swapping import swap as swap
from .tiling import tiles as tiles
from .unsync import unsync as unsync
