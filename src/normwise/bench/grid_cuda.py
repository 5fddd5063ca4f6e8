"""The shapes to measure on a GPU, as plain rows: net, shape, layers, and epilogues (activation, residual).

The fields are those of `cases.Site`: ``[Site(*row) for row in ROWS]``.
"""

from __future__ import annotations

Epilogue = tuple[str | None, bool]
Row = tuple[str, tuple[int, ...], tuple[str, ...], tuple[Epilogue, ...]]

DTYPES = ("bf16", "fp16", "fp32")
DIRECTIONS = ("forward", "backward", "both")

_ALONE: tuple[Epilogue, ...] = ((None, False),)
_RESNET: tuple[Epilogue, ...] = ((None, False), ("relu", False), ("relu", True))
_DIFFUSION: tuple[Epilogue, ...] = ((None, False), ("silu", False))
_VOLUME: tuple[Epilogue, ...] = ((None, False), ("leaky_relu", False))
_CLASSIC = ("batch", "group", "instance", "layer")
_TOKENS = ("token-layer", "token-rms")
_PIXELS = ("pixel-layer", "pixel-rms")
_MIXTURES = ("switchable", "batch-instance", "renorm", "filter-response", "global-response", "evo-b0", "evo-s0")

ROWS: tuple[Row, ...] = (
    # ResNet-50: the stem and one place in each stage, at a training batch and at batch 1.
    ("ResNet-50", (64, 64, 112, 112), (*_CLASSIC, "batch-eval"), _RESNET),
    ("ResNet-50", (64, 256, 56, 56), (*_CLASSIC, "batch-eval"), _RESNET),
    ("ResNet-50", (64, 512, 28, 28), (*_CLASSIC, "batch-eval"), _RESNET),
    ("ResNet-50", (64, 1024, 14, 14), (*_CLASSIC, "batch-eval"), _RESNET),
    ("ResNet-50", (64, 2048, 7, 7), (*_CLASSIC, "batch-eval"), _RESNET),
    ("ResNet-50", (1, 256, 56, 56), ("batch-eval", "group"), _RESNET),
    ("ResNet-50", (64, 256, 56, 56), _MIXTURES, _ALONE),
    # Stable Diffusion: U-Net at 512² (latents of 64²), guided, and its VAE's decoder up to the image.
    ("SD U-Net", (2, 320, 64, 64), ("group",), _DIFFUSION),
    ("SD U-Net", (2, 640, 32, 32), ("group",), _DIFFUSION),
    ("SD U-Net", (2, 1280, 16, 16), ("group",), _DIFFUSION),
    ("SD U-Net", (2, 2560, 8, 8), ("group",), _DIFFUSION),
    ("SD U-Net", (16, 320, 64, 64), ("group",), _DIFFUSION),
    ("SD VAE", (1, 512, 64, 64), ("group",), _DIFFUSION),
    ("SD VAE", (1, 512, 128, 128), ("group",), _DIFFUSION),
    ("SD VAE", (1, 512, 256, 256), ("group",), _DIFFUSION),
    ("SD VAE", (1, 256, 512, 512), ("group",), _DIFFUSION),
    ("SD VAE", (1, 128, 512, 512), ("group",), _DIFFUSION),
    # FLUX: the VAE's decoder at 1024², and the tokens of the transformer.
    ("FLUX VAE", (1, 512, 128, 128), ("group",), _DIFFUSION),
    ("FLUX VAE", (1, 512, 512, 512), ("group",), _DIFFUSION),
    ("FLUX VAE", (1, 256, 1024, 1024), ("group",), _DIFFUSION),
    ("FLUX VAE", (1, 128, 1024, 1024), ("group",), _DIFFUSION),
    ("FLUX", (1, 4608, 3072), _TOKENS, _ALONE),
    # nnU-Net, 3-D: the stages of a 128³ patch.
    ("nnU-Net", (2, 32, 128, 128, 128), ("instance", "batch"), _VOLUME),
    ("nnU-Net", (2, 64, 64, 64, 64), ("instance", "batch"), _VOLUME),
    ("nnU-Net", (2, 128, 32, 32, 32), ("instance", "batch"), _VOLUME),
    ("nnU-Net", (2, 256, 16, 16, 16), ("instance", "batch"), _VOLUME),
    ("nnU-Net", (2, 320, 8, 8, 8), ("instance", "batch"), _VOLUME),
    ("nnU-Net", (2, 320, 4, 4, 4), ("instance", "batch"), _VOLUME),
    # ConvNeXt-B: normalization over the channels at each pixel.
    ("ConvNeXt", (64, 128, 56, 56), _PIXELS, _ALONE),
    ("ConvNeXt", (64, 256, 28, 28), _PIXELS, _ALONE),
    ("ConvNeXt", (64, 512, 14, 14), _PIXELS, _ALONE),
    ("ConvNeXt", (64, 1024, 7, 7), _PIXELS, _ALONE),
    ("ConvNeXt V2", (64, 512, 56, 56), ("global-response",), _ALONE),
    # Rows of language models, from 1K to 32K.
    ("LLM", (16384, 1024), _TOKENS, _ALONE),
    ("LLM", (8192, 2048), _TOKENS, _ALONE),
    ("LLM", (8192, 4096), _TOKENS, _ALONE),
    ("LLM", (8192, 5120), _TOKENS, _ALONE),
    ("LLM", (4096, 8192), _TOKENS, _ALONE),
    ("LLM", (4096, 16384), _TOKENS, _ALONE),
    ("LLM", (2048, 32768), _TOKENS, _ALONE),
    # Sizes at which host time dominates, or nothing is a power of two.
    ("tiny", (2, 32, 8, 8), _CLASSIC, _ALONE),
    ("odd", (3, 96, 17, 19), _CLASSIC, _ALONE),
    ("odd", (67, 333), _TOKENS, _ALONE),
)
