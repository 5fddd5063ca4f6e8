"""Behaviours of the comparison's verdicts, each broken once; see `mutants.py`."""

from __future__ import annotations

from mutation import Mutation

SUMMARY = "tests/comparison/test_summary.py"
FALSE_WINNERS = "tests/comparison/test_false_winners.py"

MUTATIONS = [
    Mutation(
        "what a seed does to all alike is no spread",
        "comparison/verdicts/spread.py",
        "values - values.mean(1, keepdims=True) - values.mean(0, keepdims=True) + values.mean()",
        "values - values.mean(1, keepdims=True)",
        SUMMARY,
    ),
    Mutation(
        "the spread of a pair is the largest of three estimates",
        "comparison/verdicts/spread.py",
        "return max(self.table, mean_square([block]), mean_square(pairs))",
        "return self.table",
        SUMMARY + " " + FALSE_WINNERS,
    ),
    Mutation(
        "chance has as many tries as there are batch sizes",
        "comparison/verdicts/chance.py",
        "_range_distribution(size)) ** count",
        "_range_distribution(size))",
        FALSE_WINNERS,
    ),
    Mutation(
        "a lead below the resolution of the held-out samples is none",
        "comparison/verdicts/judging.py",
        "None if need is None else max(need, floor)",
        "need",
        SUMMARY,
    ),
    Mutation(
        "a normalizer whose runs disagree does not lead",
        "comparison/verdicts/judging.py",
        "leader = next((norm for norm in ranked if norm in reliable), None)",
        "leader = next((norm for norm in ranked), None)",
        SUMMARY,
    ),
    Mutation(
        "one lost run does not drown in many good ones",
        "comparison/verdicts/judging.py",
        " or np.median(values) - values.min() > limit)",
        ")",
        SUMMARY,
    ),
    Mutation(
        "a seed that is hard for all makes nobody unreliable",
        "comparison/verdicts/judging.py",
        "block.values[own] - np.median(others, axis=0)",
        "block.values[own]",
        SUMMARY,
    ),
]
