"""Pipelines that put passages before a question: the conditions, and what was measured under them."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from coldframe.diagnosis.memory import Memory
from coldframe.diagnosis.perturbations import deal_words
from coldframe.diagnosis.queries import Case, Passages, as_examples, as_texts, groups_of
from coldframe.diagnosis.subject import CONDITIONS, Condition, noise_note
from coldframe.errors import ConfigError, DataError, nearest
from coldframe.progress import Bar
from coldframe.retrieval.swap import donors
from coldframe.tasks.task import Example, content_hash

FEW = 10  # fewer queries than this get a warning
REPEATED = 8  # queries asked twice, to see whether the pipeline is deterministic

#: Passages for a question, most relevant first; or those of every query.
Retrieve: TypeAlias = Callable[[str], Sequence[str]] | Sequence[Sequence[str]]

_log = logging.getLogger(__name__)


class PassageSubject(ABC):
    """A subject whose retrieval is a list of passages: all conditions, over a way to measure a loss.

    The question stays; its passages are

    - ``full``: as retrieved; ``empty``: none; ``oracle``: as the oracle chooses.
    - ``swapped``: those of another query, and a different set as far as there is one.
    - ``random``: as many others, from the store if it is given, and else from what other queries retrieved.
    - ``fixed``: those of one query, for all.
    - ``shuffled``: as retrieved, with the words of all retrieved passages dealt out anew: length and vocabulary stay,
      the content goes.

    Losses are remembered by question, passages and answer. After the first ``full``, eight queries are asked once more
    (unless :attr:`deterministic`); if their losses differ, :attr:`notes` says by how much.

    Args:
        queries: At least 2, as examples or pairs of question and answer; a verdict needs 30.
        retrieve: The passages for a question, most relevant first; called once per query. Or, where they are known, the
            passages of every query.
        store: All passages that could be retrieved, if they are known.
        oracle: Passages chosen with knowledge of the answer, likewise.
        name: As reports show it.
        task: What is asked.
        model: The language model in the pipeline.
        unit: Of a loss.
        resume: A file that stores every loss, so that an interrupted diagnosis goes on where it was. Delete it when the
            pipeline changes in a way that its name and model do not show.
        quiet: No progress bar.

    Raises:
        DataError: Too few queries, or what comes back from the pipeline is unusable; names the query.
    """

    #: Whether equal cases are known to have equal losses; otherwise some queries are asked twice.
    deterministic: ClassVar[bool] = False

    #: Whether what is measured is a score; its negative is the loss.
    greater_is_better: bool = False

    #: How many losses are measured together, in the order in which they become known.
    at_once: int = 1

    groups: NDArray[np.int64] | None

    def __init__(
        self,
        queries: Sequence[Example | tuple[str, str]],
        retrieve: Retrieve,
        *,
        store: Sequence[str] | None = None,
        oracle: Retrieve | None = None,
        name: str = "pipeline",
        task: str = "questions",
        model: str = "unknown",
        unit: str = "nats",
        resume: str | Path | None = None,
        quiet: bool = False,
    ) -> None:
        self.queries = as_examples(queries)
        if len(self.queries) < 2:
            raise DataError("There is nothing to compare", got=f"{len(self.queries)} queries", expected="at least 2")
        if len(self.queries) < FEW:
            _log.warning("%d queries are too few to tell anything; 30 are the least for a verdict", len(self.queries))
        self.name, self.task, self.model, self.unit, self.quiet = name, task, model, unit, quiet
        self.groups = groups_of(self.queries)
        self.store = None if store is None else as_texts(store, "The store")
        if self.store == ():
            raise DataError("The store is empty", fix="Leave it out if it is not known.")
        self._retrieve, self._oracle, self._resume = retrieve, oracle, resume
        self._noise: str | None = None
        #: The largest difference between losses that were measured twice.
        self.noise = 0.0
        self._accepted: dict[tuple[str, str], tuple[str, ...]] = {}
        for query in self.queries:  # a question that stands here twice has all its right answers
            answers = (*self._accepted.get((query.text, query.target), ()), query.target, *query.references)
            self._accepted[query.text, query.target] = tuple(dict.fromkeys(answers))

    @abstractmethod
    def measure(self, cases: Sequence[Case]) -> Iterator[tuple[int, float]]:
        """Losses of some cases as they become known: position in ``cases`` and loss, in any order."""

    def fingerprint(self) -> str:
        """Names all that a loss depends on: losses stored in a file are used by an equal subject only."""
        return content_hash(self.name, self.task, self.model, self.unit)

    @cached_property
    def remembered(self) -> Memory:
        """Losses measured so far."""
        owner = "" if self._resume is None else self.fingerprint()
        return Memory(self._resume, owner, self.accepted)

    def __len__(self) -> int:
        return len(self.queries)

    @cached_property
    def retrieved(self) -> tuple[Passages, ...]:
        """What was retrieved for every query."""
        sets = self._call(self._retrieve, "retrieve")
        if not any(sets):
            raise DataError("Nothing was retrieved for any query", fix="Call retrieve on a question and look.")
        return sets

    @cached_property
    def pool(self) -> Passages:
        """All different passages that were retrieved."""
        return tuple(dict.fromkeys(passage for passages in self.retrieved for passage in passages))

    def missing(self) -> Mapping[Condition, str]:
        """The conditions that cannot be run here, each with the reason in words."""
        reasons: dict[Condition, str] = {
            "swapped-conditioning": "nothing but passages is put into the model, and 'swapped' swaps all of them",
            "gaussian": "passages are texts, which have no mean and covariance",
            "mean": "passages are texts, which have no mean",
        }
        if self._oracle is None:
            reasons["oracle"] = "no oracle was given"
        if len(self.pool) < 2:
            reasons["shuffled"] = "a single passage is all that was ever retrieved"
        if not any(set(self._candidates) - set(passages) for passages in self.retrieved):
            reasons["random"] = "there are no passages but those that every query retrieves"
        return reasons

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the numbers should know, in sentences."""
        notes = []
        if self.store is None:
            notes.append(f"No store was given: 'random' draws from the {len(self.pool)} passages ever retrieved.")
        if nothing := sum(not passages for passages in self.retrieved):
            notes.append(f"{nothing} of {len(self)} queries retrieved nothing.")
        sets = self._sets
        if len(set(sets)) == 1:
            notes.append("All queries retrieved the same passages: swapping them changes nothing.")
        elif same := sum(not own.isdisjoint(sets[i]) for own, i in zip(sets, donors(sets), strict=True)):
            notes.append(f"{same} of {len(self)} queries keep passages of theirs when swapped: most retrieve the same.")
        return (*notes, *([self._noise] if self._noise else []))

    def cases(self, condition: Condition, seed: int = 0) -> list[Case]:
        """The questions as they are asked under a condition."""
        if condition not in CONDITIONS:
            raise ConfigError(f"Unknown condition {condition!r}", fix=nearest(condition, CONDITIONS))
        if condition in (missing := self.missing()):
            raise ConfigError(f"The condition {condition!r} cannot be run: {missing[condition]}")
        passages = self._passages(condition, seed)
        return [Case(query.text, own, query.target) for query, own in zip(self.queries, passages, strict=True)]

    def losses(self, condition: Condition, seed: int = 0) -> NDArray[np.float64]:
        """Loss of every query's gold answer under a condition, ``[n]``; lower is better. ``seed`` is of what is drawn.

        Raises:
            DataError: A loss is missing, or not a finite number; names the query.
        """
        cases = self.cases(condition, seed)
        losses = self.losses_of(cases, range(len(self)), condition)
        if condition == "full" and self._noise is None and not self.deterministic:
            again: dict[Case, float] = {}
            self._measure(cases[:REPEATED], range(REPEATED), "full, asked again", again)
            repeated = np.array([again[case] for case in cases[:REPEATED]])
            self._noise = noise_note(losses[:REPEATED], repeated, self.unit)
            self.noise = float(np.abs(losses[:REPEATED] - repeated).max())
        return losses

    def losses_of(self, cases: Sequence[Case], rows: Sequence[int], title: str) -> NDArray[np.float64]:
        """Losses of any cases, ``[len(cases)]``; what was measured before is not measured again.

        Args:
            cases: Questions with passages.
            rows: The query that each belongs to.
            title: What progress and errors call it.

        Raises:
            DataError: A loss is missing, or not a finite number; names the query.
        """
        unknown: dict[Case, int] = {}
        for row, case in zip(rows, cases, strict=True):
            if case not in self.remembered:
                unknown.setdefault(case, row)
        self._measure(list(unknown), list(unknown.values()), title, self.remembered)
        return np.array([self.remembered[case] for case in cases], np.float64)

    def accepted(self, case: Case) -> tuple[str, ...]:
        """All right answers of a case."""
        return self._accepted.get((case.text, case.answer), (case.answer,))

    def _measure(
        self, cases: Sequence[Case], rows: Sequence[int], title: str, into: Memory | dict[Case, float]
    ) -> None:
        """Measure cases, which belong to the queries ``rows``; losses are stored as soon as they are known."""
        measured: set[int] = set()
        together: dict[Case, float] = {}
        with Bar(len(cases), f"{self.name}: {title}", self.quiet) as bar:
            for position, value in self.measure(cases) if cases else ():
                where = f"The loss of {self._label(rows[position])} under {title!r}"
                try:
                    loss = float(value)
                except (TypeError, ValueError) as error:
                    raise DataError(f"{where} is not a number", got=repr(value)[:80]) from error
                if not math.isfinite(loss):
                    raise DataError(f"{where} is not finite", got=loss, fix="Leave the query out, or mend its loss.")
                together[cases[position]] = 0.0 - loss if self.greater_is_better else loss
                if len(together) == self.at_once:
                    into.update(together)
                    together = {}
                measured.add(position)
                bar.advance(1)
        into.update(together)
        if left_out := sorted(set(range(len(cases))) - measured):
            raise DataError(
                f"The pipeline gave no loss for {self._label(rows[left_out[0]])} under {title!r}",
                got=f"{len(measured)} losses",
                expected=f"{len(cases)}, one per case",
            )

    def _passages(self, condition: Condition, seed: int) -> Sequence[Passages]:
        rng = np.random.default_rng([seed, list(CONDITIONS).index(condition)])
        if condition == "full":
            return self.retrieved
        if condition == "empty":
            return [()] * len(self)
        if condition == "oracle":
            assert self._oracle is not None  # else the condition is missing
            return self._call(self._oracle, "oracle")
        if condition == "swapped":
            return [self.retrieved[i] for i in donors(self._sets, seed=seed)]
        if condition == "fixed":
            sets = [passages for passages in self.retrieved if passages]
            return [sets[rng.integers(len(sets))]] * len(self)
        if condition == "shuffled":
            shuffled = deal_words(self.pool, rng)
            return [tuple(shuffled[passage] for passage in passages) for passages in self.retrieved]
        return [_others(self._candidates, passages, rng) for passages in self.retrieved]

    @cached_property
    def _candidates(self) -> Passages:
        """All different passages that a random one may be."""
        return self.pool if self.store is None else tuple(dict.fromkeys(self.store))

    @cached_property
    def _sets(self) -> list[frozenset[str]]:
        """What each query retrieved, without its order."""
        return [frozenset(passages) for passages in self.retrieved]

    def _call(self, retrieve: Retrieve, name: str) -> tuple[Passages, ...]:
        if callable(retrieve):
            sets: Sequence[Sequence[str]] = [retrieve(query.text) for query in self.queries]
        else:
            sets = retrieve
        if len(sets) != len(self):
            raise DataError(f"{name} has not one list for every query", got=len(sets), expected=len(self))
        return tuple(
            as_texts(passages, f"What {name} returned for {self._label(i)}") for i, passages in enumerate(sets)
        )

    def _label(self, i: int) -> str:
        return f"query {self.queries[i].id or i + 1} ({self.queries[i].text[:60]!r})"


def _others(pool: Passages, own: Passages, rng: np.random.Generator) -> Passages:
    """As many as ``own`` at random out of ``pool``, none of them in ``own``; fewer if there are fewer."""
    drawn = rng.choice(len(pool), min(2 * len(own), len(pool)), replace=False)
    return tuple(pool[i] for i in drawn if pool[i] not in own)[: len(own)]
