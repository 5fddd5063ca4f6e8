"""Networks whose normalizer is one argument."""

from .resnet import ResNet as ResNet
from .resnet import resnet as resnet
