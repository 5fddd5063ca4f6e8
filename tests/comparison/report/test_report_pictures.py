"""What the figures show against the rows, by NumPy."""

import numpy as np
import pytest
from synthetic import BATCH_SIZES, NORMS, make_rows

from normwise.comparison import summarize
from normwise.comparison.report.palette import styles
from normwise.comparison.report.pictures import MOMENTS, TIMES, against_batch_size, learning_curves, one_by_one, signal
from normwise.comparison.report.pictures.figure import empty_figure, use_log_scale
from normwise.comparison.verdicts.cells import title
from normwise.comparison.verdicts.tables import tables

LOOKS = styles(NORMS)
ROWS = make_rows(seeds=3)
BROKEN = make_rows(diverged=(("none", 2, 0), ("none", 2, 1), ("group", 8, 1)))


def of(rows, norm, batch_size):
    return [row for row in rows if (row["norm"], row["batch_size"]) == (norm, batch_size)]


def traces(picture, norm):
    return [trace for trace in picture.figure.data if trace.meta == norm]


def mean_line(picture, norm):
    return next(t for t in traces(picture, norm) if t.mode == "lines+markers" and t.line.dash is None)


def all_pictures(rows):
    yield from (against_batch_size(table, rows, LOOKS) for table in tables(summarize(rows)))
    for size in BATCH_SIZES:
        yield from (learning_curves(rows, size, field, LOOKS) for field in ("test_accuracy", "train_loss"))
        yield from (signal(rows, size, moment, time, LOOKS) for moment in MOMENTS for time in TIMES)


@pytest.mark.parametrize("norm", NORMS)
def test_accuracy_has_means_and_error_bars_of_one_standard_deviation(norm):
    accuracy = tables(summarize(ROWS))[0]
    line = mean_line(against_batch_size(accuracy, ROWS, LOOKS), norm)
    values = [[100 * row["test_accuracy"] for row in of(ROWS, norm, size)] for size in BATCH_SIZES]
    np.testing.assert_allclose(line.y, np.mean(values, axis=1))
    np.testing.assert_allclose(line.error_y.array, np.std(values, axis=1, ddof=1))


def test_accuracy_shows_every_run():
    accuracy = tables(summarize(ROWS))[0]
    picture = against_batch_size(accuracy, ROWS, LOOKS)
    shown = sorted(y for trace in picture.figure.data if trace.mode == "markers" for y in trace.y)
    np.testing.assert_allclose(shown, sorted(100 * row["test_accuracy"] for row in ROWS))


def test_one_seed_has_no_error_bars():
    rows = make_rows(seeds=1)
    picture = against_batch_size(tables(summarize(rows))[0], rows, LOOKS)
    assert all(trace.error_y.array is None for trace in picture.figure.data)


def test_the_accuracy_axis_ends_near_0_and_100_percent():
    picture = against_batch_size(tables(summarize(BROKEN))[0], BROKEN, LOOKS)
    low, high = picture.figure.layout.yaxis.range
    assert -7 < low < 10
    assert 100 < high < 107


def failing(level, seeds=3):
    """The contestant "none" at a level of its own, and GroupNorm so near to 100 % that a deviation passes it."""
    rows = make_rows(seeds=seeds)
    for row in rows:
        if row["norm"] == "none":
            row["test_accuracy"] = level + 0.01 * row["seed"]
        elif row["norm"] == "group":
            row["test_accuracy"] = 1.0 - 0.02 * (row["seed"] == 0)
    return rows


def test_one_that_fails_does_not_press_the_others_together():
    rows = failing(0.12)
    layout = against_batch_size(tables(summarize(rows))[0], rows, LOOKS).figure.layout
    assert layout.yaxis.range[0] > 75
    assert 8 < layout.yaxis2.range[0] < layout.yaxis2.range[1] < 20
    assert layout.yaxis.domain[0] > layout.yaxis2.domain[1]
    picture = against_batch_size(tables(summarize(rows))[0], rows, LOOKS)
    below = [trace for trace in picture.figure.data if trace.yaxis == "y2"]
    assert {trace.meta for trace in below} == {"none"}
    np.testing.assert_allclose(next(t for t in below if t.error_y.array is not None).y, [13.0] * 3)


def test_an_axis_that_need_not_be_broken_is_whole():
    rows = failing(0.8)
    layout = against_batch_size(tables(summarize(rows))[0], rows, LOOKS).figure.layout
    assert "yaxis2" not in layout.to_plotly_json()
    assert layout.yaxis.range[0] < 80


def test_no_error_bar_leaves_the_range_of_accuracies():
    rows = failing(0.0)
    picture = against_batch_size(tables(summarize(rows))[0], rows, LOOKS)
    for norm in NORMS:
        line = mean_line(picture, norm)
        assert max(np.add(line.y, line.error_y.array)) <= 100 + 1e-9
        assert min(np.subtract(line.y, line.error_y.arrayminus)) >= -1e-9
    assert mean_line(picture, "group").error_y.array[0] < mean_line(picture, "group").error_y.arrayminus[0]


def test_small_pictures_show_one_normalizer_before_all_others():
    accuracy = tables(summarize(ROWS))[0]
    shown = one_by_one(accuracy, ROWS, LOOKS)
    assert [picture.title for picture in shown] == [title(norm) for norm in NORMS]
    for norm, picture in zip(NORMS, shown, strict=True):
        coloured = {trace.meta for trace in picture.figure.data if trace.line.color == LOOKS[trace.meta].color}
        assert coloured == {norm}
        assert {trace.meta for trace in picture.figure.data} == set(NORMS)
    assert len({tuple(picture.figure.layout.yaxis.range) for picture in shown}) == 1


def test_points_of_the_same_batch_size_stand_side_by_side():
    picture = against_batch_size(tables(summarize(ROWS))[1], ROWS, LOOKS)
    places = [mean_line(picture, norm).x[0] for norm in NORMS]
    assert len(set(places)) == len(NORMS)
    assert max(np.abs(places)) < 0.5


def test_many_contestants_stay_at_their_batch_size():
    names = tuple(f"norm{i}" for i in range(14))
    rows = make_rows(names, seeds=1)
    picture = against_batch_size(tables(summarize(rows))[0], rows, styles(names))
    places = np.array([mean_line(picture, name).x for name in names])
    assert places.shape == (14, len(BATCH_SIZES))
    assert abs(places - np.arange(len(BATCH_SIZES))).max() < 0.25
    assert (np.diff(places, axis=0) > 0).all()


@pytest.mark.parametrize(("index", "field"), [(2, "step_ms"), (3, "peak_memory_bytes")])
def test_cost_is_on_a_logarithmic_scale_that_holds_every_point(index, field):
    picture = against_batch_size(tables(summarize(ROWS))[index], ROWS, LOOKS)
    axis = picture.figure.layout.yaxis
    assert axis.type == "log"
    values = [y for trace in picture.figure.data for y in trace.y]
    assert axis.range[0] < np.log10(min(values)) < np.log10(max(values)) < axis.range[1]
    assert len(axis.tickvals) >= 3


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0.001, 1.0, 2000.0], ["0.001", "0.01", "0.1", "1", "10", "100", "1000"]),
        ([2.0, 80.0], ["2", "5", "10", "20", "50"]),
        ([2.1, 6.0], ["2", "3", "4", "5", "7"]),
        ([1241.0, 2353.0], ["1500", "2000", "2500"]),
        ([1.42, 2.09], ["1.5", "2", "2.5"]),
        ([2.31, 2.33], ["2", "2.1", "2.2", "2.3", "2.4", "2.5", "2.6", "2.7", "2.8"]),
        ([1e-20, 1e20], ["10<sup>-15</sup>", "10<sup>-9</sup>", "0.001", "1000", "10<sup>9</sup>", "10<sup>15</sup>"]),
    ],
)
def test_ticks_of_a_logarithmic_scale(values, labels):
    figure = empty_figure("")
    use_log_scale(figure, [*values, None, 0.0])
    assert list(figure.layout.yaxis.ticktext) == labels


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("field", "factor"), [("test_accuracy", 100), ("train_loss", 1)])
def test_learning_curves_are_means_over_the_seeds(norm, field, factor):
    line = mean_line(learning_curves(ROWS, 8, field, LOOKS), norm)
    values = [[factor * point[field] for point in row["curve"]] for row in of(ROWS, norm, 8)]
    assert list(line.x) == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(line.y, np.mean(values, axis=0))


def test_the_band_of_a_learning_curve_is_the_range_of_the_runs():
    picture = learning_curves(ROWS, 8, "test_accuracy", LOOKS)
    band = next(trace for trace in traces(picture, "batch") if trace.fill == "toself")
    values = np.array([[100 * point["test_accuracy"] for point in row["curve"]] for row in of(ROWS, "batch", 8)])
    np.testing.assert_allclose(band.y, [*values.max(0), *values.min(0)[::-1]])


def test_a_diverged_run_is_drawn_by_itself_and_ends_in_a_cross():
    picture = learning_curves(BROKEN, 8, "test_accuracy", LOOKS)
    dotted = [trace for trace in traces(picture, "group") if trace.line.dash == "dot"]
    assert len(dotted) == 1
    assert list(dotted[0].x) == [1, 2]
    assert list(dotted[0].marker.size) == [0, 12]
    assert "The loss is not finite after epoch 2 of 5." in dotted[0].hovertemplate
    finished = of(BROKEN, "group", 8)[0]
    np.testing.assert_allclose(
        mean_line(picture, "group").y, [100 * point["test_accuracy"] for point in finished["curve"]]
    )


def test_where_all_runs_diverged_there_is_no_mean_curve():
    picture = learning_curves(BROKEN, 2, "test_accuracy", LOOKS)
    assert [trace.line.dash for trace in traces(picture, "none")] == ["dot", "dot"]


def test_a_diverged_run_is_a_cross_in_the_accuracy_picture():
    picture = against_batch_size(tables(summarize(BROKEN))[0], BROKEN, LOOKS)
    dots = next(trace for trace in traces(picture, "group") if trace.mode == "markers")
    assert sum(symbol == "x-thin" for symbol in dots.marker.symbol) == 1


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("time", TIMES)
def test_the_signal_is_the_mean_over_the_seeds_per_site(moment, time):
    line = mean_line(signal(ROWS, 64, moment, time, LOOKS), "none")
    values = [[layer[time][moment] for layer in row["layers"]] for row in of(ROWS, "none", 64)]
    assert list(line.x) == [1, 2, 3, 4, 5, 6, 7]
    np.testing.assert_allclose(line.y, np.mean(values, axis=0))


@pytest.mark.parametrize("moment", MOMENTS)
def test_start_and_end_share_a_scale(moment):
    start, end = (signal(ROWS, 8, moment, time, LOOKS).figure.layout.yaxis for time in TIMES)
    assert start.range == end.range


def test_values_that_are_not_finite_are_left_out_of_the_signal():
    picture = signal(BROKEN, 2, "variance", "end", LOOKS)
    assert not traces(picture, "none")
    assert traces(picture, "batch")


@pytest.mark.parametrize("rows", [ROWS, BROKEN], ids=["whole", "with diverged runs"])
def test_a_normalizer_has_one_colour_in_every_picture(rows):
    for picture in all_pictures(rows):
        for trace in picture.figure.data:
            colors = {trace.marker.color, trace.line.color} - {None}
            assert colors <= {LOOKS[trace.meta].color}


@pytest.mark.parametrize("rows", [ROWS, BROKEN], ids=["whole", "with diverged runs"])
def test_every_picture_says_in_words_what_it_shows(rows):
    for picture in all_pictures(rows):
        assert picture.title.split(",")[0].split(":")[-1].strip().lower() in picture.alt.lower()
        assert "BatchNorm" in picture.alt


def luminance(color):
    channels = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("page", ["#ffffff", "#14171a"], ids=["light", "dark"])
def test_colours_have_the_contrast_that_wcag_asks_of_graphics(page):
    for style in styles([*NORMS, *map(str, range(6))]).values():
        lighter, darker = sorted([luminance(style.color), luminance(page)], reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 3, style


def test_thirty_normalizers_all_look_different():
    looks = styles([*NORMS, *map(str, range(25))])
    assert len({(style.color, style.symbol) for style in looks.values()}) == 30


@pytest.mark.parametrize("taken", [[], ["batch"], ["batch", "group", "nf"], [*NORMS, "nf"]], ids=len)
def test_a_colour_or_marker_is_used_twice_only_when_all_are_in_use(taken):
    colors = 10 - len(taken)
    looks = styles([*taken, *map(str, range(28))])
    others = [looks[str(i)] for i in range(28)]
    assert len({style.color for style in looks.values()}) == 10
    assert len({style.color for style in others[:colors]}) == colors
    assert len({style.symbol for style in others[:7]}) == 7
    assert len({(style.color, style.symbol) for style in looks.values()}) == len(looks)


def test_two_variants_of_a_normalizer_look_different():
    looks = styles(["group:4", "group:8"])
    assert looks["group:4"] == styles(["group"])["group"] != looks["group:8"]


def test_ticks_of_a_logarithmic_scale_never_crowd():
    figure = empty_figure("")
    for low in np.geomspace(1, 10, 19):
        for ratio in np.geomspace(1.0001, 1e6, 31):
            use_log_scale(figure, [low, low * ratio])
            assert 2 <= len(figure.layout.yaxis.tickvals) <= 11, (low, ratio)
