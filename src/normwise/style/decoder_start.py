"""Initial weights of a decoder by least squares instead of random numbers.

Each convolution of the decoder should return the input of the mirrored convolution of the encoder. That is a linear
regression for each layer, solved one after the other on the output of the layers before. It takes seconds; gradient
descent takes hundreds of steps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..nets.style import AdaptiveStyleNet

#: The ridge, as a share of the mean of the diagonal: it keeps weights small if maps are linearly dependent.
RIDGE = 1e-3
#: A sigmoid never equals black or white, so targets are kept at this distance.
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
    """The input of each convolution of the encoder, in units of its root mean square, and the encoder's output.

    The first input is the picture, as the argument of the decoder's final sigmoid.
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
