"""Scales from data to the drawing area, with round ticks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping

from coldframe.reports.numbers import fixed, si


@dataclasses.dataclass(frozen=True)
class Axis:
    """A scale from data (``low`` at 0, ``high`` at 100) to percent of the drawing area, with ticks by value.

    Positions are percentages, so that a figure takes any width while its text keeps its size.
    """

    low: float
    high: float
    log: bool
    ticks: Mapping[float, str]

    @classmethod
    def over(cls, values: Iterable[float], *, log: bool = False, count: int = 5, pad: float = 0.04) -> Axis:
        """An axis that holds all finite values, with about ``count`` ticks and some room at both ends."""
        finite = [value for value in values if math.isfinite(value)] or [1.0]
        if log:
            low, high = math.log10(min(finite)), math.log10(max(finite))
            room = max(0.05 * (high - low), 0.08)
            return cls(10 ** (low - room), 10 ** (high + room), True, _powers(low - room, high + room))
        low, high = min(finite), max(finite)
        room = pad * (high - low) or 0.5 * abs(high) or 0.5
        return cls(low - room, high + room, False, _steps(low - room, high + room, count))

    def __call__(self, value: float) -> float:
        """The position of a value: 0 to 100, and beyond for what lies outside."""
        low, high, value = (math.log10(x) if self.log else x for x in (self.low, self.high, value))
        return round(100 * (value - low) / (high - low), 2)

    def within(self, value: float) -> float:
        """The position of a value; of one that lies outside, the nearer end."""
        return self(min(max(value, self.low), self.high))

    def up(self, value: float) -> float:
        """The position on a vertical axis, which counts from the top."""
        return round(100 - self(value), 2)


def _powers(low: float, high: float) -> dict[float, str]:
    """Powers of ten over a wide range; over a narrow one the digits between them as well."""
    marks: list[float] = []
    for digits in ((1,), (1, 2, 5), range(1, 10), [m / 10 for m in range(10, 100)]):
        powers = range(math.floor(low), math.ceil(high) + 1)
        marks = [m * 10.0**e for e in powers for m in digits if low <= math.log10(m * 10.0**e) <= high]
        if len(marks) >= 3:
            break
    return {mark: si(mark) for mark in marks[:: math.ceil(len(marks) / 8) or 1]}


def _steps(low: float, high: float, count: int) -> dict[float, str]:
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((power * factor for factor in (1, 2, 5, 10)), key=lambda step: abs(math.log(step / rough)))
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    places = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    return {step * place: fixed(step * place, decimals) for place in places}
