"""What the leaders cost, and the command that comes next."""

import pytest
from synthetic import make_about, make_rows

from normwise.cli.repeating import command_of
from normwise.comparison.report.words import planned_runs
from normwise.comparison.verdicts.cells import cells_of
from normwise.comparison.verdicts.cost import costs
from normwise.comparison.verdicts.next_step import BY_DOMAIN, OWN_DATA, next_step
from normwise.comparison.verdicts.summary import summarize

ACCURACY = {"batch": 0.80, "group": 0.95, "none": 0.70}
STEP = {"batch": 2.0, "group": 3.0, "none": 1.0}
MEMORY = {"batch": 2_000_000, "group": 2_020_000, "none": 2_000_000}


def rows(accuracy=ACCURACY, sizes=(8,), seeds=3, **changes):
    """Accuracies that hardly scatter, and prices that are known."""
    made = make_rows(tuple(accuracy), sizes, seeds)
    return [
        row
        | {"test_accuracy": accuracy[row["norm"]] + 1e-4 * ((row["seed"] * 7 + len(row["norm"])) % 3)}
        | {"step_ms": STEP[row["norm"]], "peak_memory_bytes": MEMORY[row["norm"]]}
        | changes
        for row in made
    ]


def said(made):
    return costs(cells_of(made), summarize(made).verdicts)


def test_the_winner_is_priced_against_the_least():
    assert said(rows()) == [
        "What GroupNorm costs at batch size 8: 3 ms a step, 3.00 times the shortest (no normalization, 1); 2.02 MB at "
        "its peak, the least of all or as good as that."
    ]


def test_those_that_lead_together_are_priced_by_their_range():
    assert said(rows({"batch": 0.95, "group": 0.95, "none": 0.70})) == [
        "What one of the 2 that lead costs at batch size 8: from 2 (BatchNorm) to 3 ms a step (GroupNorm); all about 2 "
        "MB at its peak."
    ]


def test_of_many_batch_sizes_the_ends_are_priced():
    found = said(rows(sizes=(2, 8, 32, 64)))
    assert [sentence.partition(":")[0][-2:].strip() for sentence in found] == ["2", "64"]


def test_nothing_is_said_of_what_nobody_timed_or_nobody_leads():
    untimed = rows(step_ms=None)
    assert "ms" not in said(untimed)[0]
    assert said(rows(step_ms=None, peak_memory_bytes=None)) == []
    assert said(make_rows(("batch",), (8,), 2)) == []
    lost = [(norm, 8, seed) for norm in ("batch", "none") for seed in range(2)]
    assert said(make_rows(("batch", "none"), (8,), 2, tuple(lost))) == []


def step_after(made, chosen=(), **settings):
    about = make_about(tuple(dict.fromkeys(row["norm"] for row in made)), tuple({r["batch_size"] for r in made}))
    about["settings"] |= {"data": "photos/", "seeds": sorted({row["seed"] for row in made})} | settings
    settings = about["settings"]
    unfinished = len(made) < planned_runs(about)
    about["chosen_rates"] = chosen
    return next_step(unfinished, about, summarize(made), lambda changes: command_of(settings | changes, "out"))


def test_an_unfinished_sweep_is_finished_first():
    step = step_after(rows()[:5], seeds=[0, 1, 2])
    assert step.why == "Do the rest of the runs."
    assert "--seeds 3" in step.command


def test_one_seed_asks_for_several():
    assert "--seeds 3" in step_after(rows(seeds=1)).command


def test_where_nothing_trained_the_rate_is_lowered():
    lost = tuple((norm, 8, seed) for norm in ACCURACY for seed in range(2))
    made = make_rows(tuple(ACCURACY), (8,), 2, lost)
    assert "--learning-rate 0.04 " in step_after(made).command
    assert "--lrs 0.01,0.03 " in step_after(made, lrs=[0.1, 0.3]).command


def test_where_nothing_learned_it_trains_longer():
    made = rows(dict.fromkeys(ACCURACY, 0.10), chance_accuracy=0.10)
    assert "--epochs 20 " in step_after(made).command


def test_what_is_open_gets_the_seeds_that_settle_it():
    spread = {"batch": (0.90, 0.915, 0.90), "group": (0.93, 0.92, 0.945)}
    made = [row | {"test_accuracy": spread[row["norm"]][row["seed"]]} for row in make_rows(tuple(spread), (8,), 3)]
    more = summarize(made).verdicts[0].more_seeds
    assert more
    step = step_after(made)
    assert f"--seeds {3 + more} " in step.command
    assert f"{more} more seed" in step.why


def test_a_winner_at_one_rate_is_tried_at_others_and_then_taken():
    step = step_after(rows())
    assert "--lrs 0.12,0.4,1.2 " in step.command
    assert step_after(rows(), lrs=[0.1, 0.3]) == ("Nothing is left to measure here: train with GroupNorm.", None)


def test_a_rate_at_an_end_of_those_tried_leads_beyond_it():
    rates = [0.1, 0.3, 1.0]
    higher = step_after(rows(), [["group", 8, 0.3], ["batch", 8, 1.0]], lrs=rates)
    assert (higher.why, "--lrs 0.1,0.3,1.0,3.0 " in higher.command) == (
        "Try learning rates beyond the end of those tried.",
        True,
    )
    assert "--lrs 0.0333,0.1,0.3,1.0 " in step_after(rows(), [["group", 8, 0.1]], lrs=rates).command
    assert step_after(rows(), [["group", 8, 0.3]], lrs=rates).command is None
    assert step_after(rows(), [["group", 8, 0.3]], lrs=[0.3]).command is None


def test_a_training_function_has_its_own_rates():
    step = step_after(rows(), model="my_code:train", data="", metric="rmse", direction="min")
    assert step == ("Nothing is left to measure here: train with GroupNorm.", None)


@pytest.mark.parametrize(
    ("settings", "command"),
    [
        ({"data": "digits"}, BY_DOMAIN),
        ({"data": "mixed-digits"}, BY_DOMAIN),
        ({"data": "mixed-digits", "batches_by": "domain"}, OWN_DATA),
    ],
)
def test_the_embedded_data_lead_to_the_readers_own(settings, command):
    assert step_after(rows(), **settings).command == command


def test_the_command_that_repeats_a_sweep_has_its_groups():
    settings = make_about()["settings"] | {"batches_by": r"patient(\d+)"}
    assert r"--batches-by 'patient(\d+)'" in command_of(settings, "out")
