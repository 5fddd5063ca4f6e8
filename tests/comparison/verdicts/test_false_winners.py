"""How often the verdicts err, by simulation: winners and losers where nothing differs, and leads that are missed.

The rows scatter as real ones do. On the digits (ResNet-8, 6 epochs, 6 contestants, batch sizes 2, 8 and 64, 6 seeds,
torch 2.13.0, 2-core x86-64, 2026-11-30) the runs of a contestant had standard deviations of 0.13 to 0.69 points, 0.18
to 0.76 beside the other runs of the same seed; the seeds themselves one of 0.1 to 0.3.
"""

import inspect

import numpy as np
import pytest
from scipy import stats

from normwise.comparison import compare, summarize
from normwise.comparison.verdicts.chance import range_quantile
from normwise.comparison.verdicts.sequential import looks_of, stops_among

SIZES = (2, 8, 64)
NORMS = ("batch", "group", "instance", "layer", "none", "nf")
SEEDS = inspect.signature(compare).parameters["seeds"].default
# Standard deviations in points, [contestant, batch size]: those that were measured, and other tables.
MEASURED = np.array(
    [
        [0.18, 0.34, 0.37],
        [0.37, 0.45, 0.46],
        [0.46, 0.33, 0.76],
        [0.50, 0.49, 0.49],
        [0.34, 0.35, 0.52],
        [0.24, 0.24, 0.43],
    ]
)
ONE_IS_NOISY = np.where(np.arange(6)[:, None] == 0, 0.9, 0.45) * np.ones((1, 3))
SMALL_BATCHES_ARE_NOISY = np.ones((6, 1)) * np.array([0.9, 0.6, 0.45])
TABLES = {
    "measured": MEASURED,
    "all alike": np.full((6, 3), 0.5),
    "large": np.full((6, 3), 1.0),
    "one is noisy": ONE_IS_NOISY,
    "small batches are noisy": SMALL_BATCHES_ARE_NOISY,
    "two contestants": np.full((2, 1), 0.5),
    "twelve contestants, six sizes": np.full((12, 6), 0.5),
}


def sweep(random, spread, seeds, level=0.95, ahead=0.0, seed_spread=0.3):
    """Rows of a sweep with equal expectations, but for the first contestant, which is `ahead` by so many points."""
    contestants, sizes = spread.shape
    common = random.normal(0, seed_spread, (1, sizes, seeds))
    points = 100 * level + common + random.normal(size=(contestants, sizes, seeds)) * spread[:, :, None]
    points[0] += ahead
    return [
        row(f"norm{i}", 2 ** (b + 1), s, points[i, b, s] / 100)
        for i in range(contestants)
        for b in range(sizes)
        for s in range(seeds)
    ]


def row(norm, size, seed, accuracy):
    return {
        "norm": norm,
        "batch_size": size,
        "seed": seed,
        "test_samples": 1198,
        "status": "finished",
        "test_accuracy": accuracy,
        "test_accuracy_train_mode": None,
        "train_eval_gap": None,
        "train_accuracy": None,
        "step_ms": None,
        "peak_memory_bytes": None,
    }


@pytest.mark.parametrize("seeds", [2, SEEDS])
@pytest.mark.parametrize("table", [pytest.param(t, marks=pytest.mark.slow) if t == "large" else t for t in TABLES])
def test_at_most_one_sweep_in_twenty_names_anybody_ahead_where_nothing_differs(table, seeds):
    """Anywhere in the table: a contestant that is clearly behind is an error, too, and not only a clear winner."""
    random = np.random.default_rng(0)
    sweeps, erring = 60 if TABLES[table].size > 18 else 200, 0
    for _ in range(sweeps):
        summary = summarize(sweep(random, TABLES[table], seeds))
        erring += any(verdict.behind or verdict.unreliable or verdict.clear for verdict in summary.verdicts)
    # A rate of 5 % stays within this with a probability of 99.5 %.
    assert erring <= stats.binom.ppf(0.995, sweeps, 0.05)


@pytest.mark.parametrize("table", ["measured", "all alike", "large", "one is noisy", "small batches are noisy"])
def test_five_points_are_found_at_the_default_seeds(table):
    random = np.random.default_rng(1)
    found = np.zeros(len(SIZES))
    sweeps = 100
    for _ in range(sweeps):
        verdicts = summarize(sweep(random, TABLES[table], SEEDS, level=0.9, ahead=5.0)).verdicts
        found += [verdict.clear and verdict.leader == "norm0" for verdict in verdicts]
    assert found.min() / sweeps >= 0.8


@pytest.mark.parametrize("table", ["measured", "two contestants", pytest.param("one is noisy", marks=pytest.mark.slow)])
def test_at_most_one_sweep_in_twenty_that_stops_early_errs_where_nothing_differs(table):
    """Eight seeds, seven looks: anybody stopped or named behind at any of them is an error."""
    random, sweeps, erring, runs = np.random.default_rng(3), 60, 0, 0
    for _ in range(sweeps):
        rows = run_until_clear(sweep(random, TABLES[table], seeds=8), looks_of(8))
        summary = summarize(rows, looks_of(8))
        erring += any(verdict.behind or verdict.unreliable or verdict.clear for verdict in summary.verdicts)
        runs += len(rows)
    assert erring <= stats.binom.ppf(0.995, sweeps, 0.05)
    assert runs >= 0.97 * sweeps * 8 * TABLES[table].size


def test_stopping_early_finds_the_winner_with_fewer_runs():
    random, sweeps, found, runs = np.random.default_rng(4), 30, 0, 0
    for _ in range(sweeps):
        rows = run_until_clear(sweep(random, TABLES["measured"], seeds=8, level=0.9, ahead=5.0), looks_of(8))
        verdicts = summarize(rows, looks_of(8)).verdicts
        found += all(verdict.clear and verdict.leader == "norm0" for verdict in verdicts)
        runs += len(rows)
    assert found >= 0.95 * sweeps
    assert runs < 0.5 * sweeps * 8 * TABLES["measured"].size


def run_until_clear(rows, looks):
    """The rows that such a sweep would have run of these."""
    places = dict.fromkeys((row["norm"], row["batch_size"]) for row in rows)
    done = []
    for seed in sorted({row["seed"] for row in rows}):
        stops = stops_among(done, places, looks)
        done += [row for row in rows if row["seed"] == seed and not stops.holds(row["norm"], row["batch_size"])]
    return done


@pytest.mark.parametrize(("contestants", "freedom"), [(2, 1), (2, 7), (3, 2), (6, 15), (12, 330), (40, 5)])
def test_the_quantile_is_tukeys(contestants, freedom):
    assert range_quantile((contestants,), freedom) == pytest.approx(
        stats.studentized_range.ppf(0.95, contestants, freedom), rel=2e-3
    )


def test_the_quantile_over_several_batch_sizes_by_simulation():
    random = np.random.default_rng(2)
    sizes, freedom, drawn = (6, 6, 4), 12, 100_000
    widest = np.max([np.ptp(random.normal(size=(drawn, size)), axis=1) for size in sizes], axis=0)
    spread = np.sqrt(random.chisquare(freedom, drawn) / freedom)
    assert np.mean(widest / spread > range_quantile(sizes, freedom)) == pytest.approx(0.05, abs=0.003)
