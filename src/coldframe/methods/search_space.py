"""What may be tuned of a method: a range or a choice for each of its settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeAlias


@dataclasses.dataclass(frozen=True)
class Floats:
    """Numbers from ``low`` to ``high``, both included; equally likely by size, or by order of magnitude (``log``)."""

    low: float
    high: float
    log: bool = True


@dataclasses.dataclass(frozen=True)
class Integers:
    """Whole numbers from ``low`` to ``high``, both included; equally likely by size, or by order of magnitude."""

    low: int
    high: int
    log: bool = False


@dataclasses.dataclass(frozen=True)
class Choices:
    """One of several values, each as JSON writes it."""

    values: tuple[Any, ...]


#: What is searched, by the name of a setting; ``training.`` goes before the name of a training setting.
SearchSpace: TypeAlias = Mapping[str, Floats | Integers | Choices]
