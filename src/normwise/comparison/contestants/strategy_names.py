"""Contestants that fine-tune a model with normalizers: their names and their descriptions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ...errors import InputError
from ...layers import NORMALIZERS, Norm, find_normalizer
from ...layers.normalizers import Normalizer
from .bank import BANK

FROZEN, RECALIBRATED, SWAP, ANNEAL = "frozen", "recalibrated", "swap", "anneal"
#: The share of a run after which an annealed normalizer has replaced the old one completely.
ANNEALED_AT = 2 / 3
#: Samples in a batch that statistics are computed anew with.
RECALIBRATION_BATCH = 128
_OWN = {f"batch:{FROZEN}": FROZEN, f"batch:{RECALIBRATED}": RECALIBRATED}
_ADJECTIVES = {FROZEN: "frozen", RECALIBRATED: "recalibrated", SWAP: "swapped-in", ANNEAL: "annealed"}
_PROTOCOLS = {
    FROZEN: (
        "batch:frozen normalizes by the running statistics that the model brings, in training, too, and leaves them as "
        "they are (normwise.freeze); γ and β are trained."
    ),
    RECALIBRATED: (
        "batch:recalibrated is trained as BatchNorm; after the last epoch its running statistics are computed anew "
        f"over the training data (normwise.recalibrate; in our own loop in batches of {RECALIBRATION_BATCH})."
    ),
    SWAP: (
        "swap:NORM takes the place of the model's own normalizers with γ and β computed from their running statistics, "
        "so that an average sample is normalized as before (normwise.swap, start='data-free'); as many groups as "
        "leave at least 8 channels in each, nearest to 32."
    ),
    ANNEAL: (
        "anneal:NORM begins as exactly the function that the model has learned and goes over to the normalizer in the "
        "first two thirds of the steps (normwise.swap, start='exact'); groups as for swap:NORM."
    ),
}


class Strategy(NamedTuple):
    """The strategy (`FROZEN`, ...) and its normalizer."""

    method: str
    norm: str

    @property
    def needs_statistics(self) -> bool:
        """Whether it begins with running statistics that data have moved."""
        return self.method != RECALIBRATED

    @property
    def has_an_end(self) -> bool:
        """Whether something is left to do after training."""
        return self.method in (RECALIBRATED, ANNEAL)

    @property
    def by_the_batch(self) -> bool:
        """Whether training normalizes by the mini-batch."""
        return self.method != FROZEN and NORMALIZERS[self.norm.partition(":")[0]].uses_batch

    @property
    def adjective(self) -> str:
        return _ADJECTIVES[self.method]


def strategy_of(norm: Norm) -> Strategy | None:
    """The strategy of a name, None for every other contestant.

    >>> strategy_of("swap:group:8"), strategy_of("batch:frozen").norm, strategy_of("group:8")
    (Strategy(method='swap', norm='group:8'), 'batch', None)
    """
    if not isinstance(norm, str):
        return None
    if norm in _OWN:
        return Strategy(_OWN[norm], "batch")
    method, colon, replacement = norm.partition(":")
    return Strategy(method, replacement) if colon and method in (SWAP, ANNEAL) else None


def row_of(norm: Norm) -> Normalizer | None:
    """The row of the normalizer that a contestant puts into a model; None where the table has none."""
    strategy = strategy_of(norm)
    name = "batch" if norm == BANK else strategy.norm if strategy else norm
    return NORMALIZERS.get(name.partition(":")[0]) if isinstance(name, str) else None


def trains_by_the_batch(norm: str) -> bool:
    """Whether training takes more than one sample in a batch."""
    strategy, row = strategy_of(norm), row_of(norm)
    return strategy.by_the_batch if strategy else row is not None and row.uses_batch


def check_name(norm: str) -> None:
    """Raises InputError for a name that is neither a normalizer's nor a strategy's."""
    strategy = strategy_of(norm)
    name = strategy.norm if strategy else norm
    base, colon, option = name.partition(":")
    try:
        row = find_normalizer(base)
    except ValueError as error:
        raise InputError(f"norms: {norm!r}: {error}" if strategy else str(error)) from error
    if base == "batch" and colon:
        raise InputError(
            f"norms: {norm!r} is unknown: after 'batch:' comes {FROZEN} or {RECALIBRATED}, received {option!r}."
        )
    if strategy and not row.for_channels:
        raise InputError(
            f"norms: {norm!r}: {strategy.method}: takes a normalizer of maps [N, C, *space], such as "
            f"{strategy.method}:group or {strategy.method}:layer."
        )


def protocols(norms: Iterable[str]) -> list[str]:
    """A sentence on each strategy among the contestants."""
    methods = {strategy.method for norm in norms if (strategy := strategy_of(norm))}
    return [sentence for method, sentence in _PROTOCOLS.items() if method in methods]
