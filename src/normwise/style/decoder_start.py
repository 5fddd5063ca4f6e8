"""Where the training of a decoder starts: at least squares instead of random weights.

Each convolution of the decoder is to give back what the mirrored convolution of the encoder was given. That is a linear
regression for each layer, solved one after the other on the output of those before: seconds, where gradient descent
takes hundreds of steps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..nets.style import AdaptiveStyleNet

#: Of the mean of the diagonal: keeps weights small where maps say the same.
RIDGE = 1e-3
#: A sigmoid reaches neither black nor white.
MARGIN = 0.02


@torch.no_grad()
def start_decoder(net: AdaptiveStyleNet, crops: Tensor) -> None:
    """Calibrate the decoder and fit its convolutions on crops ``[N, 3, H, W]``."""
    net.calibrate(crops)
    targets, maps = _inputs_of_convolutions(net, crops)
    for layer in net.decoder:
        if isinstance(layer, nn.Conv2d):
            _fit(layer, maps, targets.pop())
        maps = layer(maps)


def _inputs_of_convolutions(net: AdaptiveStyleNet, crops: Tensor) -> tuple[list[Tensor], Tensor]:
    """What each convolution of the encoder is given, in units of its root mean square, and the encoder's output.

    The first is given the picture, which the decoder's sigmoid has to come to.
    """
    inputs, x = [], crops
    for layer in net.encoder:
        if isinstance(layer, nn.Conv2d):
            inputs.append(x / x.square().mean().sqrt())
        x = layer(x)
    inputs[0] = torch.logit(crops, eps=MARGIN)
    return inputs, x


def _fit(conv: nn.Conv2d, x: Tensor, target: Tensor) -> None:
    """The ridge regression of ``target`` on the neighbourhoods of ``x``, picture by picture to bound the memory."""
    around = conv.padding[0]
    assert isinstance(around, int)
    products = together = torch.zeros(())
    for one, wanted in zip(x, target, strict=True):
        near = F.unfold(F.pad(one.unsqueeze(0), (around,) * 4, mode="reflect"), conv.kernel_size)[0]
        near = torch.cat([near, torch.ones_like(near[:1])])
        products = products + near @ near.T
        together = together + near @ wanted.flatten(1).T
    ridge = RIDGE * products.diagonal().mean() * torch.eye(len(products))
    found = torch.linalg.solve((products + ridge).double(), together.double()).float()
    conv.weight.copy_(found[:-1].T.reshape(conv.weight.shape))
    assert conv.bias is not None
    conv.bias.copy_(found[-1])
