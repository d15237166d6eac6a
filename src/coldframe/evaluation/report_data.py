"""What a report shows, as plain data: it travels to JSON and back, and a report can be made again from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, Protocol

from coldframe.config import Config, check
from coldframe.errors import ConfigError, nearest
from coldframe.evaluation.calibration import Bin
from coldframe.evaluation.compare import Difference
from coldframe.evaluation.cost import Cost
from coldframe.evaluation.intervals import Interval

#: "method": an adapted or prompted model; "control": the same with its information destroyed (shuffled labels,
#: random exemplars); "no-lm": without a language model.
Role = Literal["method", "control", "no-lm"]


class Ranged(Protocol):
    """A value with its interval."""

    @property
    def value(self) -> float: ...  # noqa: D102

    @property
    def low(self) -> float: ...  # noqa: D102

    @property
    def high(self) -> float: ...  # noqa: D102


@dataclasses.dataclass(frozen=True)
class MetricInfo(Config):
    """How a metric is shown.

    Args:
        name: In ``METRICS``.
        title: For readers.
        higher: Whether larger is better.
        decimals: Digits after the point.
    """

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
        """A number as it is printed; a true minus sign, and a dash for what is not defined."""
        if value != value:
            return "–"
        text = f"{value:+.{self.decimals}f}" if sign else f"{value:.{self.decimals}f}"
        if float(text) == 0:
            text = text.lstrip("+-")
        return text.replace("-", "\N{MINUS SIGN}")

    def span(self, found: Ranged, *, sign: bool = False) -> str:
        """Value and interval, as it is printed."""
        low, high = self.show(found.low, sign=sign), self.show(found.high, sign=sign)
        return f"{self.show(found.value, sign=sign)} [{low}, {high}]"


@dataclasses.dataclass(frozen=True)
class Score(Config):
    """One metric of one method."""

    section = "score"

    metric: str
    interval: Interval


@dataclasses.dataclass(frozen=True)
class MethodRow(Config):
    """One line of the table.

    Args:
        name: The method, as everywhere in the report.
        role: What it stands for.
        scores: By metric.
        difference: Main method minus this one, in the primary metric; None for the main method itself.
        cost: What it cost.
        seed_values: The primary metric of each seed.
        order_std: Standard deviation of the primary metric over shuffles of the exemplars, if measured.
        note: What a reader must know.
    """

    section = "method row"

    name: str
    role: Role
    scores: tuple[Score, ...]
    difference: Difference | None = None
    cost: Cost | None = None
    seed_values: tuple[float, ...] = ()
    order_std: float | None = None
    note: str = ""

    def score(self, metric: str) -> Interval | None:
        """The interval of a metric, if it was measured."""
        return next((score.interval for score in self.scores if score.metric == metric), None)


@dataclasses.dataclass(frozen=True)
class Point(Config):
    """A point of a curve."""

    section = "point"

    x: float
    y: float


@dataclasses.dataclass(frozen=True)
class TrainingCurve(Config):
    """How one training went.

    Args:
        method: Its name.
        seed: Training seed.
        loss: Training loss, by epoch.
        validation: Validation score (primary metric), by epoch.
        chosen: The epoch whose weights were kept.
    """

    section = "training curve"

    method: str
    seed: int
    loss: tuple[Point, ...]
    validation: tuple[Point, ...]
    chosen: float | None = None


@dataclasses.dataclass(frozen=True)
class SweepPoint(Config):
    """The primary metric at one value of a setting."""

    section = "sweep point"

    x: float
    interval: Interval


@dataclasses.dataclass(frozen=True)
class Sweep(Config):
    """The primary metric over the values of a setting (K exemplars, H heads)."""

    section = "sweep"

    setting: str
    method: str
    points: tuple[SweepPoint, ...]


@dataclasses.dataclass(frozen=True)
class Reliability(Config):
    """The reliability diagram of a method."""

    section = "reliability"

    method: str
    bins: tuple[Bin, ...]


@dataclasses.dataclass(frozen=True)
class Neighbour(Config):
    """A retrieved exemplar of a sample query; ``attention`` has one weight per soft token."""

    section = "neighbour"

    id: str
    text: str
    label: str
    similarity: float
    attention: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Sample(Config):
    """A query that is shown with its neighbours."""

    section = "sample"

    id: str
    text: str
    target: str
    predicted: str
    probability: float | None = None
    neighbours: tuple[Neighbour, ...] = ()


@dataclasses.dataclass(frozen=True)
class Published(Config):
    """A number from a paper, with what it was measured on."""

    section = "published number"

    method: str
    value: float
    metric: str
    model: str
    source: str
    setting: str = ""


@dataclasses.dataclass(frozen=True)
class ReportData(Config):
    """Everything a report shows.

    Args:
        task: Name of the task.
        model: Name of the frozen model.
        main: The method the report is about; the name of one of ``rows``.
        metric: Primary metric; the name of one of ``metrics``.
        metrics: Columns of the table.
        rows: Lines of the table.
        domain: ``"molecules"`` draws the samples.
        positive: The positive label, if there is one.
        notes: What a reader of the scores must know (dropped rows, leaks, the split).
        curves: Learning curves.
        sweeps: K and H curves.
        reliability: Reliability diagrams.
        samples: Queries shown with their neighbours.
        published: Numbers from papers.
        settings: Settings of the run, by section.
        provenance: Where bytes and versions came from.
        command: What makes this report again.
    """

    section = "report data"

    task: str
    model: str
    main: str
    metric: str
    metrics: tuple[MetricInfo, ...]
    rows: tuple[MethodRow, ...]
    domain: Literal["molecules", "text"] = "text"
    positive: str | None = None
    notes: tuple[str, ...] = ()
    curves: tuple[TrainingCurve, ...] = ()
    sweeps: tuple[Sweep, ...] = ()
    reliability: tuple[Reliability, ...] = ()
    samples: tuple[Sample, ...] = ()
    published: tuple[Published, ...] = ()
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    command: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [row.name for row in self.rows]
        check(len(set(names)) == len(names), "Two rows of a report have the same name", got=names)
        if self.main not in names:
            raise ConfigError(f"The main method {self.main!r} is not among the rows", fix=nearest(self.main, names))
        known = [info.name for info in self.metrics]
        if self.metric not in known:
            raise ConfigError(f"The primary metric {self.metric!r} is not shown", fix=nearest(self.metric, known))
        check(self.main_row.score(self.metric) is not None, "The main method has no score in the primary metric")

    @property
    def main_row(self) -> MethodRow:
        """The row of the main method."""
        return next(row for row in self.rows if row.name == self.main)

    @property
    def primary(self) -> MetricInfo:
        """How the primary metric is shown."""
        return next(info for info in self.metrics if info.name == self.metric)

    def ranked(self) -> list[MethodRow]:
        """Rows by primary metric, best first; those without it last."""
        sign = 1 if self.primary.higher else -1

        def key(row: MethodRow) -> tuple[bool, float]:
            found = row.score(self.metric)
            undefined = found is None or found.value != found.value
            return undefined, 0.0 if found is None or undefined else -sign * found.value

        return sorted(self.rows, key=key)
