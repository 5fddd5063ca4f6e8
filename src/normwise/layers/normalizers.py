"""NORMALIZERS: one row per normalizer. Tests, documentation, command line and conversion read this table."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from .adaptive_layer_norm import AdaptiveLayerNorm, AdaptiveRMSNorm
from .adaptive_norm import AdaptiveInstanceNorm
from .batch_instance_norm import BatchInstanceNorm1d, BatchInstanceNorm2d, BatchInstanceNorm3d
from .batch_norm import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    GhostBatchNorm1d,
    GhostBatchNorm2d,
    GhostBatchNorm3d,
    SyncBatchNorm,
)
from .batch_renorm import BatchRenorm1d, BatchRenorm2d, BatchRenorm3d
from .conditional_batch_norm import ConditionalBatchNorm1d, ConditionalBatchNorm2d, ConditionalBatchNorm3d
from .conditional_norm import ConditionalInstanceNorm1d, ConditionalInstanceNorm2d, ConditionalInstanceNorm3d
from .dynamic_tanh import DynamicErf, DynamicTanh
from .evo_norm import EvoNormB0, EvoNormS0
from .gated_norm import GatedRMSNorm
from .group_norm import GroupNorm, InstanceNorm1d, InstanceNorm2d, InstanceNorm3d
from .guidance import GUIDANCE
from .ibn import IBN1d, IBN2d, IBN3d
from .layer_norm import LayerNorm, RMSNorm
from .pixel_norm import LayerNorm2d, RMSNorm2d
from .positional_norm import PositionalNorm2d
from .response_norm import FilterResponseNorm1d, FilterResponseNorm2d, FilterResponseNorm3d, GlobalResponseNorm
from .spade import SPADE
from .switchable_norm import SwitchableNorm1d, SwitchableNorm2d, SwitchableNorm3d


class Normalizer(NamedTuple):
    """A row of the table of normalizers.

    ``layers`` maps the number of spatial dimensions to the class; 0 stands for any. ``pool`` says which axes
    share one mean and variance. ``for_channels`` is true for layers of ``[N, C, *space]`` maps, false for
    layers of rows ``[*, C]``. ``make(channels, rank, option)`` builds the layer as ``normwise compare`` uses it.
    ``condition`` names the further argument of ``forward``, for layers that need one. ``activates`` is true
    where the formula includes the activation, so that nets omit the ReLU behind it.
    From `guidance` come ``equation`` (the paper's, in plain text), ``formula`` (the name of the function in
    Taken from `guidance`: ``equation`` (the paper's, in plain text), ``formula`` (the name of the function in
    `core.formulas`), and the sentences ``when_to_use`` and ``trap``.
    >>> NORMALIZERS["pixel-rms"].trap
    'The mean stays: inputs far from zero are not centred.'
    """

    name: str
    title: str
    layers: dict[int, type[nn.Module]]
    pool: str
    uses_batch: bool
    for_channels: bool
    paper: str
    make: Callable[[int, int, int | None], nn.Module]
    condition: str | None = None
    activates: bool = False

    @property
    def of_maps(self) -> bool:
        """Whether the layer takes ``[N, C, *space]``, with or without a condition; the others take rows ``[*, C]``."""
        return self.for_channels or self.condition in ("labels", "style", "segmentation")

    @property
    def equation(self) -> str:
        return GUIDANCE[self.name].equation

    @property
    def when_to_use(self) -> str:
        return GUIDANCE[self.name].when_to_use

    @property
    def trap(self) -> str:
        return GUIDANCE[self.name].trap

    @property
    def formula(self) -> str:
        return GUIDANCE[self.name].formula


def default_groups(channels: int) -> int:
    """The number of groups of a GroupNorm by default: at most 32, with at least 4 channels each if they divide.

    From 128 channels on this is the paper's 32 groups; below, 32 groups would come close to InstanceNorm.

    >>> [default_groups(c) for c in (3, 16, 64, 96, 256)]
    [1, 4, 16, 24, 32]
    """
    most = max(1, min(32, channels // 4))
    return next(g for g in range(most, 0, -1) if channels % g == 0)


_BATCH = {1: BatchNorm1d, 2: BatchNorm2d, 3: BatchNorm3d}
_GHOST = {1: GhostBatchNorm1d, 2: GhostBatchNorm2d, 3: GhostBatchNorm3d}
_INSTANCE = {1: InstanceNorm1d, 2: InstanceNorm2d, 3: InstanceNorm3d}
_RENORM = {1: BatchRenorm1d, 2: BatchRenorm2d, 3: BatchRenorm3d}
_SWITCHABLE = {1: SwitchableNorm1d, 2: SwitchableNorm2d, 3: SwitchableNorm3d}
_BATCH_INSTANCE = {1: BatchInstanceNorm1d, 2: BatchInstanceNorm2d, 3: BatchInstanceNorm3d}
_CONDITIONAL_BATCH = {1: ConditionalBatchNorm1d, 2: ConditionalBatchNorm2d, 3: ConditionalBatchNorm3d}
_CONDITIONAL_INSTANCE = {1: ConditionalInstanceNorm1d, 2: ConditionalInstanceNorm2d, 3: ConditionalInstanceNorm3d}
_IBN = {1: IBN1d, 2: IBN2d, 3: IBN3d}
_FILTER_RESPONSE = {1: FilterResponseNorm1d, 2: FilterResponseNorm2d, 3: FilterResponseNorm3d}

_ROWS = (
    Normalizer(
        "batch",
        "BatchNorm",
        _BATCH,
        "N, space",
        True,
        True,
        "Ioffe and Szegedy 2015, arXiv:1502.03167",
        lambda channels, rank, option: _BATCH[rank](channels),
    ),
    Normalizer(
        "group",
        "GroupNorm",
        {0: GroupNorm},
        "C/G, space",
        False,
        True,
        "Wu and He 2018, arXiv:1803.08494",
        lambda channels, rank, option: GroupNorm(option or default_groups(channels), channels),
    ),
    Normalizer(
        "instance",
        "InstanceNorm",
        _INSTANCE,
        "space",
        False,
        True,
        "Ulyanov, Vedaldi and Lempitsky 2016, arXiv:1607.08022",
        lambda channels, rank, option: _INSTANCE[rank](channels, affine=True),
    ),
    Normalizer(
        "layer",
        "LayerNorm",
        {0: GroupNorm},
        "C, space",
        False,
        True,
        "Ba, Kiros and Hinton 2016, arXiv:1607.06450; as GroupNorm(1, C) in Wu and He 2018",
        lambda channels, rank, option: GroupNorm(1, channels),
    ),
    Normalizer(
        "ghost",
        "GhostBatchNorm",
        _GHOST,
        "chunks of N, space",
        True,
        True,
        "Hoffer, Hubara and Soudry 2017, arXiv:1705.08741",
        lambda channels, rank, option: _GHOST[rank](channels, ghost_size=option or 32),
    ),
    Normalizer(
        "sync",
        "SyncBatchNorm",
        {0: SyncBatchNorm},
        "N of all processes, space",
        True,
        True,
        "Ioffe and Szegedy 2015, arXiv:1502.03167",
        lambda channels, rank, option: SyncBatchNorm(channels),
    ),
    Normalizer(
        "renorm",
        "BatchRenorm",
        _RENORM,
        "N, space",
        True,
        True,
        "Ioffe 2017, arXiv:1702.03275",
        # The runs of a comparison are short: the paper's schedules at a fiftieth of their length, and BatchNorm's
        # momentum, since after a hundred steps of the paper's 0.01 a third of the initial value is still in the memory.
        lambda channels, rank, option: _RENORM[rank](
            channels, momentum=0.1, r_max=((100, 1.0), (800, 3.0)), d_max=((100, 0.0), (500, 5.0))
        ),
    ),
    Normalizer(
        "switchable",
        "SwitchableNorm",
        _SWITCHABLE,
        "space; C, space; N, space",
        True,
        True,
        "Luo et al. 2018, arXiv:1806.10779",
        lambda channels, rank, option: _SWITCHABLE[rank](channels),
    ),
    Normalizer(
        "batch-instance",
        "BatchInstanceNorm",
        _BATCH_INSTANCE,
        "space; N, space",
        True,
        True,
        "Nam and Kim 2018, arXiv:1805.07925",
        lambda channels, rank, option: _BATCH_INSTANCE[rank](channels),
    ),
    Normalizer(
        "ibn",
        "IBN-a",
        _IBN,
        "space; N, space",
        True,
        True,
        "Pan et al. 2018, arXiv:1807.09441",
        lambda channels, rank, option: _IBN[rank](channels),
    ),
    Normalizer(
        "filter-response",
        "FilterResponseNorm",
        _FILTER_RESPONSE,
        "space (no mean)",
        False,
        True,
        "Singh and Krishnan 2019, arXiv:1911.09737",
        # Without its own threshold: the nets have a ReLU, but must not have one at the end of a residual branch.
        lambda channels, rank, option: _FILTER_RESPONSE[rank](channels, activation=None),
    ),
    Normalizer(
        "global-response",
        "GlobalResponseNorm",
        {0: GlobalResponseNorm},
        "space, then C (no mean)",
        False,
        True,
        "Woo et al. 2023, arXiv:2301.00808",
        lambda channels, rank, option: GlobalResponseNorm(channels),
    ),
    Normalizer(
        "evo-b0",
        "EvoNorm-B0",
        {0: EvoNormB0},
        "N, space; space",
        True,
        True,
        "Liu et al. 2020, arXiv:2004.02967",
        lambda channels, rank, option: EvoNormB0(channels),
        activates=True,
    ),
    Normalizer(
        "evo-s0",
        "EvoNorm-S0",
        {0: EvoNormS0},
        "C/G, space",
        False,
        True,
        "Liu et al. 2020, arXiv:2004.02967",
        lambda channels, rank, option: EvoNormS0(channels, option or default_groups(channels)),
        activates=True,
    ),
    Normalizer(
        "pixel-layer",
        "LayerNorm2d",
        {0: LayerNorm2d},
        "C at each position",
        False,
        True,
        "Ba, Kiros and Hinton 2016, arXiv:1607.06450; for maps in Liu et al. 2022, arXiv:2201.03545",
        lambda channels, rank, option: LayerNorm2d(channels),
    ),
    Normalizer(
        "pixel-rms",
        "RMSNorm2d",
        {0: RMSNorm2d},
        "C at each position (no mean)",
        False,
        True,
        "Zhang and Sennrich 2019, arXiv:1910.07467",
        lambda channels, rank, option: RMSNorm2d(channels),
    ),
    Normalizer(
        "positional",
        "PositionalNorm2d",
        {0: PositionalNorm2d},
        "C at each position",
        False,
        True,
        "Li et al. 2019, arXiv:1907.04312",
        lambda channels, rank, option: PositionalNorm2d(channels),
    ),
    Normalizer(
        "tanh",
        "DynamicTanh",
        {0: DynamicTanh},
        "-",
        False,
        True,
        "Zhu et al. 2025, arXiv:2503.10622",
        lambda channels, rank, option: DynamicTanh(channels, dim=1),
    ),
    Normalizer(
        "erf",
        "DynamicErf",
        {0: DynamicErf},
        "-",
        False,
        True,
        "Chen et al. 2025, arXiv:2512.10938",
        lambda channels, rank, option: DynamicErf(channels, dim=1),
    ),
    Normalizer(
        "adaptive-instance",
        "AdaptiveInstanceNorm",
        {0: AdaptiveInstanceNorm},
        "space",
        False,
        False,
        "Huang and Belongie 2017, arXiv:1703.06868",
        lambda channels, rank, option: AdaptiveInstanceNorm(),
        "style",
    ),
    Normalizer(
        "conditional-instance",
        "ConditionalInstanceNorm",
        _CONDITIONAL_INSTANCE,
        "space",
        False,
        False,
        "Dumoulin, Shlens and Kudlur 2016, arXiv:1610.07629",
        lambda channels, rank, option: _CONDITIONAL_INSTANCE[rank](channels, option or 2),
        "labels",
    ),
    Normalizer(
        "conditional-batch",
        "ConditionalBatchNorm",
        _CONDITIONAL_BATCH,
        "N, space",
        True,
        False,
        "de Vries et al. 2017, arXiv:1707.00683",
        lambda channels, rank, option: _CONDITIONAL_BATCH[rank](channels, option or 2),
        "labels",
    ),
    Normalizer(
        "spade",
        "SPADE",
        {2: SPADE},
        "N, space",
        True,
        False,
        "Park et al. 2019, arXiv:1903.07291",
        lambda channels, rank, option: SPADE(channels, option or 2),
        "segmentation",
    ),
    Normalizer(
        "token-layer",
        "LayerNorm of tokens",
        {0: LayerNorm},
        "C",
        False,
        False,
        "Ba, Kiros and Hinton 2016, arXiv:1607.06450",
        lambda channels, rank, option: LayerNorm(channels),
    ),
    Normalizer(
        "token-rms",
        "RMSNorm of tokens",
        {0: RMSNorm},
        "C (no mean)",
        False,
        False,
        "Zhang and Sennrich 2019, arXiv:1910.07467",
        lambda channels, rank, option: RMSNorm(channels),
    ),
    Normalizer(
        "token-layer-zero",
        "LayerNorm of tokens, zero-centered",
        {0: LayerNorm},
        "C",
        False,
        False,
        "Ba, Kiros and Hinton 2016, arXiv:1607.06450; γ = 1 + weight as in Megatron-LM's LayerNorm1P",
        lambda channels, rank, option: LayerNorm(channels, zero_centered=True),
    ),
    Normalizer(
        "token-rms-zero",
        "RMSNorm of tokens, zero-centered",
        {0: RMSNorm},
        "C (no mean)",
        False,
        False,
        "Zhang and Sennrich 2019, arXiv:1910.07467; γ = 1 + weight as in Gemma and Qwen3-Next",
        lambda channels, rank, option: RMSNorm(channels, eps=1e-6, zero_centered=True),
    ),
    Normalizer(
        "adaptive-layer",
        "AdaptiveLayerNorm",
        {0: AdaptiveLayerNorm},
        "C",
        False,
        False,
        "Peebles and Xie 2022, arXiv:2212.09748",
        lambda channels, rank, option: AdaptiveLayerNorm(channels, option or 2),
        "vector",
    ),
    Normalizer(
        "adaptive-rms",
        "AdaptiveRMSNorm",
        {0: AdaptiveRMSNorm},
        "C (no mean)",
        False,
        False,
        "Peebles and Xie 2022, arXiv:2212.09748; Zhang and Sennrich 2019, arXiv:1910.07467",
        lambda channels, rank, option: AdaptiveRMSNorm(channels, option or 2),
        "vector",
    ),
    Normalizer(
        "gated-rms",
        "GatedRMSNorm",
        {0: GatedRMSNorm},
        "C (no mean)",
        False,
        False,
        "Dao and Gu 2024, arXiv:2405.21060",
        lambda channels, rank, option: GatedRMSNorm(channels),
        "gate",
    ),
    Normalizer(
        "token-tanh",
        "DynamicTanh of tokens",
        {0: DynamicTanh},
        "-",
        False,
        False,
        "Zhu et al. 2025, arXiv:2503.10622",
        lambda channels, rank, option: DynamicTanh(channels),
    ),
    Normalizer(
        "token-erf",
        "DynamicErf of tokens",
        {0: DynamicErf},
        "-",
        False,
        False,
        "Chen et al. 2025, arXiv:2512.10938",
        lambda channels, rank, option: DynamicErf(channels),
    ),
    Normalizer(
        "none",
        "No normalization",
        {0: nn.Identity},
        "-",
        False,
        True,
        "-",
        lambda channels, rank, option: nn.Identity(),
    ),
)

#: Every normalizer by the name that `make_norm`, `normwise compare` and the nets use.
NORMALIZERS: dict[str, Normalizer] = {row.name: row for row in _ROWS}
