"""Numbers for readers: digits, intervals, percentages, prefixes; a dash where there is none."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, Protocol, TypeAlias

from coldframe.config import Config

#: What a difference shows, by what its interval excludes.
Outcome: TypeAlias = Literal["gain", "loss", "undecided"]

#: Stands for a number that is not defined or was not measured.
DASH = "–"


class Ranged(Protocol):
    """A value with its interval."""

    @property
    def value(self) -> float: ...  # noqa: D102

    @property
    def low(self) -> float: ...  # noqa: D102

    @property
    def high(self) -> float: ...  # noqa: D102


def fixed(value: float, decimals: int = 1, *, sign: bool = False) -> str:
    """A number with so many digits after the point.

    >>> fixed(-0.04), fixed(2.25, 2, sign=True), fixed(float("nan"))
    ('0.0', '+2.25', '–')
    """
    if not math.isfinite(value):
        return DASH
    text = f"{value:{'+' if sign else ''}.{decimals}f}"
    return (text.lstrip("+-") if float(text) == 0 else text).replace("-", "\N{MINUS SIGN}")


def span(interval: Ranged, decimals: int = 1, *, sign: bool = False, scale: float = 1, unit: str = "") -> str:
    """A value with its interval: ``76.4 [73.1, 79.5]``."""
    low, value, high = (fixed(scale * x, decimals, sign=sign) for x in (interval.low, interval.value, interval.high))
    return value if value == DASH else f"{value}{unit} [{low}, {high}]"


def percent(share: float) -> str:
    """A share of 1 in percent.

    >>> percent(0.712), percent(float("nan"))
    ('71%', '–')
    """
    return fixed(100 * share, 0) + "%" * math.isfinite(share)


def percent_span(share: Ranged) -> str:
    """A share of 1 with its interval, in percent: ``71% [62, 80]``."""
    return span(share, 0, scale=100, unit="%")


def si(value: float, unit: str = "") -> str:
    """A number with a prefix and a unit.

    >>> [si(value) for value in (0, 950, 24_850_000, 5.64e9, 1.234e12)]
    ['0', '950', '24.9 M', '5.64 G', '1.23 T']
    >>> si(950, "B"), si(270_000_000, "B")
    ('950 B', '270 MB')
    """
    for power, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= power:
            return f"{value / power:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def p_value(p: float) -> str:
    """The p-value of a test.

    >>> p_value(0.0002), p_value(0.0312)
    ('< 0.001', '0.031')
    """
    return "< 0.001" if p < 0.001 else fixed(p, 3)


def plural(count: int, noun: str) -> str:
    """A count with its noun.

    >>> plural(1, "seed"), plural(1200, "row")
    ('1 seed', '1,200 rows')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as pairs of a dotted name and a value.

    >>> flatten({"method": {"heads": 8, "k": 5}, "seeds": [0, 1]})
    [('method.heads', '8'), ('method.k', '5'), ('seeds', '0, 1')]
    """
    pairs = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            pairs += flatten(value, f"{prefix}{key}.")
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            pairs.append((f"{prefix}{key}", shown))
    return pairs


@dataclasses.dataclass(frozen=True)
class MetricInfo(Config):
    """How a metric is shown: its title, whether higher is better, digits after the point."""

    section = "metric"

    name: str
    title: str
    higher: bool = True
    decimals: int = 1

    @property
    def words(self) -> str:
        """The title inside a sentence: abbreviations keep their capitals."""
        return self.title if self.title[1:2].isupper() else self.title[:1].lower() + self.title[1:]

    def show(self, value: float, *, sign: bool = False) -> str:
        """A value of the metric, see :func:`fixed`."""
        return fixed(value, self.decimals, sign=sign)

    def span(self, interval: Ranged, *, sign: bool = False) -> str:
        """A value of the metric with its interval, see :func:`span`."""
        return span(interval, self.decimals, sign=sign)

    def outcome(self, difference: Ranged) -> Outcome:
        """A gain or a loss if the whole interval of a difference lies on one side of 0, else undecided."""
        if difference.low > 0 or difference.high < 0:
            return "gain" if (difference.low > 0) == self.higher else "loss"
        return "undecided"
