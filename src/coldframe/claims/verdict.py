"""What ours says about what is published."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, TypeAlias

from coldframe.claims.entry import Row
from coldframe.config import Config
from coldframe.evaluation.verdict import FEWEST

Verdict: TypeAlias = Literal["OK", "close", "no", "cannot tell here"]


@dataclasses.dataclass(frozen=True)
class Ours(Config):
    """What was measured here.

    Args:
        value: The number.
        low: Lower end of its 95% interval; the number itself where it is counted and not measured.
        high: Upper end.
        n: Rows behind it; None where it is counted.
        seeds: Training seeds.
    """

    section = "measured number"

    value: float
    low: float
    high: float
    n: int | None = None
    seeds: int = 1

    @classmethod
    def exactly(cls, value: float) -> Ours:
        """A number that was counted."""
        return cls(value, value, value)


def judge(row: Row, ours: Ours | None) -> Verdict:
    """The verdict on one row, by the 95% interval of ours; never by its value alone.

    ``more`` (and ``less``, mirrored) is about the direction of ``d = ours - than``, with tolerance t:

    - OK: the interval lies above 0, and reaches t;
    - close: it lies above 0, all of it below t: the direction is right, the effect is smaller than what would count;
    - no: nothing of it lies above 0, or it holds 0 and all of it lies below t;
    - cannot tell here: it holds 0, more than 0, and t as well.

    ``value`` is about the published number p:

    - OK: the interval lies within p - t and p + t;
    - close: it lies within p - 2t and p + 2t;
    - no: it lies outside p - t and p + t;
    - cannot tell here: it lies partly in and partly out.

    ``ratio`` is the same for logarithms: within p / t and p t, and within p / t^2 and p t^2.

    What was not measured, is no number, or rests on fewer than 30 rows cannot be told, whatever its interval says.
    Nor can what was measured on rows without any spread: two methods that say the same of all differ by 0 to 0.

    Example:
        >>> row = Row("More is better", "Table 1", "Qwen3-4B", published=16.4, compare="more")
        >>> judge(row, Ours(3.1, 0.4, 5.9, n=779)), judge(row, Ours(3.1, -0.4, 5.9, n=779)), judge(row, None)
        ('OK', 'cannot tell here', 'cannot tell here')
    """
    if ours is None or not math.isfinite(ours.value + ours.low + ours.high):
        return "cannot tell here"
    if ours.n is not None and (ours.n < FEWEST or ours.low == ours.high):
        return "cannot tell here"
    if row.compare == "more":
        return _direction(ours.low - row.than, ours.high - row.than, row.tolerance)
    if row.compare == "less":
        return _direction(row.than - ours.high, row.than - ours.low, row.tolerance)
    assert row.published is not None  # Row checks it
    if row.compare == "value":
        return _near(ours.low - row.published, ours.high - row.published, row.tolerance)
    if ours.low <= 0:  # no logarithm
        return "no" if ours.high <= 0 else "cannot tell here"
    low, high = math.log(ours.low / row.published), math.log(ours.high / row.published)
    return _near(low, high, math.log(row.tolerance))


def _direction(low: float, high: float, tolerance: float) -> Verdict:
    if low > 0:
        return "OK" if high >= tolerance else "close"
    return "no" if high <= 0 or high < tolerance else "cannot tell here"


def _near(low: float, high: float, tolerance: float) -> Verdict:
    # What is counted must agree to the last digit where there is no tolerance, but for the rounding of a sum.
    rounding = 1e-9 + 1e-12 * max(abs(low), abs(high))
    furthest = max(-low, high)
    if furthest <= tolerance + rounding:
        return "OK"
    if furthest <= 2 * tolerance + rounding:
        return "close"
    return "no" if low > tolerance + rounding or high < -tolerance - rounding else "cannot tell here"
