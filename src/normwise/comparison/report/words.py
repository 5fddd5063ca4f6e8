"""The sentences of the report: counts, dates, definitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ..groups import NAMES_SHOWN
from ..metric import ACCURACY, Metric, metric_of
from ..settings import is_own
from ..verdicts import tried_rates
from ..verdicts.cells import Row
from ..verdicts.sequential import stops_among

About = Mapping[str, Any]

MEANINGS = {
    "rmse": "Root of the mean squared error, in the unit of the target; for several targets the mean.",
    "mae": "Mean absolute error, in the unit of the target; for several targets the mean.",
    "r2": "1 minus the squared error over that of the held-out mean; for several targets the mean.",
    "dice": "2 |A ∩ B| / (|A| + |B|) of the predicted and the true pixels of a class, mean over the classes.",
    "iou": "|A ∩ B| / |A ∪ B| of the predicted and the true pixels of a class, mean over the classes.",
    "f1": "Harmonic mean of precision and recall of a class among the tokens that count, mean over the classes.",
    "accuracy": "Share of the tokens that count whose class is predicted correctly.",
    "perplexity": "The exponential of the mean cross-entropy of a token in nats.",
}


def planned_runs(about: About) -> int:
    """The number of runs in the whole sweep; a normalizer may be missing at a batch size."""
    settings = about["settings"]
    cells = len(settings["norms"]) * len(settings["batch_sizes"]) - len(about.get("missing", ()))
    return cells * len(settings["seeds"])


def subject_of(about: About) -> str:
    """The subject of the sweep: a model on data, or the function that trains."""
    model, data = about["settings"]["model"], about["data"]
    return f"{model} on {data['name']}" if data else model


def extent(rows: Sequence[Row], about: About) -> str:
    """The runs in one sentence.

    >>> settings = {"norms": ["batch", "none"], "batch_sizes": [2], "seeds": [0, 1], "epochs": 5}
    >>> extent([], {"settings": settings})
    '2 normalizers × 1 batch size × 2 seeds = 4 runs of 5 epochs.'
    """
    settings = about["settings"]
    counts = [
        _count(len(settings["norms"]), "normalizer"),
        _count(len(settings["batch_sizes"]), "batch size"),
        _count(len(settings["seeds"]), "seed"),
    ]
    own = is_own(settings)
    diverged, failed = (sum(row["status"] == status for row in rows) for status in ("diverged", "failed"))
    what = f"its {settings['metric']} is not finite" if own else "the loss stopped being finite"
    ended = f" {diverged} of them diverged: {what}." if diverged else ""
    ended += f" {failed} failed." if failed else ""
    runs = _count(planned_runs(about), "run")
    return f"{' × '.join(counts)} = {runs}{'' if own else ' of ' + _count(settings['epochs'], 'epoch')}.{ended}"


def partial(rows: Sequence[Row], about: About) -> str | None:
    """A sentence on the missing runs of an unfinished sweep; None for a finished one."""
    planned = planned_runs(about)
    if len(rows) >= planned or _stopped(rows, about):
        return None
    return f"Unfinished: {len(rows)} of {planned} runs are in. The same command does the rest."


def _stopped(rows: Sequence[Row], about: About) -> bool:
    """Whether all missing runs were stopped because their contestant is behind or their batch size decided."""
    settings, missing = about["settings"], {tuple(place) for place in about.get("missing", ())}
    if not settings.get("looks"):
        return False
    places = {(norm, size) for norm in settings["norms"] for size in settings["batch_sizes"]} - missing
    stops = stops_among(rows, places, settings["looks"])
    done = {(row["norm"], row["batch_size"], row["seed"]) for row in rows}
    going_on = [place for place in places if not stops.holds(*place)]
    return all((*place, seed) in done for place in going_on for seed in settings["seeds"])


def rate_note(about: About) -> str | None:
    """A remark on learning rates: one is shared by all, or the chosen one is at an end of those tried."""
    settings = about["settings"]
    if settings.get("lrs"):
        return tried_rates.in_words(about)
    if is_own(settings) or len(settings["norms"]) < 2:
        return None
    shared = f"{settings['learning_rate']:g}"
    return f"One learning rate for all ({shared}) may not suit each of them: --lrs chooses one for each."


def dates(rows: Sequence[Row]) -> str:
    """When the runs were started, in UTC: "2026-01-02 03:04 to 03:09 UTC"."""
    started = sorted(datetime.fromisoformat(row["started"]) for row in rows)
    first, last = started[0], started[-1]
    begin, end = f"{first:%Y-%m-%d %H:%M}", f"{last:%Y-%m-%d %H:%M}"
    if begin == end:
        return f"{begin} UTC"
    return f"{begin} to {end[11:] if first.date() == last.date() else end} UTC"


def with_capital(text: str) -> str:
    """The text with a capital first letter, the others unchanged.

    >>> with_capital("accuracy"), with_capital("RMSE")
    ('Accuracy', 'RMSE')
    """
    return f"{text[0].upper()}{text[1:]}"


def definitions(rows: Sequence[Row], about: About) -> list[tuple[str, str]]:
    """Each quantity of the report with its definition and unit."""
    kinds = ", ".join(sorted({row["memory_kind"] for row in rows if row["memory_kind"]}))
    if about["data"] is None:
        return _definitions_of_own(about, kinds)
    metric = metric_of(rows)
    return [
        _metric_in_words(metric, about["data"]["test_samples"]),
        (
            f"Train-eval gap{', points' if metric.share else ''}",
            f"{with_capital(metric.spoken)} on the same held-out samples with the normalizers in training mode (with "
            f"the statistics of each batch of that batch size{_by_group(about)}), minus that in evaluation mode. Only "
            "normalizers whose statistics differ between the two modes, such as BatchNorm, can have a gap.",
        ),
        ("Training loss", f"{about.get('loss', 'Cross-entropy in nats')}, mean over the steps of the epoch."),
        (
            "Step time, ms",
            "Forward, backward, gradient clipping and update of one batch: median over steps that the normalizers of a "
            "batch size take in turns, then over the seeds.",
        ),
        (
            "Peak memory, MB",
            "Parameters, buffers and optimizer state plus the peak of one training step's allocations; the largest "
            f"over the seeds. 1 MB is 10⁶ bytes; the data are not counted. Measured with: {kinds}.",
        ),
        (
            "Squared channel mean, channel variance",
            "Of the input of each normalization site, over the batch and the positions, then averaged over the "
            "channels (biased variance; Brock et al. 2021, arXiv:2101.08692). One fixed batch of training samples, "
            "before the first step and after the last; mean over the seeds.",
        ),
    ]


def _metric_in_words(metric: Metric, samples: int) -> tuple[str, str]:
    over = "mean ± standard deviation over the seeds (n − 1 in the denominator)"
    if metric == ACCURACY:
        return (
            "Test accuracy, %",
            f"Share of the {samples} held-out samples classified correctly in evaluation mode after the last epoch: "
            f"{over}. "
            f"One sample is {100 / samples:.2g} %.",
        )
    return (
        f"{metric.title}{', %' if metric.share else ''}",
        f"{MEANINGS[metric.name]} Over the {samples} held-out samples in evaluation mode after the last epoch: {over}; "
        f"{'more' if metric.sign > 0 else 'less'} is better.",
    )


def _definitions_of_own(about: About, kinds: str) -> list[tuple[str, str]]:
    """The quantities of a user's own training."""
    settings = about["settings"]
    memory = [("Peak memory, MB", f"The largest allocation of a run. 1 MB is 10⁶ bytes. Measured with: {kinds}.")]
    return [
        (
            settings["metric"],
            f"The value that {settings['model']} returned: mean ± standard deviation over the seeds (n − 1 in the "
            "denominator); "
            f"{'more' if settings['direction'] == 'max' else 'less'} is better.",
        ),
        (
            "Step time, ms",
            "Between two steps of an optimizer: median over a run, then over the seeds. Runs are timed one after "
            "another, so small differences say nothing.",
        ),
        *(memory if kinds else []),
    ]


def settings_in_words(about: About) -> list[tuple[str, str]]:
    """Data, model, seeds and machine as pairs of term and description."""
    data, settings, machine = about["data"], about["settings"], about["machine"]
    return [
        *([("Data", _data_in_words(data))] if data else []),
        *_mini_batches(about),
        ("Model" if data else "Training", settings["model"]),
        ("Seeds", ", ".join(map(str, settings["seeds"]))),
        (
            "Machine",
            f"{machine.get('gpu', machine['processor'])}, {_count(settings['threads'], 'thread')}, {machine['system']}",
        ),
        ("Versions", ", ".join(f"{name} {version}" for name, version in about["versions"].items())),
    ]


def _by_group(about: About) -> str:
    return " and of one group" if about["settings"].get("batches_by") else ""


def _mini_batches(about: About) -> list[tuple[str, str]]:
    """How mini-batches are made, if they are made by groups."""
    key, names = about["settings"].get("batches_by"), (about["data"] or {}).get("groups", ())
    if not key:
        return []
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return [("Mini-batches", f"Of one group each, by {key}: {', '.join(names[:NAMES_SHOWN])}{more}.")]


def _data_in_words(data: Mapping[str, Any]) -> str:
    shape = "×".join(map(str, data["sample_shape"]))
    return (
        f"{data['name']}: {data['train_samples']} training and {data['test_samples']} held-out samples of shape "
        f"{shape}, {len(data['classes'])} classes. Fingerprint {data['fingerprint']}."
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
