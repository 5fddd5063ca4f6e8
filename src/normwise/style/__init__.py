"""Style transfer: paint a photograph in the style of a painting, by optimization or by a trained net."""

from .contrast import contrast as contrast
from .entry import stylize as stylize
from .entry import train as train
from .feature_sources import find_features as find_features
from .features import Features as Features
from .optimizing import Painting as Painting
from .painting import net_for as net_for
from .painting import paint as paint
from .pictures import read_picture as read_picture
from .pictures import write_picture as write_picture
from .style_file import Style as Style
from .style_file import load_style as load_style
from .style_file import save_style as save_style
from .training import Step as Step
