import csv
import io
import math

import numpy as np
import pytest
from scipy import stats

from normwise.comparison import summarize, to_csv
from normwise.comparison.verdicts.cells import title


def row(norm, size, seed, accuracy, **changes):
    return {
        "key": f"{norm}-{size}-{seed}",
        "norm": norm,
        "batch_size": size,
        "seed": seed,
        "test_samples": 1000,
        "status": "finished",
        "test_accuracy": accuracy,
        "test_accuracy_train_mode": accuracy,
        "train_eval_gap": 0.0,
        "train_accuracy": 1.0,
        "step_ms": 2.0 + seed,
        "peak_memory_bytes": 1000 + seed,
        "curve": [{"epoch": 1}],
        "layers": [],
        "versions": {"torch": "2"},
    } | changes


def rows(table):
    """{(norm, batch size): accuracies by seed}"""
    return [row(norm, size, seed, a) for (norm, size), accuracies in table.items() for seed, a in enumerate(accuracies)]


def test_cells_are_mean_and_sample_deviation():
    summary = summarize(rows({("batch", 2): [0.90, 0.94, 0.95], ("group", 8): [0.5]}))
    cell = summary.cell("batch", 2)
    assert (cell.n, cell.diverged) == (3, 0)
    assert cell.mean == pytest.approx(0.93)
    assert cell.std == pytest.approx(math.sqrt((0.03**2 + 0.01**2 + 0.02**2) / 2))
    assert (cell.step_ms, cell.peak_memory_bytes) == (3.0, 1002)
    assert summary.cell("group", 8).std is None
    assert summary.cell("group", 2) is None


def test_diverged_runs_count_with_their_credit_and_have_no_other_figures():
    nothing = dict.fromkeys(["test_accuracy_train_mode", "train_eval_gap", "train_accuracy"])
    one = row("none", 64, 0, 0.1, status="diverged", **nothing)
    cell = summarize([one, row("none", 64, 1, 0.9)]).cells[0]
    assert (cell.diverged, cell.n, cell.mean) == (1, 2, pytest.approx(0.5))
    assert (cell.gap, cell.on_training_split) == (0.0, 1.0)
    alone = summarize([one])
    assert alone.cells[0].gap is None
    assert "No normalization diverged in 1 of 1 runs at batch size 64." in alone.evidence


def test_two_contestants_are_compared_by_the_paired_t_interval():
    """What a seed does to both alike does not count."""
    first, second = [0.90, 0.94, 0.86], [0.885, 0.931, 0.842]
    verdict = summarize(rows({("a", 2): first, ("b", 2): second})).verdicts[0]
    interval = stats.ttest_rel(first, second).confidence_interval(0.95)
    floor = 1.96 * math.sqrt(0.9 * 0.1 / 1000)
    assert (interval.high - interval.low) / 2 < floor
    assert verdict.needed == pytest.approx(floor, rel=1e-2)
    many = [r | {"test_samples": 10**7} for r in rows({("a", 2): first, ("b", 2): second})]
    assert summarize(many).verdicts[0].needed == pytest.approx((interval.high - interval.low) / 2, rel=1e-3)
    assert summarize(many).verdicts[0].clear


def test_the_needed_lead_is_at_least_the_interval_of_one_accuracy():
    verdict = summarize(rows({("a", 2): [0.9, 0.9], ("b", 2): [0.8, 0.8]})).verdicts[0]
    assert verdict.needed == pytest.approx(1.96 * math.sqrt(0.9 * 0.1 / 1000), rel=1e-2)
    perfect = summarize(rows({("a", 2): [1.0, 1.0], ("b", 2): [0.8, 0.8]})).verdicts[0]
    assert perfect.needed == pytest.approx(1.96 / 1000, rel=0.01)


def test_a_clear_winner():
    summary = summarize(rows({("batch", 2): [0.80, 0.81], ("group", 2): [0.95, 0.96], ("none", 2): [0.5, 0.51]}))
    (verdict,) = summary.verdicts
    assert (verdict.leader, verdict.runner_up, verdict.clear) == ("group", "batch", True)
    assert (verdict.tied, verdict.behind) == (("group",), ("batch", "none"))
    assert verdict.lead == pytest.approx(0.15)
    assert verdict.sentence == (
        "Batch size 2: GroupNorm 95.5%, BatchNorm 80.5%; the lead of 15.0 points is larger than the 1.3 points that "
        "chance explains: a clear winner."
    )
    assert summary.headline.startswith("GroupNorm: at batch size 2 it leads or ties with the leader")
    assert "Clearly behind at batch size 2: BatchNorm (80.5%) and no normalization (50.5%)." in summary.evidence


def test_what_rounding_leaves_of_equal_differences_is_no_spread():
    changes = {"metric": "rmse", "direction": "min", "chance_rmse": 9.0, "test_interval": 0.0}
    table = {("batch", 2): (1.22, 1.24, 1.26), ("group", 2): (1.02, 1.04, 1.06)}
    verdict = summarize([r | changes | {"test_rmse": r["test_accuracy"]} for r in rows(table)]).verdicts[0]
    assert (verdict.leader, verdict.needed, verdict.clear) == ("group", 0.0, True)
    assert verdict.sentence.endswith("the lead of 0.2 is larger than the 0 that chance explains: a clear winner.")


def test_no_clear_winner_where_the_spread_is_larger_than_the_lead():
    summary = summarize(rows({("batch", 2): [0.93, 0.97], ("group", 2): [0.95, 0.98]}))
    verdict = summary.verdicts[0]
    assert (verdict.tied, verdict.clear) == (("group", "batch"), False)
    assert "is not larger than" in verdict.sentence
    assert verdict.sentence.endswith("no clear winner.")
    assert summary.headline.startswith("No clear winner: BatchNorm and GroupNorm are within chance of the best at")


def test_an_unsteady_runner_up_does_not_hide_that_others_are_behind():
    table = {("batch", 2): [0.95, 0.951], ("none", 2): [0.99, 0.70], ("layer", 2): [0.80, 0.801]}
    verdict = summarize(rows(table)).verdicts[0]
    assert (verdict.tied, verdict.unreliable, verdict.behind) == (("batch",), ("none",), ("layer",))
    assert not verdict.clear
    assert verdict.runner_up == "layer"
    assert verdict.sentence.endswith("points that chance explains: a clear winner among the reliable.")


def test_runs_that_disagree_are_unreliable_and_not_within_chance():
    """With two seeds the t-interval around 60.6 ± 13 % reaches 97 %."""
    table = {("batch", 2): [0.970, 0.968], ("group", 2): [0.965, 0.969], ("instance", 2): [0.514, 0.698]}
    summary = summarize(rows(table))
    scattered = summary.cells[2]
    assert (scattered.worst, scattered.best) == (0.514, 0.698)
    verdict = summary.verdicts[0]
    assert (verdict.tied, verdict.unreliable, verdict.behind) == (("batch", "group"), ("instance",), ())
    assert verdict.sentence.endswith("no clear winner.")
    assert summary.headline.startswith("No clear winner: BatchNorm and GroupNorm are within chance of the best at")
    assert (
        "Unreliable at batch size 2: InstanceNorm, 60.6% on average; its runs go from 51.4% to 69.8%."
        in summary.evidence
    )
    assert "is unreliable, and neither leads nor ties, where its own runs lie more than 5 points apart" in summary.rule


def test_alone_among_unreliable_others():
    summary = summarize(rows({("batch", 2): [0.970, 0.968], ("instance", 2): [0.514, 0.698]}))
    assert summary.verdicts[0].sentence == "Batch size 2: BatchNorm 96.9%, and no other is reliable."
    assert not summary.verdicts[0].clear
    assert summary.headline == (
        "BatchNorm: at batch size 2 it leads or ties with the leader, which holds for no other that is reliable."
    )


def test_the_best_mean_of_runs_that_disagree_does_not_lead():
    """One seed of LayerNorm is lost: it is tested as every other is."""
    summary = summarize(rows({("batch", 2): [0.99, 0.92], ("group", 2): [0.945, 0.946]}))
    verdict = summary.verdicts[0]
    assert (verdict.leader, verdict.tied, verdict.unreliable) == ("group", ("group",), ("batch",))
    assert (verdict.above, verdict.clear) == (("batch",), False)
    assert verdict.sentence == (
        "Batch size 2: GroupNorm 94.5%, and no other is reliable; BatchNorm is better on average, but its runs "
        "disagree."
    )
    assert summary.headline.startswith("No clear winner: GroupNorm is within chance of the best reliable one")
    lost = {("layer", 8): [0.97, 0.10, 0.10], ("filter-response", 8): [0.456, 0.45, 0.46]}
    verdict = summarize(rows(lost)).verdicts[0]
    assert (verdict.leader, verdict.unreliable) == ("filter-response", ("layer",))


def test_where_no_runs_agree_nobody_leads():
    summary = summarize(rows({("batch", 2): [0.99, 0.72], ("group", 2): [0.60, 0.946]}))
    verdict = summary.verdicts[0]
    assert (verdict.leader, verdict.clear, set(verdict.unreliable)) == (None, False, {"batch", "group"})
    assert verdict.sentence == "Batch size 2: no clear winner, since no normalizer is reliable."
    assert summary.headline.startswith("No clear winner: no normalizer is reliable")


def test_one_lost_run_among_many_is_unreliable():
    table = {("batch", 2): [0.97] * 9 + [0.88], ("group", 2): [0.96] * 10}
    assert summarize(rows(table)).verdicts[0].unreliable == ("batch",)


def test_a_seed_that_is_hard_for_all_makes_nobody_unreliable():
    table = {("batch", 2): [0.97, 0.88, 0.96], ("group", 2): [0.95, 0.861, 0.94], ("none", 2): [0.96, 0.87, 0.949]}
    verdict = summarize(rows(table)).verdicts[0]
    assert verdict.unreliable == ()
    assert verdict.leader == "batch"


@pytest.mark.parametrize("sizes", [(8,), (8, 64)])
def test_where_every_run_diverged_nothing_trained(sizes):
    table = {(norm, size): [0.1, 0.1] for norm in ("layer", "none") for size in sizes}
    summary = summarize([r | {"status": "diverged"} for r in rows(table)])
    where = "every batch size" if len(sizes) > 1 else "batch size 8"
    assert summary.headline == (
        f"Nothing trained at {where}: every run diverged, its loss stopped being finite. Start again with a lower "
        "learning rate, such as a tenth of it (--learning-rate)."
    )
    assert {(v.leader, v.trained, v.clear) for v in summary.verdicts} == {(None, False, False)}


def test_a_batch_size_where_nothing_trained_is_said_beside_the_others():
    fine = rows({("batch", 2): [0.95, 0.95], ("group", 2): [0.8, 0.8]})
    lost = [r | {"status": "diverged"} for r in rows({("batch", 64): [0.1, 0.1], ("group", 64): [0.1, 0.1]})]
    headline = summarize(fine + lost).headline
    assert headline.startswith("BatchNorm: at batch size 2 it leads")
    assert headline.endswith("At batch size 64 nothing trained: lower the learning rate.")


def test_a_shortest_step_is_named_only_outside_the_noise():
    def headline(times):
        made = rows({("batch", 2): [0.95, 0.951], ("group", 2): [0.95, 0.952]})
        return summarize([r | {"step_ms": times[r["norm"]][r["seed"]]} for r in made]).headline

    assert "shortest step" not in headline({"batch": [3.0, 3.4], "group": [3.2, 3.1]})
    # A machine that is slow with one seed is slow for both.
    assert "BatchNorm has the shortest step at batch size 2: 3.10 ms" in headline(
        {"batch": [2.4, 4.0], "group": [4.8, 8.0]}
    )


def test_how_many_more_seeds_would_settle_it():
    table = {("batch", 2): [0.960, 0.930, 0.945, 0.952], ("group", 2): [0.930, 0.926, 0.921, 0.948]}
    summary = summarize(rows(table))
    verdict = summary.verdicts[0]
    assert not verdict.clear
    assert verdict.more_seeds
    # With the spread and the lead as they are, by SciPy's paired t.
    d = [a - b for a, b in zip(*table.values(), strict=True)]
    spread, lead = float(np.std(d, ddof=1)), float(np.mean(d))
    seeds = next(n for n in range(4, 99) if stats.t.ppf(0.975, n - 1) * spread / math.sqrt(n) < lead)
    assert verdict.more_seeds == seeds - 4
    assert f"about {seeds - 4} more seeds would settle a lead of 1.5 points (--seeds {seeds})." in " ".join(
        summary.evidence
    )
    assert f"About {seeds - 4} more seeds would tell BatchNorm from GroupNorm" in summary.headline


def test_more_seeds_cannot_show_less_than_the_held_out_samples_do():
    table = {("batch", 2): [0.950, 0.951], ("group", 2): [0.948, 0.947]}
    assert summarize(rows(table)).verdicts[0].more_seeds is None
    assert any("more seeds alone cannot settle a lead of 0.3 points" in s for s in summarize(rows(table)).evidence)


def test_only_seeds_that_all_have_are_compared():
    """An unfinished sweep: the third seed, which was easy, is there for one of the two."""
    table = {("batch", 2): [0.90, 0.902, 0.94], ("group", 2): [0.92, 0.922]}
    verdict = summarize([r | {"test_samples": 10**5} for r in rows(table)]).verdicts[0]
    assert (verdict.leader, verdict.lead) == ("group", pytest.approx(0.02))


def test_a_diverged_run_makes_a_normalizer_unreliable():
    table = rows({("batch", 2): [0.970, 0.968], ("none", 2): [0.965, 0.1]})
    table[-1]["status"] = "diverged"
    assert summarize(table).verdicts[0].unreliable == ("none",)


def test_few_held_out_samples_scatter_by_themselves():
    table = [r | {"test_samples": 20} for r in rows({("batch", 2): [0.9, 0.95], ("group", 2): [0.8, 0.9]})]
    verdict = summarize(table).verdicts[0]
    assert (verdict.tied, verdict.unreliable) == (("batch", "group"), ())


def test_clearly_behind_stays_behind_however_the_runs_scatter():
    table = {("batch", 2): [0.95, 0.951, 0.952, 0.95], ("group", 2): [0.3, 0.4, 0.35, 0.37]}
    verdict = summarize(rows(table)).verdicts[0]
    assert (verdict.unreliable, verdict.behind, verdict.clear) == ((), ("group",), True)


def test_one_seed_names_no_winner():
    summary = summarize(rows({("batch", 2): [0.9], ("group", 2): [0.2]}))
    assert (summary.verdicts[0].needed, summary.verdicts[0].clear) == (None, False)
    assert "run at least two seeds" in summary.headline


def test_a_choice_that_depends_on_the_batch_size():
    table = {
        ("batch", 2): [0.80, 0.81],
        ("group", 2): [0.95, 0.96],
        ("batch", 64): [0.99, 0.99],
        ("group", 64): [0.9] * 2,
    }
    summary = summarize(rows(table))
    assert summary.headline == "The best choice depends on the batch size: GroupNorm at 2, BatchNorm at 64."
    assert [v.batch_size for v in summary.verdicts] == [2, 64]


def test_the_only_one_that_is_never_behind_is_recommended():
    table = {
        ("batch", 2): [0.80, 0.81],
        ("group", 2): [0.95, 0.96],
        ("batch", 64): [0.96, 0.94],
        ("group", 64): [0.95] * 2,
    }
    assert summarize(rows(table)).headline.startswith("GroupNorm: at every batch size it leads or ties")


def test_one_normalizer_is_no_comparison():
    summary = summarize(rows({("batch", 2): [0.80, 0.81]}))
    assert summary.headline == "Only BatchNorm was run: there is nothing to compare it with."
    assert summary.verdicts[0].sentence == "Batch size 2: BatchNorm 80.5%, nothing to compare with."


def test_a_gap_between_training_and_evaluation_is_named_at_its_widest():
    made = [
        row("batch", size, 0, 0.9, test_accuracy_train_mode=0.9 + g, train_eval_gap=g)
        for size, g in ((2, -0.05), (8, -0.02))
    ]
    assert [s for s in summarize(made).evidence if "gap" in s] == [
        "BatchNorm at batch size 2: 85.0% of the held-out split with the statistics of training, 90.0% with those of "
        "evaluation (gap -5.0 points)."
    ]


def test_titles():
    assert [title(name) for name in ("none", "group:4", "own")] == ["No normalization", "GroupNorm (4 groups)", "own"]


def test_csv_has_a_line_per_run_and_the_plain_fields():
    text = to_csv(rows({("batch", 2): [0.80, 0.81]}))
    read = list(csv.DictReader(io.StringIO(text)))
    assert [line["test_accuracy"] for line in read] == ["0.8", "0.81"]
    assert not {"curve", "layers", "versions"} & set(read[0])
    assert to_csv([]) == "\n"


def test_no_rows():
    with pytest.raises(ValueError, match="needs at least one row"):
        summarize([])


@pytest.mark.parametrize("level", [0.1, 0.104])
def test_runs_that_are_no_better_than_chance_have_no_winner(level):
    """Nobody diverged, and nobody learned: a tie with a shortest step would be no answer."""
    table = {("batch", 8): (level, 0.1, 0.1), ("group", 8): (0.1, level, 0.099)}
    summary = summarize([r | {"chance_accuracy": 0.1} for r in rows(table)])
    assert summary.headline == (
        "Nothing trained at batch size 8: no run is better than always answering the most frequent class. Train longer "
        "(--epochs) or at another learning rate, and look whether the labels belong to the samples."
    )
    assert summary.verdicts[0].leader is None
    assert summary.evidence[0].startswith(
        "Batch size 8: nothing trained: no normalizer is better than always answering the"
    )


def test_one_that_learns_among_many_at_chance_is_a_winner():
    table = {("batch", 8): (0.1, 0.1, 0.1), ("group", 8): (0.6, 0.61, 0.6)}
    summary = summarize([r | {"chance_accuracy": 0.1} for r in rows(table)])
    assert summary.headline.startswith("GroupNorm")
    at_chance = {("batch", 2): (0.1, 0.1, 0.1), ("group", 2): (0.1, 0.1, 0.1)} | table
    mixed = summarize([r | {"chance_accuracy": 0.1} for r in rows(at_chance)])
    assert mixed.headline.endswith("At batch size 2 nothing trained: train longer there.")


def test_of_a_single_contestant_a_batch_size_that_failed_is_told():
    made = rows({("batch", 8): (0.9, 0.91)}) + [
        r | {"status": "diverged", "message": "The loss is not finite."} for r in rows({("batch", 2): (0.1, 0.1)})
    ]
    assert summarize(made).headline == (
        "Only BatchNorm was run: there is nothing to compare it with. At batch size 2 nothing trained: lower the "
        "learning rate."
    )


def test_nobody_at_chance_leads_because_the_others_disagree():
    """One learns in one of its runs; the best of those that agree has learned nothing."""
    table = {("batch", 8): (0.1, 0.1, 0.1), ("group", 8): (0.1, 0.7, 0.1), ("layer", 8): (0.101, 0.1, 0.1)}
    summary = summarize([r | {"chance_accuracy": 0.1} for r in rows(table)])
    verdict = summary.verdicts[0]
    assert (verdict.leader, verdict.tied, verdict.trained, verdict.clear) == (None, (), True, False)
    assert (verdict.at_chance, verdict.unreliable) == (("layer", "batch"), ("group",))
    assert verdict.sentence == (
        "Batch size 8: no clear winner, since LayerNorm and BatchNorm are no better than always answering the most "
        "frequent class, and the runs of GroupNorm disagree."
    )
    assert summary.headline.startswith("No clear winner: those whose runs agree are no better than always answering")
    assert "Unreliable at batch size 8: GroupNorm" in " ".join(summary.evidence)


def test_a_lucky_run_does_not_lift_a_mean_above_chance():
    table = {("batch", 8): (0.07, 0.10, 0.125), ("group", 8): (0.06, 0.09, 0.12)}
    summary = summarize([r | {"chance_accuracy": 0.1, "test_samples": 10**6} for r in rows(table)])
    assert (summary.verdicts[0].leader, summary.verdicts[0].trained) == (None, False)
    assert summary.headline.startswith("Nothing trained at batch size 8")


@pytest.mark.parametrize(("chance", "leader"), [(50.0, None), (52.0, None), (58.0, "group")])
def test_of_errors_the_leader_is_below_that_of_chance(chance, leader):
    """`interval` is half the 95 % interval of the RMSE on the held-out samples."""
    changes = {"metric": "rmse", "direction": "min", "chance_rmse": chance, "test_interval": 3.0}
    table = {("batch", 8): (55.0, 55.2, 54.9), ("group", 8): (50.0, 50.2, 49.9)}
    made = [r | changes | {"test_rmse": r["test_accuracy"]} for r in rows(table)]
    verdict = summarize(made).verdicts[0]
    assert (verdict.leader, verdict.trained) == (leader, leader is not None)
