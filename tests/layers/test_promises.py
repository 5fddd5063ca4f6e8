"""The promises of promises.py, one suite over all normalizers of maps that torch lacks, in their settings."""

import promises
import pytest
from mixtures import GATED, MIXTURES, SWITCHABLE

import normwise as nw

RENORM = {rank: getattr(nw, f"BatchRenorm{rank}d") for rank in (1, 2, 3)}
FILTER = {rank: getattr(nw, f"FilterResponseNorm{rank}d") for rank in (1, 2, 3)}
#: Batch Renorm's limits: a schedule that a test runs through, none, and constants.
LIMITS = {
    "schedule": {"r_max": ((0, 1.0), (4, 1.3)), "d_max": ((0, 0.0), (2, 0.4))},
    "open": {"r_max": float("inf"), "d_max": float("inf")},
    "constants": {"r_max": 1.5, "d_max": 0.5},
}


def with_options(layer, **fixed):
    """A factory: ``fixed`` are options unless the promise gives others."""
    return lambda channels, **options: layer(channels, **{**fixed, **options})


def s0(channels, **options):
    return nw.EvoNormS0(channels, 3, **options)


LAYERS = {
    **MIXTURES,
    **{f"renorm, {name}": with_options(nw.BatchRenorm2d, **limits) for name, limits in LIMITS.items()},
    "evo-b0": nw.EvoNormB0,
    "evo-s0": s0,
    "filter-response": with_options(nw.FilterResponseNorm2d, activation=None),
    "filter-response, learned eps": with_options(nw.FilterResponseNorm2d, activation=None, learnable_eps=True),
    "global-response": nw.GlobalResponseNorm,
}
#: Of a layer that is a class for each rank, or one for all.
OTHER_RANKS = {
    "switchable": SWITCHABLE,
    "batch-instance": GATED,
    "renorm": {rank: with_options(layer, **LIMITS["schedule"]) for rank, layer in RENORM.items()},
    "evo-b0": dict.fromkeys((1, 3), nw.EvoNormB0),
    "evo-s0": dict.fromkeys((1, 3), s0),
    "filter-response": FILTER,
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("promise", promises.PROMISES, ids=lambda p: p.__name__)
def test_a_promise(promise, name):
    promise(LAYERS[name], 2)


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("name", OTHER_RANKS)
def test_the_other_ranks(name, rank):
    promises.padded_data_gives_what_unpadded_data_gives(OTHER_RANKS[name][rank], rank)
    promises.narrow_types_round_once(OTHER_RANKS[name][rank], rank)


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("classes", [SWITCHABLE, GATED], ids=["switchable", "batch-instance"])
def test_offsets_of_mixtures_in_the_other_ranks(classes, rank):
    promises.large_offsets_cost_no_accuracy(classes[rank], rank)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    "promise",
    [
        promises.padded_data_gives_what_unpadded_data_gives,
        promises.an_empty_batch_is_no_batch,
        promises.narrow_types_round_once,
        promises.evaluation_exports_and_maps,
        promises.checkpointing_changes_nothing,
    ],
    ids=lambda p: p.__name__,
)
def test_the_threshold_of_filter_response(promise, rank):
    promise(FILTER[rank], rank)


@pytest.mark.parametrize("name", ["switchable", "batch-instance", "renorm", "evo-b0", "evo-s0", "filter", "global"])
def test_compiled(name):
    layers = {**LAYERS, "renorm": LAYERS["renorm, schedule"]}
    layers |= {"filter": nw.FilterResponseNorm2d, "global": nw.GlobalResponseNorm}
    promises.compiled_is_eager(layers[name], 2)
