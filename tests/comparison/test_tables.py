"""The tables against figures computed from the rows by NumPy."""

import numpy as np
import pytest
from synthetic import BATCH_SIZES, NORMS, make_row, make_rows

from normwise.comparison import summarize
from normwise.comparison.metric import ACCURACY as METRIC
from normwise.comparison.verdicts.tables import GAP, MEMORY, STEP_TIME, Table, divergence_note, judged_quantity, tables

ACCURACY = judged_quantity(METRIC)


def accuracies(rows, norm, batch_size):
    return [100 * row["test_accuracy"] for row in rows if (row["norm"], row["batch_size"]) == (norm, batch_size)]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("batch_size", BATCH_SIZES)
def test_accuracy_is_mean_and_standard_deviation_over_the_seeds(norm, batch_size):
    rows = make_rows(seeds=3)
    values = accuracies(rows, norm, batch_size)
    expected = f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"
    assert Table(ACCURACY, summarize(rows)).text(norm, batch_size) == expected


def test_a_single_seed_has_no_spread():
    rows = make_rows(seeds=1)
    text = Table(ACCURACY, summarize(rows)).text("batch", 8)
    assert text == f"{accuracies(rows, 'batch', 8)[0]:.1f}"


def test_units():
    row = make_row("batch", 8, 0) | {"train_eval_gap": 0.0123, "step_ms": 4.5, "peak_memory_bytes": 2_600_000}
    found = [Table(quantity, summarize([row])).text("batch", 8) for quantity in (GAP, STEP_TIME, MEMORY)]
    assert found == ["+1.2", "4.5", "2.6"]


def test_a_gap_that_rounds_to_zero_has_no_sign():
    row = make_row("batch", 8, 0) | {"train_eval_gap": -0.0001}
    assert Table(GAP, summarize([row])).text("batch", 8) == "0.0"


@pytest.mark.parametrize(
    ("smallest", "shown"), [(0.0123, "0.012"), (0.31, "0.31"), (3.14, "3.1"), (31.4, "31"), (314, "314")]
)
def test_step_time_has_two_significant_digits_where_it_is_smallest(smallest, shown):
    rows = [make_row("batch", 8, 0) | {"step_ms": smallest}, make_row("group", 8, 0) | {"step_ms": 40 * smallest}]
    assert Table(STEP_TIME, summarize(rows)).text("batch", 8) == shown


def test_best_is_highest_accuracy_and_lowest_cost():
    summary = summarize(make_rows())
    accuracy, _, step_time, memory = tables(summary)
    for size in BATCH_SIZES:
        assert [norm for norm in NORMS if accuracy.is_best(norm, size)] == ["group"]
        assert [norm for norm in NORMS if step_time.is_best(norm, size)] == ["none"]
        assert [norm for norm in NORMS if memory.is_best(norm, size)] == ["none"]


def test_values_that_read_the_same_are_both_best():
    rows = [
        make_row(norm, 8, 0) | {"step_ms": ms}
        for norm, ms in (("batch", 5.01), ("group", 5.04), ("none", 6.0), ("layer", 7.0))
    ]
    table = Table(STEP_TIME, summarize(rows))
    assert [norm for norm in table.norms if table.is_best(norm, 8)] == ["batch", "group"]


def test_a_best_value_of_most_marks_nobody():
    table = Table(GAP, summarize(make_rows()))
    assert not any(table.is_best(norm, size) for norm in NORMS for size in BATCH_SIZES)


def test_one_normalizer_alone_is_not_best():
    table = Table(ACCURACY, summarize([make_row("batch", 8, 0)]))
    assert not table.is_best("batch", 8)


def test_a_cell_without_a_converged_run_says_so_and_is_never_best():
    rows = make_rows(diverged=(("none", 2, 0), ("none", 2, 1)))
    accuracy, gap, step_time, _ = tables(summarize(rows))
    assert accuracy.text("none", 2) == "diverged"
    assert gap.text("none", 2) == step_time.text("none", 2) == "–"
    assert not step_time.is_best("none", 2)
    assert divergence_note(summarize(rows)) is None


def test_a_cell_with_one_diverged_run_is_marked_and_counts_with_its_credited_accuracy():
    rows = make_rows(diverged=(("group", 8, 1),))
    values = accuracies(rows, "group", 8)
    assert values[1] == pytest.approx(10.0)
    assert (
        Table(ACCURACY, summarize(rows)).text("group", 8) == f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f} †"
    )
    note = divergence_note(summarize(rows))
    assert note is not None
    assert note.startswith("† 1 run diverged")


def test_a_cell_without_a_finished_run_is_a_dash():
    rows = make_rows()[:1]
    rows += [make_row("group", 8, 0)]
    assert Table(ACCURACY, summarize(rows)).text("batch", 8) == "–"
