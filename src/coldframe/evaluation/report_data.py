"""What a report shows, as plain data that is written to JSON and read again."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from coldframe.config import Config, check
from coldframe.errors import ConfigError, nearest
from coldframe.evaluation.calibration import Bin
from coldframe.evaluation.compare import Difference
from coldframe.evaluation.cost import Cost
from coldframe.inference.intervals import Interval
from coldframe.reports.numbers import MetricInfo

#: "method": an adapted or prompted model; "control": the same with its information destroyed (shuffled labels,
#: random exemplars, another query's passages); "no-lm": without a language model.
Role = Literal["method", "control", "no-lm"]


@dataclasses.dataclass(frozen=True)
class Score(Config):
    """One metric of one method."""

    metric: str
    interval: Interval


@dataclasses.dataclass(frozen=True)
class Tuning(Config):
    """How a row's settings were chosen on validation rows.

    Args:
        trials: Settings that were tried, those that it had among them; 0 where there is nothing to tune.
        settings: What was chosen, by the names of what was searched.
        score: Of the chosen settings on the validation rows, mean over the splits; the best of all trials, so it is
            higher than what new rows will show.
        first_score: Of the settings as they were.
        pruned: Trials that were stopped early.
        failed: Trials whose settings do not work.
        shared: The row whose settings these are, where the row is an ablation of it.
    """

    trials: int
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    score: float | None = None
    first_score: float | None = None
    pruned: int = 0
    failed: int = 0
    shared: str = ""


@dataclasses.dataclass(frozen=True)
class MethodRow(Config):
    """One line of the table.

    Args:
        name: The method.
        role: What the row stands for.
        scores: By metric.
        difference: Main method minus this one, in the primary metric; None for the main method itself.
        cost: Of the method.
        seed_values: The primary metric of each seed.
        order_std: Standard deviation of the primary metric over shuffles of the exemplars, if measured.
        note: What a reader must know.
        bytes_per_passage: What the method stores for each passage, if anything.
        fit_memory_mb: Largest memory of the process (or of the accelerator) while it was fitted and scored.
        attention_entropy: Of its attention over exemplars, as a share of the greatest possible; the mean of its seeds.
        tuning: How its settings were chosen; None for a row that was not tuned.
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
    bytes_per_passage: float | None = None
    fit_memory_mb: float | None = None
    attention_entropy: float | None = None
    tuning: Tuning | None = None

    def score(self, metric: str) -> Interval | None:
        """The interval of a metric, if it was measured."""
        return next((score.interval for score in self.scores if score.metric == metric), None)


@dataclasses.dataclass(frozen=True)
class TrainingCurve(Config):
    """Training loss and validation score (primary metric) by epoch, and the epoch whose weights are used."""

    method: str
    seed: int
    loss: tuple[tuple[float, float], ...]
    validation: tuple[tuple[float, float], ...]
    chosen: float | None = None


@dataclasses.dataclass(frozen=True)
class SweepPoint(Config):
    """The primary metric at one value of a setting."""

    x: float
    interval: Interval


@dataclasses.dataclass(frozen=True)
class Sweep(Config):
    """The primary metric over the values of a setting (K exemplars, H heads)."""

    setting: str
    method: str
    points: tuple[SweepPoint, ...]


@dataclasses.dataclass(frozen=True)
class Reliability(Config):
    """The reliability diagram of a method."""

    method: str
    bins: tuple[Bin, ...]


@dataclasses.dataclass(frozen=True)
class LabelPrior(Config):
    """How likely a label is to each method, whatever it reads.

    Args:
        label: Its name.
        share: Share of the test rows that have it, in percent.
        priors: Its mean probability over the test rows in percent, by method.
    """

    label: str
    share: float
    priors: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Neighbour(Config):
    """An entry that was retrieved for a sample query; ``attention`` has a weight for each soft token."""

    id: str
    text: str
    label: str
    similarity: float
    attention: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Sample(Config):
    """A query that is shown with its neighbours; a written answer is right that contains an accepted one."""

    id: str
    text: str
    target: str
    predicted: str
    right: bool
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
        kind: Of the task.
        positive: The positive label, if there is one.
        notes: What a reader of the scores must know (dropped rows, leaks, the split).
        curves: Learning curves.
        sweeps: K and H curves.
        reliability: Reliability diagrams.
        label_priors: Of a classification task.
        samples: Queries shown with their neighbours.
        published: Numbers from papers.
        settings: Settings of the run, by section.
        tuning: The rule by which settings were chosen, in a sentence; empty where nothing was tuned.
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
    kind: Literal["classification", "generation"] = "classification"
    positive: str | None = None
    notes: tuple[str, ...] = ()
    curves: tuple[TrainingCurve, ...] = ()
    sweeps: tuple[Sweep, ...] = ()
    reliability: tuple[Reliability, ...] = ()
    label_priors: tuple[LabelPrior, ...] = ()
    samples: tuple[Sample, ...] = ()
    published: tuple[Published, ...] = ()
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    command: str = ""
    tuning: str = ""

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
        sign = -1 if self.primary.higher else 1

        def key(row: MethodRow) -> float:
            score = row.score(self.metric)
            return math.inf if score is None or math.isnan(score.value) else sign * score.value

        return sorted(self.rows, key=key)
