"""What ``reproduction.parametric`` makes of the answers: scores, paired differences, what swapping breaks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from coldframe.parametric.evaluate import METRICS, broken
from coldframe.parametric.settings import AskConfig
from coldframe.tasks.corpus import Question

from coldframe.evaluation.compare import paired_difference
from coldframe.evaluation.intervals import score_interval
from coldframe.inference.predictions import Predictions

FACTS = {1: "one fact", 2: "two facts"}


@dataclasses.dataclass
class System:
    """One way to answer, with a run for each seed.

    Attributes:
        name: Of the method and the way, without k.
        label: Of the method; empty where none is used.
        config: How questions were asked.
        runs: The answers, by seed.
    """

    name: str
    label: str
    config: AskConfig
    runs: list[Predictions] = dataclasses.field(default_factory=list)

    @property
    def title(self) -> str:
        """As in tables."""
        return self.name if self.config.mode == "closed-book" else f"{self.name}, k = {self.config.k}"


def summary(
    systems: Sequence[System],
    costs: Sequence[Mapping[str, Any]],
    questions: Sequence[Question],
    recall: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """All that is told, as plain data."""
    hops = sorted({question.hops for question in questions})
    groups = {"all": np.arange(len(questions))}
    if len(hops) > 1:
        groups |= {FACTS.get(h, f"{h} facts"): np.flatnonzero([q.hops == h for q in questions]) for h in hops}
    parts = {
        group: [dataclasses.replace(system, runs=[_rows(run, rows) for run in system.runs]) for system in systems]
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
    closed = next((system for system in systems if system.config.mode == "closed-book"), None)
    first = next((system.label for system in systems if system.label), "")
    for system in systems:
        if not system.label:
            continue
        if closed is not None:
            yield system, closed
        for other in systems:
            same_k = other.config.k == system.config.k
            if other.config.mode == "passages" and same_k:
                yield system, other
            elif other.label == system.label and other is not system and same_k and _plain(system.config):
                yield system, other
            elif other.label == system.label and other.config == system.config.replace(swapped=True) != system.config:
                yield system, other
            elif other.label == first != system.label and other.config == system.config:
                yield system, other


def _plain(config: AskConfig) -> bool:
    """The method itself: parameters alone, and no control."""
    return config == AskConfig(k=config.k, **_same(config)) and config.mode == "parameters"


def _same(config: AskConfig) -> dict[str, Any]:
    return {"max_new_tokens": config.max_new_tokens, "batch_size": config.batch_size, "cut": config.cut}


def _rows(run: Predictions, rows: Any) -> Predictions:
    """Some of the rows."""
    return dataclasses.replace(
        run,
        ids=tuple(run.ids[i] for i in rows),
        texts=tuple(run.texts[i] for i in rows),
        targets=run.targets[rows],
        probabilities=run.probabilities[rows],
        neighbours=run.neighbours[rows],
        similarities=run.similarities[rows],
        references=tuple((run.references or ())[i] for i in rows),
        generated=tuple((run.generated or ())[i] for i in rows),
    )


def _scores(group: str, systems: Sequence[System]) -> Iterator[dict[str, Any]]:
    for system in systems:
        scores = {metric: score_interval(system.runs, metric).to_dict() for metric in METRICS}
        yield {"system": system.title, "method": system.label, "k": system.config.k, "group": group, **scores}


def _differences(group: str, systems: Sequence[System]) -> Iterator[dict[str, Any]]:
    for system, other in pairs(systems):
        for metric in ("token_f1", "contains"):
            gap = paired_difference(system.runs, other.runs, metric).to_dict()
            yield {"system": system.title, "minus": other.title, "group": group, "metric": metric, **gap}


def _broken(systems: Sequence[System]) -> Iterator[dict[str, Any]]:
    for system in systems:
        for other in systems if _plain(system.config) else ():
            if other.label == system.label and other.config == system.config.replace(swapped=True):
                shares = [broken(own, theirs) for own, theirs in zip(system.runs, other.runs, strict=True)]
                for run, share in zip(system.runs, shares, strict=True):
                    told = None if share is None else share.to_dict()
                    yield {"system": system.title, "seed": run.seed, "share": told}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
