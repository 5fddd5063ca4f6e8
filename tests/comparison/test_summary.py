import csv
import io
import math

import pytest
from scipy import stats

from normwise.comparison import summarize, to_csv
from normwise.comparison.cells import title
from normwise.comparison.verdict import T_95, needed_lead


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
    assert (cell.gap, cell.train_accuracy) == (0.0, 1.0)
    alone = summarize([one])
    assert alone.cells[0].gap is None
    assert "No normalization diverged in 1 of 1 runs at batch size 64." in alone.evidence


def test_quantiles_are_students():
    assert pytest.approx([stats.t.ppf(0.975, df) for df in range(1, len(T_95) + 1)], abs=6e-4) == list(T_95)


def test_the_needed_lead_is_the_stated_interval():
    cells = summarize(rows({("a", 2): [0.90, 0.94, 0.95], ("b", 2): [0.80, 0.88]})).cells
    interval = stats.ttest_ind([0.90, 0.94, 0.95], [0.80, 0.88]).confidence_interval(0.95)
    assert needed_lead(*cells) == pytest.approx((interval.high - interval.low) / 2, rel=1e-3)


def test_the_needed_lead_is_at_least_the_interval_of_one_accuracy():
    cells = summarize(rows({("a", 2): [0.9, 0.9], ("b", 2): [0.8, 0.8]})).cells
    assert needed_lead(*cells) == pytest.approx(1.96 * math.sqrt(0.9 * 0.1 / 1000), rel=1e-2)
    perfect = summarize(rows({("a", 2): [1.0, 1.0], ("b", 2): [0.8, 0.8]})).cells
    assert needed_lead(*perfect) == pytest.approx(1.96 / 1000, rel=0.01)


def test_a_clear_winner():
    summary = summarize(rows({("batch", 2): [0.80, 0.81], ("group", 2): [0.95, 0.96], ("none", 2): [0.5, 0.51]}))
    (verdict,) = summary.verdicts
    assert (verdict.leader, verdict.runner_up, verdict.clear) == ("group", "batch", True)
    assert (verdict.tied, verdict.behind) == (("group",), ("batch", "none"))
    assert verdict.lead == pytest.approx(0.15)
    assert verdict.sentence == (
        "Batch size 2: GroupNorm 95.5%, BatchNorm 80.5%; the lead of 15.0 points is larger than the 3.0 points that "
        "chance explains: a clear winner."
    )
    assert summary.headline.startswith("GroupNorm: at batch size 2 it leads or ties with the leader")
    assert "Clearly behind at batch size 2: BatchNorm (80.5%) and no normalization (50.5%)." in summary.evidence


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
    leader, _, scattered = summary.cells
    assert leader.mean - scattered.mean < needed_lead(leader, scattered)
    assert (scattered.worst, scattered.best) == (0.514, 0.698)
    verdict = summary.verdicts[0]
    assert (verdict.tied, verdict.unreliable, verdict.behind) == (("batch", "group"), ("instance",), ())
    assert verdict.sentence.endswith("no clear winner.")
    assert summary.headline.startswith("No clear winner: BatchNorm and GroupNorm are within chance of the best at")
    assert (
        "Unreliable at batch size 2: InstanceNorm, 60.6% on average; its runs go from 51.4% to 69.8%."
        in summary.evidence
    )
    assert "is unreliable, not tied, where its own runs lie more than 5 points apart" in summary.rule


def test_alone_among_unreliable_others():
    summary = summarize(rows({("batch", 2): [0.970, 0.968], ("instance", 2): [0.514, 0.698]}))
    assert summary.verdicts[0].sentence == "Batch size 2: BatchNorm 96.9%, and no other is reliable."
    assert not summary.verdicts[0].clear
    assert summary.headline == (
        "BatchNorm: at batch size 2 it leads or ties with the leader, which holds for no other that is reliable."
    )


def test_a_leader_whose_runs_disagree_still_leads_and_is_named():
    summary = summarize(rows({("batch", 2): [0.99, 0.92], ("group", 2): [0.945, 0.946]}))
    assert summary.verdicts[0].tied == ("batch", "group")
    assert "BatchNorm leads at batch size 2, but its runs go from 92.0% to 99.0%." in summary.evidence


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
