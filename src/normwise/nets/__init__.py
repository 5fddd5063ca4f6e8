"""Networks whose normalizer is one argument, and networks without one."""

from .residual import SkipGain as SkipGain
from .residual import StochasticDepth as StochasticDepth
from .resnet import ResNet as ResNet
from .resnet import resnet as resnet
