"""The verdict on a row: by the interval, never by the value alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from coldframe.claims.entry import Row
from coldframe.claims.verdict import Ours, judge

CANNOT = "cannot tell here"
numbers = st.floats(-1e6, 1e6, allow_nan=False)


def row(**settings: Any) -> Row:
    return Row(**{"claim": "c", "source": "s", "model": "m", "published": 10.0, **settings})


@st.composite
def measured(draw: st.DrawFn) -> Ours:
    low, value, high = sorted(draw(st.tuples(numbers, numbers, numbers)))
    return Ours(value, low, high, n=draw(st.sampled_from([None, 30, 500])))


@pytest.mark.parametrize(
    ("settings", "ends", "verdict"),
    [
        ({}, (0.1, 5), "OK"),
        ({}, (0.0, 5), CANNOT),
        ({}, (-1, 5), CANNOT),
        ({}, (-5, 0.0), "no"),
        ({}, (-5, -1), "no"),
        ({"tolerance": 2}, (0.1, 1.9), "close"),
        ({"tolerance": 2}, (0.1, 2.5), "OK"),
        ({"tolerance": 2}, (-1, 1.9), "no"),
        ({"tolerance": 2}, (-1, 2.5), CANNOT),
        ({"than": 5}, (5.1, 6), "OK"),
        ({"compare": "less"}, (-5, -0.1), "OK"),
        ({"compare": "less"}, (0.0, 3), "no"),
        ({"compare": "less", "than": 5}, (3, 4.9), "OK"),
        ({"compare": "value", "tolerance": 1}, (9.2, 10.9), "OK"),
        ({"compare": "value", "tolerance": 1}, (9.2, 11.9), "close"),
        ({"compare": "value", "tolerance": 1}, (9.2, 13), CANNOT),
        ({"compare": "value", "tolerance": 1}, (12.5, 13), "no"),
        ({"compare": "value", "tolerance": 1}, (5, 15), CANNOT),
        ({"compare": "value"}, (10, 10.1), CANNOT),
        ({"compare": "ratio", "tolerance": 2}, (5, 20), "OK"),
        ({"compare": "ratio", "tolerance": 2}, (2.6, 39), "close"),
        ({"compare": "ratio", "tolerance": 2}, (41, 50), "no"),
        ({"compare": "ratio", "tolerance": 2}, (-1, 11), CANNOT),
        ({"compare": "ratio", "tolerance": 2}, (-2, -1), "no"),
    ],
)
def test_the_rule(settings: dict[str, Any], ends: tuple[float, float], verdict: str) -> None:
    assert judge(row(**settings), Ours(sum(ends) / 2, *ends, n=100)) == verdict


@given(measured(), st.floats(0, 1e3), numbers)
def test_less_is_more_mirrored(ours: Ours, tolerance: float, than: float) -> None:
    mirrored = Ours(-ours.value, -ours.high, -ours.low, ours.n)
    more, less = row(tolerance=tolerance, than=than), row(compare="less", tolerance=tolerance, than=-than)
    assert judge(more, ours) == judge(less, mirrored)


@given(measured(), st.floats(0, 1e3))
def test_a_narrower_interval_never_turns_the_verdict_round(ours: Ours, tolerance: float) -> None:
    assume(ours.n is None or ours.low < (ours.low + ours.value) / 2)  # an interval without width tells nothing
    narrow = Ours(ours.value, (ours.low + ours.value) / 2, (ours.high + ours.value) / 2, ours.n)
    for compare in ("value", "more", "less"):
        before, after = (judge(row(compare=compare, tolerance=tolerance), interval) for interval in (ours, narrow))
        assert {before, after} != {"OK", "no"}
        assert before == CANNOT or after != CANNOT


@given(measured(), st.floats(1e-3, 1e3), st.floats(0.01, 1e4))
def test_a_larger_tolerance_never_turns_a_value_to_no(ours: Ours, tolerance: float, published: float) -> None:
    order = ("OK", "close", CANNOT, "no")
    rows = (row(compare="value", published=published, tolerance=t) for t in (tolerance, 2 * tolerance))
    strict, lenient = (judge(each, ours) for each in rows)
    assert strict == CANNOT or order.index(lenient) <= order.index(strict)


@given(st.floats(0.01, 100), st.floats(1, 10), st.floats(0.01, 100))
def test_a_ratio_does_not_know_which_is_the_denominator(value: float, factor: float, published: float) -> None:
    ours, inverse = Ours.exactly(value), Ours.exactly(1 / value)
    as_ratio = judge(row(compare="ratio", published=published, tolerance=factor), ours)
    other = judge(row(compare="ratio", published=1 / published, tolerance=factor), inverse)
    near = abs(abs(math.log(value / published)) - math.log(factor)) < 1e-6
    near = near or abs(abs(math.log(value / published)) - 2 * math.log(factor)) < 1e-6
    assert near or as_ratio == other


@pytest.mark.parametrize("compare", ["more", "less", "value"])
def test_what_was_not_measured_or_on_few_rows_cannot_be_told(compare: str) -> None:
    nan = float("nan")
    few, spreadless = Ours(10, 9.9, 10.1, n=29), Ours(10, 10, 10, n=500)
    for ours in (None, Ours(nan, nan, nan, 100), Ours(10, nan, nan, 100), few, spreadless):
        assert judge(row(compare=compare, tolerance=1), ours) == CANNOT
    assert judge(row(compare="value", tolerance=1), Ours(10, 9.9, 10.1, n=30)) == "OK"


def test_what_is_counted_needs_no_spread() -> None:
    assert judge(row(compare="value"), Ours.exactly(10)) == "OK"
    assert judge(row(compare="value"), Ours.exactly(10.1)) == "no"
    assert judge(row(), Ours.exactly(0)) == judge(row(compare="less"), Ours.exactly(0)) == "no"
