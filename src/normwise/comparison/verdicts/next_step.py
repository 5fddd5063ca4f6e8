"""The next step after a sweep: a sentence and a command."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ..data.embedded import DIGITS, DOMAIN, MIXED
from ..settings import is_own
from . import tried_rates
from .cells import counted, spoken
from .summary import Summary

ENOUGH_SEEDS = 3
# More seeds than this are not suggested: other data tell more.
MOST_MORE_SEEDS = 20
LOWER, TRIED_RATES = 0.1, (0.3, 1.0, 3.0)
LONGER = 4
BY_DOMAIN = (
    f"normwise compare --data {MIXED} --batches-by {DOMAIN} --norms batch,bank,renorm,group,nf --batch-sizes 16,64 "
    "--out results/by-domain"
)
OWN_DATA = "normwise compare --data photos/ --model timm:resnet18 --norms batch,group,instance --out results/photos"

Changed = Callable[[Mapping[str, Any]], str]


class NextStep(NamedTuple):
    """`why` is a sentence; `command` is None if nothing is left to measure."""

    why: str
    command: str | None


def next_step(unfinished: bool, about: Mapping[str, Any], summary: Summary, again: Changed) -> NextStep:
    """The next step, in this order: missing runs, the reader's own data, open verdicts, a learning rate for each.

    `unfinished`: whether planned runs are missing; `about` is what `settings.json` holds; `again` returns the command
    of the sweep with changed settings.
    """
    settings = about["settings"]
    if unfinished:
        return NextStep("Do the rest of the runs.", again({}))
    judged = [verdict for verdict in summary.verdicts if verdict.trained]
    own = is_own(settings)
    if not judged and own:
        return NextStep("No run has a result: the report says why.", None)
    if not judged:
        if not any(verdict.diverged for verdict in summary.verdicts):
            return NextStep("Train longer.", again({"epochs": LONGER * settings["epochs"]}))
        return NextStep("Lower the learning rate.", again(_rates(settings, [LOWER])))
    if settings["data"] in (DIGITS, MIXED):
        if settings.get("batches_by"):
            return NextStep("Compare on your own data, a folder with one directory per class.", OWN_DATA)
        return NextStep("See what changes if every mini-batch is of one domain.", BY_DOMAIN)
    seeds = len(settings["seeds"])
    more = min((verdict.more_seeds for verdict in judged if verdict.more_seeds), default=None)
    if seeds == 1:
        return NextStep("See how far the runs of several seeds spread.", again(_seeds(ENOUGH_SEEDS)))
    if more is not None and more <= MOST_MORE_SEEDS:
        return NextStep(f"Settle what is open with {counted(more, 'more seed')}.", again(_seeds(seeds + more)))
    if not own and not settings.get("lrs"):
        return NextStep("Give each its own learning rate.", again(_rates(settings, TRIED_RATES)))
    if rates := tried_rates.beyond(about):
        return NextStep("Try learning rates beyond the end of those tried.", again({"lrs": rates}))
    leading = list(dict.fromkeys(norm for verdict in judged for norm in verdict.tied))
    chosen = spoken(leading[0]) if len(leading) == 1 else "the cheapest of those that lead"
    return NextStep(f"Nothing is left to measure here: train with {chosen}.", None)


def _seeds(number: int) -> dict[str, Any]:
    return {"seeds": list(range(number))}


def _rates(settings: Mapping[str, Any], shares: Sequence[float]) -> dict[str, Any]:
    """The learning rates of the sweep times each of `shares`."""
    if settings.get("lrs"):
        return {"lrs": [float(f"{LOWER * rate:.3g}") for rate in settings["lrs"]]}
    rates = [float(f"{share * settings['learning_rate']:.3g}") for share in shares]
    return {"learning_rate": rates[0]} if len(rates) == 1 else {"lrs": rates}
