"""What the page on a reweighted model shows, as plain data that travels to JSON and back."""

from __future__ import annotations

import dataclasses
from typing import Any

from coldframe.config import Config
from coldframe.evaluation.answers.evaluate import Cell, Overall
from coldframe.evaluation.answers.scores import METRICS
from coldframe.evaluation.report_data import MetricInfo
from coldframe.methods.head_gains.reweighting import Reweighting

#: Everything that is measured on a reweighted model: its answers, and what it must keep.
SHOWN: dict[str, MetricInfo] = {
    **METRICS,
    "accuracy": MetricInfo("accuracy", "Accuracy", higher=True, decimals=1),
    "letter_loss": MetricInfo("letter_loss", "Loss of the right letter", higher=False, decimals=3),
    "token_loss": MetricInfo("token_loss", "Loss of a token", higher=False, decimals=3),
}


@dataclasses.dataclass(frozen=True)
class Head(Config):
    """A head that has a gain.

    Args:
        layer: Counted from 0.
        head: Counted from 0.
        effect: What the right token gains without it.
        gain: Its factor.
    """

    layer: int
    head: int
    effect: float
    gain: float


@dataclasses.dataclass(frozen=True)
class Found(Config):
    """How a model was reweighted.

    Args:
        effects: ``[layers, heads]``.
        heads: Those with a gain.
        history: Looks at the held-out loss: ``step`` and ``validation_loss``.
        stability: Mean rank correlation of the effects under two settings of N and n; None with one setting.
    """

    effects: tuple[tuple[float, ...], ...]
    heads: tuple[Head, ...]
    history: tuple[dict[str, float], ...]
    stability: float | None = None

    @classmethod
    def of(cls, found: Reweighting, effect: str = "difference") -> Found:
        """What the page needs of a reweighting."""
        effects, gains = found.effects.mean(effect), found.gains
        heads = [Head(i, h, float(effects[i, h]), float(gains[i, h])) for i, h in found.heads]
        rows = tuple(tuple(map(float, row)) for row in effects.tolist())
        return cls(rows, tuple(heads), found.history, found.effects.stability(effect))

    @property
    def loss_before(self) -> float:
        """Held-out loss of random sequences, of the base model."""
        return self.history[0]["validation_loss"]

    @property
    def loss_after(self) -> float:
        """The same with the gains."""
        return min(record["validation_loss"] for record in self.history[1:])

    @property
    def trained(self) -> bool:
        """Whether the gains were trained, and not given."""
        return self.history[-1]["step"] > 0


@dataclasses.dataclass(frozen=True)
class Asked(Config):
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
        found: How it was reweighted; None if PEAR was not among the systems.
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
    found: Found | None = None
    systems: dict[str, Any] = dataclasses.field(default_factory=dict)
    sets: tuple[Asked, ...] = ()
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
        measured = {one.metric for one in self.cells}
        return next((metric for metric in ("contains", "choice_loss") if metric in measured), "loss")

    def mean_gap(self, system: str, against: str, metric: str) -> Overall | None:
        """A difference averaged over the sets, if it was measured."""
        return next((o for o in self.overall if (o.system, o.against, o.metric) == (system, against, metric)), None)

    def cell(self, name: str, system: str, metric: str, place: int | None = None) -> Cell | None:
        """A score on a set, if it was measured."""
        wanted = (name, system, metric, place)
        return next((c for c in self.cells if (c.set, c.system, c.metric, c.place) == wanted), None)
