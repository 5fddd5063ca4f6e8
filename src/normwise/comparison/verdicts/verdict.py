"""The verdict on one batch size, and its sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..metric import Metric
from .cells import listed, spoken


@dataclass(frozen=True)
class Verdict:
    """The verdict on one batch size. `needed` is the bound for the lead over the runner-up (None: one seed).

    `leader` is the best of the reliable ones, None if there is none or if it is no better than chance; in that case the
    reliable ones are listed in `at_chance`, if others learned something in some of their runs.
    `tied` are the normalizers, best first and beginning with the leader, that are not clearly behind it; `unreliable`
    those whose runs disagree (see `judging.RULE`), `above` those of them that are better than the leader on average;
    `behind` all others. `clear`: all others are behind. The runner-up is the best of the other reliable ones.
    `more_seeds` is the number of additional seeds that would make an unchanged lead over the runner-up clear: None if
    it is clear, if too many would be needed, or if the held-out samples are too few (`resolution` is the least lead
    that they can show). `trained` is false if no run learned anything; `diverged` then says whether every run diverged.
    `means` are over the seeds that all normalizers have.
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
    at_chance: tuple[str, ...]
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
_AT_CHANCE = "nothing trained: no normalizer is better than {chance}, as far as the held-out samples tell."


def _sentence(verdict: Verdict) -> str:
    start = f"Batch size {verdict.batch_size}: "
    if not verdict.trained:
        return f"{start}{_nothing_trained(verdict)}"
    if verdict.leader is None:
        return f"{start}no clear winner, since {_without(verdict)}."
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
    return f"no run has a finite {verdict.metric.spoken}."


def _without(verdict: Verdict) -> str:
    if not verdict.at_chance:
        return "no normalizer is reliable"
    named, others = (listed([spoken(norm) for norm in norms]) for norms in (verdict.at_chance, verdict.unreliable))
    verb = "is" if len(verdict.at_chance) == 1 else "are"
    return f"{named} {verb} no better than {verdict.metric.chance}, and the runs of {others} disagree"


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
