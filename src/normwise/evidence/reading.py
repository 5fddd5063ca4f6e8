"""From rows to verdicts; the committed results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .experiment import UNDECIDED, Experiment, Results, Row, Verdict

RESULTS = Path(__file__).with_name("results")


def judged(experiment: Experiment, rows: Sequence[Row]) -> Verdict:
    """The verdict by the experiment's rule; undecided if a case has no finished run."""
    results = Results(rows)
    missing = [case for case in experiment.cases if case not in results.cases()]
    if missing:
        failed = next((row["message"] for row in rows if row["status"] != "finished"), "it was not run")
        return Verdict(UNDECIDED, f"No run of {missing[0]} is finished: {failed}")
    return experiment.judge(results)


def read_committed(experiment: Experiment) -> Verdict | None:
    """The verdict on the results that come with the package; None if there are none."""
    rows = committed_rows(experiment)
    return judged(experiment, rows) if rows else None


def committed_rows(experiment: Experiment) -> list[Row]:
    """The results that come with the package."""
    file = RESULTS / f"{experiment.number}.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def about_committed() -> dict[str, Any]:
    """Machine and versions of those results, by experiment."""
    return json.loads((RESULTS / "about.json").read_text(encoding="utf-8"))
