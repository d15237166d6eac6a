"""What the page on a reweighted model shows, as plain data that travels to JSON and back."""

from __future__ import annotations

import dataclasses
from typing import Any

from coldframe.config import Config
from coldframe.evaluation.head_gains import HeadGains
from coldframe.reports.numbers import MetricInfo
from reproduction.reweighted.scores import METRICS, Cell, Overall

#: Everything that is measured on a reweighted model: its answers, and what it must keep.
SHOWN: dict[str, MetricInfo] = {
    **METRICS,
    "accuracy": MetricInfo("accuracy", "Accuracy", higher=True, decimals=1),
    "letter_loss": MetricInfo("letter_loss", "Loss of the right letter", higher=False, decimals=3),
    "token_loss": MetricInfo("token_loss", "Loss of a token", higher=False, decimals=3),
}


@dataclasses.dataclass(frozen=True)
class QuestionSet(Config):
    """A set of questions.

    Args:
        name: In tables.
        rows: Prompts.
        questions: Independent questions among them.
        documents: In a prompt, the mean.
        tokens: In a prompt, the mean.
        cut: Prompts that had passages cut.
        places: Of the gold passage, from 0, where the same questions are asked at several.
    """

    name: str
    rows: int
    questions: int
    documents: float
    tokens: float
    cut: int
    places: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Reweighted(Config):
    """A reweighted model, and what was measured on it.

    Args:
        model: The base model's name.
        gains: How it was reweighted; None if PEAR was not among the systems.
        systems: Names and number of seeds, the base first.
        sets: Of questions.
        cells: Scores on the sets.
        overall: Differences averaged over the sets.
        retained: Scores on what must not suffer.
        curves: By system the loss of each place of a copy, from its second token.
        settings: For the page's end.
        notes: What a reader should know.
        command: That makes it again.
        seconds: It took.
    """

    section = "report of a reweighted model"

    model: str
    gains: HeadGains | None = None
    systems: dict[str, Any] = dataclasses.field(default_factory=dict)
    sets: tuple[QuestionSet, ...] = ()
    cells: tuple[Cell, ...] = ()
    overall: tuple[Overall, ...] = ()
    retained: tuple[Cell, ...] = ()
    curves: dict[str, Any] = dataclasses.field(default_factory=dict)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    command: str = ""
    seconds: float = 0.0

    @property
    def primary(self) -> str:
        """The metric that the verdict is about: written answers where there are any, else the choice, else the loss."""
        measured = {cell.metric for cell in self.cells}
        return next((metric for metric in ("contains", "choice_loss") if metric in measured), "loss")

    def mean_gap(self, system: str, against: str, metric: str) -> Overall | None:
        """A difference averaged over the sets, if it was measured."""
        return next((o for o in self.overall if (o.system, o.against, o.metric) == (system, against, metric)), None)

    def cell(self, name: str, system: str, metric: str, place: int | None = None) -> Cell | None:
        """A score on a set, if it was measured."""
        key = (name, system, metric, place)
        return next((c for c in self.cells if (c.set, c.system, c.metric, c.place) == key), None)
