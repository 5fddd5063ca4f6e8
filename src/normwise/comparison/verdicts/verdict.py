"""The verdict on one batch size, and how it is said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..metric import Metric
from .cells import listed, spoken


@dataclass(frozen=True)
class Verdict:
    """Who leads at a batch size. `needed` is what the lead over the runner-up had to exceed (None: one seed).

    `leader` is the best of the reliable, None where there is none or where nothing trained.
    `tied` are the normalizers, best first and beginning with the leader, that are not clearly behind it; `unreliable`
    those whose runs disagree (see `judging.RULE`), `above` those of them that are better than the leader on average;
    `behind` all others. `clear` where all others are behind. The runner-up is the best of the other reliable ones.
    `more_seeds` would make the lead over the runner-up clear if it stays what it is: None where it is clear, where so
    many are not worth saying, or where the held-out samples are too few (`resolution` is the least lead they show).
    `trained` is false where no run learned anything, and `diverged` says whether that is because every run diverged.
    `means` are over the seeds that all have.
    """

    batch_size: int
    leader: str | None
    runner_up: str | None
    lead: float | None
    needed: float | None
    tied: tuple[str, ...]
    unreliable: tuple[str, ...]
    above: tuple[str, ...]
    behind: tuple[str, ...]
    clear: bool
    trained: bool
    diverged: bool
    resolution: float
    more_seeds: int | None
    means: Mapping[str, float]
    metric: Metric

    @property
    def sentence(self) -> str:
        """The verdict in words, with the numbers that say so."""
        return _sentence(self)


_DIVERGED = "nothing trained: every run diverged. Its learning rate is too high."
_AT_CHANCE = "nothing trained: nobody is better than {chance}, as far as the held-out samples tell."


def _sentence(verdict: Verdict) -> str:
    start = f"Batch size {verdict.batch_size}: "
    if not verdict.trained:
        return f"{start}{_nothing_trained(verdict)}"
    if verdict.leader is None:
        return f"{start}no clear winner, since no normalizer is reliable."
    metric = verdict.metric
    start += f"{spoken(verdict.leader)} {metric.text(verdict.means[verdict.leader])}"
    if verdict.runner_up is None or verdict.lead is None:
        alone = len(verdict.means) == 1
        return f"{start}, {'nothing to compare with' if alone else 'and no other is reliable'}{_higher(verdict)}."
    start += f", {spoken(verdict.runner_up)} {metric.text(verdict.means[verdict.runner_up])}; "
    if verdict.needed is None:
        return f"{start}one run each has no spread, so no lead is clear."
    verb = "larger" if verdict.lead > verdict.needed else "not larger"
    return (
        f"{start}the lead of {metric.difference(verdict.lead)}{metric.unit} is {verb} than the "
        f"{metric.difference(verdict.needed)}{metric.unit} that chance explains: {_winner(verdict)}{_higher(verdict)}."
    )


def _nothing_trained(verdict: Verdict) -> str:
    if not verdict.metric.own:
        return _DIVERGED if verdict.diverged else _AT_CHANCE.format(chance=verdict.metric.chance)
    return f"no run has a finite {verdict.metric.name}."


def _winner(verdict: Verdict) -> str:
    if len(verdict.tied) > 1 or verdict.above:
        return "no clear winner"
    return "a clear winner" if verdict.clear else "a clear winner among the reliable"


def _higher(verdict: Verdict) -> str:
    if not verdict.above:
        return ""
    named = listed([spoken(norm) for norm in verdict.above])
    verb, whose = ("is", "its") if len(verdict.above) == 1 else ("are", "their")
    why = "disagree or failed" if verdict.metric.own else "disagree"
    return f"; {named} {verb} better on average, but {whose} runs {why}"
