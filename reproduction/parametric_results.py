"""What ``reproduction.parametric`` makes of the answers: scores, paired differences, what swapping breaks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from coldframe.evaluation.compare import paired_difference
from coldframe.evaluation.variants import METRICS, broken
from coldframe.inference.intervals import score_interval
from coldframe.inference.predictions import Predictions
from coldframe.methods.weight_deltas.adapter_config import Combination
from coldframe.tasks.task import Example

FACTS = {1: "one fact", 2: "two facts"}
Place: TypeAlias = Literal["closed-book", "text", "weights", "both"]


@dataclasses.dataclass(frozen=True)
class Way:
    """How questions are answered.

    Attributes:
        place: Where the retrieved passages go: nowhere, into the prompt, into the weights, or both.
        k: Passages retrieved.
        combine: How several adapters become one.
        control: ``swapped``, ``uniform routing`` or ``random routing``; empty for none.
    """

    place: Place
    k: int = 1
    combine: Combination = "auto"
    control: str = ""

    @property
    def plain(self) -> bool:
        """The method itself: weights alone, and no control."""
        return self == Way("weights", self.k)

    @property
    def swapped(self) -> Way:
        """The same with adapters of other passages."""
        return dataclasses.replace(self, control="swapped")

    def variant(self, method: str) -> str:
        """Its name in :func:`coldframe.evaluation.variants.variants_of`."""
        if self.place == "both":
            return f"icl+{method}, adapters of others" if self.control else f"icl+{method}"
        control = {"swapped": "swapped store"}.get(self.control, self.control)
        names = {"closed-book": "zero-shot", "text": "icl", "weights": f"{method}, {control}" if control else method}
        return names[self.place]

    def name(self, label: str) -> str:
        """A row of a table, without k.

        >>> Way("both", control="swapped").name("prag"), Way("text").name("")
        ('prag+text (swapped)', 'text-rag')
        """
        names = {"closed-book": "closed-book", "text": "text-rag", "weights": label, "both": f"{label}+text"}
        parts = [self.control, "" if self.combine == "auto" else self.combine]
        return names[self.place] + "".join(f" ({part})" for part in parts if part)


@dataclasses.dataclass
class System:
    """One way to answer, with a run for each seed.

    Attributes:
        name: Of the method and the way, without k.
        label: Of the method; empty where none is used.
        way: How questions were answered.
        runs: The answers, by seed.
    """

    name: str
    label: str
    way: Way
    runs: list[Predictions] = dataclasses.field(default_factory=list)

    @property
    def title(self) -> str:
        """As in tables."""
        return self.name if self.way.place == "closed-book" else f"{self.name}, k = {self.way.k}"


def summary(
    systems: Sequence[System],
    costs: Sequence[Mapping[str, Any]],
    questions: Sequence[Example],
    recall: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """All that is told, as plain data."""
    hops = sorted({question.hops for question in questions})
    groups = {"all": np.arange(len(questions))}
    if len(hops) > 1:
        groups |= {FACTS.get(h, f"{h} facts"): np.flatnonzero([q.hops == h for q in questions]) for h in hops}
    parts = {
        group: [dataclasses.replace(system, runs=[run.at(rows) for run in system.runs]) for system in systems]
        for group, rows in groups.items()
    }
    return {
        "groups": {group: len(rows) for group, rows in groups.items()},
        "retrieval": dict(recall),
        "scores": [line for group, answered in parts.items() for line in _scores(group, answered)],
        "differences": [line for group, answered in parts.items() for line in _differences(group, answered)],
        "broken": list(_broken(systems)),
        "costs": list(map(dict, costs)),
        "seconds_per_question": {system.title: _mean([r.seconds / len(r) for r in system.runs]) for system in systems},
    }


def pairs(systems: Sequence[System]) -> Iterator[tuple[System, System]]:
    """Which systems are compared: each with the baselines, a method with its controls and with the first method."""
    closed = next((system for system in systems if system.way.place == "closed-book"), None)
    first = next((system.label for system in systems if system.label), "")
    for system in systems:
        if not system.label:
            continue
        if closed is not None:
            yield system, closed
        for other in systems:
            same_k = other.way.k == system.way.k
            if other.way.place == "text" and same_k:
                yield system, other
            elif other.label == system.label and other is not system and same_k and system.way.plain:
                yield system, other
            elif other.label == system.label and other.way == system.way.swapped != system.way:
                yield system, other
            elif other.label == first != system.label and other.way == system.way:
                yield system, other


def _scores(group: str, systems: Sequence[System]) -> Iterator[dict[str, Any]]:
    for system in systems:
        scores = {metric: score_interval(system.runs, metric).to_dict() for metric in METRICS}
        yield {"system": system.title, "method": system.label, "k": system.way.k, "group": group, **scores}


def _differences(group: str, systems: Sequence[System]) -> Iterator[dict[str, Any]]:
    for system, other in pairs(systems):
        for metric in ("token_f1", "contains"):
            gap = paired_difference(system.runs, other.runs, metric).to_dict()
            yield {"system": system.title, "minus": other.title, "group": group, "metric": metric, **gap}


def _broken(systems: Sequence[System]) -> Iterator[dict[str, Any]]:
    for system in systems:
        for other in systems if system.way.plain else ():
            if other.label == system.label and other.way == system.way.swapped:
                shares = [broken(own, theirs) for own, theirs in zip(system.runs, other.runs, strict=True)]
                for run, share in zip(system.runs, shares, strict=True):
                    told = None if share is None else share.to_dict()
                    yield {"system": system.title, "seed": run.seed, "share": told}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
