"""Tools that change existing models."""

from .adapting import Adapted as Adapted
from .adapting import adapt as adapt
from .doctor import doctor as doctor
from .fold import Folded as Folded
from .fold import FoldRow as FoldRow
from .fold import fold as fold
from .foreign import Foreign as Foreign
from .foreign import load_foreign as load_foreign
from .freezing import freeze as freeze
from .freezing import unfreeze as unfreeze
from .normalizer_free import normalizer_free as normalizer_free
from .recalibrated import Recalibrated as Recalibrated
from .recalibrating import recalibrate as recalibrate
from .swapping import Swap as Swap
from .swapping import swap as swap
from .tiling import tiles as tiles
from .unnormalized.records import FreedBlock as FreedBlock
from .unnormalized.records import NormalizerFree as NormalizerFree
from .unsync import unsync as unsync
