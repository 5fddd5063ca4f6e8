"""What the fast suite keeps of a test's combinations."""

from itertools import combinations, product
from types import SimpleNamespace

import pytest
from covering import covering, leave_out

ARGUMENTS = [range(27), "abcdef", (True, False), range(6), ("automatic", "reference")]


def pairs(rows):
    return {pair for row in rows for pair in combinations(enumerate(row), 2)}


@pytest.mark.parametrize("count", range(2, 6))
def test_every_pair_of_values_is_kept_by_few_combinations(count):
    rows = list(product(*ARGUMENTS[:count]))
    chosen = covering(rows)
    assert pairs(rows[k] for k in chosen) == pairs(rows)
    assert len(chosen) <= 1.1 * 27 * 6  # the two largest arguments alone need as many


def test_combinations_that_do_not_exist_are_not_asked_for():
    rows = [row for row in product("abc", "abc", "abc") if row[0] != row[1]]
    chosen = covering(rows)
    assert pairs(rows[k] for k in chosen) == pairs(rows)
    assert len(chosen) < len(rows)


def test_the_choice_is_always_the_same_and_needs_no_second_argument():
    rows = list(product(*ARGUMENTS))
    assert covering(rows) == covering(rows)
    assert covering([("a",), ("b",), ("a",)]) in ({0, 1}, {1, 2})
    assert covering([]) == set()


def calls(slow=()):
    """As pytest makes them of two arguments and a third, some of whose values are marked."""
    return [
        SimpleNamespace(params={"a": a, "b": b, "c": c}, marks=[pytest.mark.slow.mark] * (c in slow))
        for a, b, c in product(range(4), range(5), range(3))
    ]


def test_the_fast_suite_makes_what_the_whole_suite_does_not_mark():
    whole, fast = calls(slow=(2,)), calls(slow=(2,))
    leave_out(whole, made=True)
    leave_out(fast, made=False)
    assert len(whole) == 60
    assert [call for call in whole if not call.marks] == fast
    assert pairs(list(call.params.values()) for call in fast) == pairs(product(range(4), range(5), range(2)))
    assert len(fast) < 30


def test_where_all_is_slow_the_combinations_stay():
    found = calls(slow=range(3))
    leave_out(found, made=False)
    assert len(found) == 60
