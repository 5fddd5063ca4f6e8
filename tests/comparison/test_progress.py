import pytest

from normwise.comparison.settings import Run
from normwise.comparison.sweeping.progress import Progress

RUNS = [Run("batch", 8, 0), Run("group", 8, 0), Run("batch", 2, 0)]


def test_earlier_runs_count_as_work_but_not_as_experience():
    progress = Progress(RUNS, {8: 10.0, 2: 30.0}, finished=RUNS[:1])
    assert (progress.done, progress.total, progress.share()) == (1, 3, pytest.approx(0.2))
    assert progress.seconds_left() == pytest.approx(40)


def test_the_estimate_is_corrected_by_what_runs_took():
    progress = Progress(RUNS, {8: 10.0, 2: 30.0}, finished=[])
    assert progress.seconds_left(RUNS[0], part=0.5, seconds=10) == pytest.approx(2 * 45)
    progress.finish(RUNS[0], seconds=20)
    progress.finish(RUNS[1], seconds=20)
    assert progress.seconds_left() == pytest.approx(60)
    progress.finish(RUNS[2], seconds=60)
    assert (progress.share(), progress.seconds_left(), progress.done) == (1.0, 0.0, 3)
