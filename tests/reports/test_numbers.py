from __future__ import annotations

import dataclasses

import pytest

from coldframe.reports.numbers import MetricInfo, fixed, p_value, percent, percent_span, plural, span

MINUS, NAN = "\N{MINUS SIGN}", float("nan")


@dataclasses.dataclass(frozen=True)
class Between:
    value: float
    low: float
    high: float


def test_numbers_have_a_true_minus_sign_no_minus_zero_and_a_dash_where_there_is_none() -> None:
    assert fixed(-1.25, 2) == f"{MINUS}1.25" and fixed(-0.001, 2) == fixed(0.001, 2) == "0.00"
    assert fixed(0.0001, 2, sign=True) == "0.00" and fixed(3, sign=True) == "+3.0"
    assert (
        fixed(NAN) == fixed(float("inf")) == percent(NAN) == p_value(NAN) == percent_span(Between(NAN, NAN, NAN)) == "–"
    )


def test_intervals() -> None:
    assert span(Between(76.42, 73.1, 79.5)) == "76.4 [73.1, 79.5]"
    assert span(Between(-1, -2, 0.3), sign=True) == f"{MINUS}1.0 [{MINUS}2.0, +0.3]"
    assert span(Between(NAN, 0, 1)) == "–" and span(Between(1, NAN, 2)) == "1.0 [–, 2.0]"
    assert percent_span(Between(0.712, 0.62, 0.8)) == "71% [62, 80]"
    assert percent_span(Between(-0.004, -0.03, 0.02)) == f"0% [{MINUS}3, 2]"


@pytest.mark.parametrize(
    ("low", "high", "higher", "outcome"),
    [
        (0.2, 1.8, True, "gain"),
        (0.2, 1.8, False, "loss"),
        (-2.0, -0.1, True, "loss"),
        (-2.0, -0.1, False, "gain"),
        (-0.1, 2.0, True, "undecided"),
        (0.0, 2.0, True, "undecided"),
        (NAN, NAN, True, "undecided"),
    ],
)
def test_an_outcome_needs_the_whole_interval_on_one_side(low: float, high: float, higher: bool, outcome: str) -> None:
    assert MetricInfo("m", "M", higher).outcome(Between((low + high) / 2, low, high)) == outcome


def test_words() -> None:
    assert MetricInfo("m", "MCC").words == "MCC" and MetricInfo("m", "Token F1").words == "token F1"
    assert plural(0, "row") == "0 rows" and plural(1, "row") == "1 row" and plural(12000, "row") == "12,000 rows"
