"""The shapes to measure on a CPU: those of real nets, and tiny and odd ones."""

from __future__ import annotations

from .cases import Site

CLASSIC = ("batch", "batch-eval", "group", "instance", "layer")
PAPERS = ("switchable", "batch-instance", "renorm", "filter-response", "evo-b0", "evo-s0", "global-response")
FUSED = ((None, False), ("relu", False), ("relu", True))
_SAMPLES = ("group", "instance", "layer")

SITES = (
    Site("ResNet-50", (8, 64, 112, 112), CLASSIC),
    Site("ResNet-50", (8, 256, 56, 56), CLASSIC, FUSED),
    Site("ResNet-50", (8, 256, 56, 56), PAPERS),
    Site("ResNet-50", (8, 512, 28, 28), CLASSIC),
    Site("ResNet-50", (8, 1024, 14, 14), CLASSIC, FUSED),
    Site("ResNet-50", (8, 1024, 14, 14), PAPERS),
    Site("ResNet-50", (8, 2048, 7, 7), CLASSIC),
    Site("U-Net", (2, 64, 128, 128), CLASSIC + PAPERS),
    Site("U-Net", (2, 256, 32, 32), (*_SAMPLES, "batch"), ((None, False), ("silu", False))),
    Site("style transfer", (1, 128, 128, 128), (*_SAMPLES, "batch-instance", "switchable")),
    Site("style transfer", (1, 32, 256, 256), ("instance",), FUSED),
    Site("nnU-Net", (2, 32, 32, 64, 64), CLASSIC),
    Site("nnU-Net", (1, 32, 64, 80, 80), ("batch", *_SAMPLES)),
    Site("ConvNeXt", (8, 96, 56, 56), ("pixel-layer", "pixel-rms")),
    Site("ConvNeXt", (8, 384, 14, 14), ("pixel-layer", "pixel-rms")),
    Site("ConvNeXt", (8, 384, 56, 56), ("global-response",)),
    Site("transformer", (8, 197, 768), ("token-layer", "token-rms")),
    Site("transformer", (2, 1024, 4096), ("token-layer", "token-rms")),
    Site("small", (16, 64, 32, 32), CLASSIC),
    Site("odd", (3, 96, 17, 19), CLASSIC + PAPERS),
    Site("odd", (7, 5, 33, 31), ("batch", "instance", "layer")),
    Site("odd", (67, 333), ("token-layer", "token-rms")),
    Site("tiny", (2, 32, 8, 8), CLASSIC + PAPERS),
)
#: The cases of `--quick`, forward and backward together, in fp32.
QUICK = (
    Site("ResNet-50", (8, 256, 28, 28), CLASSIC),
    Site("ResNet-50", (8, 256, 28, 28), ("batch", "group"), (("relu", True),)),
    Site("U-Net", (2, 64, 64, 64), ("switchable", "filter-response")),
    Site("transformer", (8, 197, 768), ("token-layer", "token-rms")),
    Site("tiny", (2, 32, 8, 8), ("batch", "group", "instance")),
)
