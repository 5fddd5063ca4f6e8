"""The networks that the paper's figures compare."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from normwise.nets import nf_resnet, resnet


def paper_networks(depth: int = 50) -> dict[str, Callable[[], nn.Module]]:
    """Functions that make the networks of Brock, De and Smith 2021, arXiv:2101.08692, figures 1 to 3, by their names.

    All are pre-activation ResNets of one depth with He's initialization: with BatchNorm before and after the ReLU,
    without a normalizer, and normalizer-free with and without scaled weight standardization (SWS).

    >>> list(paper_networks(8))
    ['BN-ReLU-Conv', 'ReLU-BN-Conv', 'No normalizer', 'NF-ResNet', 'NF without SWS']
    """
    return {
        "BN-ReLU-Conv": lambda: resnet(depth, preactivation=True, fan="fan_in"),
        "ReLU-BN-Conv": lambda: resnet(depth, preactivation=True, norm_after_relu=True, fan="fan_in"),
        "No normalizer": lambda: resnet(depth, "none", preactivation=True, fan="fan_in"),
        "NF-ResNet": lambda: nf_resnet(depth),
        "NF without SWS": lambda: nf_resnet(depth, standardize=False),
    }
