"""A fitted pipeline as a subject of diagnosis: its losses with its retrieval as it is and with it changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from coldframe.diagnosis.perturbations import DRAWN, UninformativeVectors, shuffled_contents
from coldframe.diagnosis.queries import groups_of
from coldframe.diagnosis.subject import CONDITIONS, Condition
from coldframe.errors import ConfigError, DataError
from coldframe.frozen.ports import EMPTY, Conditioning
from coldframe.inference.run import by_length
from coldframe.methods.base import Method, prompts
from coldframe.pipeline.pipeline import Pipeline
from coldframe.pipeline.setup import retriever_of
from coldframe.progress import Bar, working
from coldframe.retrieval.retriever import Strategy
from coldframe.retrieval.store import Retrieved
from coldframe.retrieval.swap import donors
from coldframe.tasks.task import Example

#: Positions of some queries to what is put into the model for them.
Conditioner: TypeAlias = Callable[[NDArray[np.int64]], Conditioning]

BATCH = 64
_STRATEGIES: Mapping[Condition, Strategy] = {"random": "random", "fixed": "fixed", "oracle": "oracle"}


@dataclasses.dataclass(frozen=True)
class Answers:
    """Losses ``[n]``; for labels also their log-probabilities ``[n, labels]``."""

    losses: NDArray[np.float64]
    log_probabilities: NDArray[np.float64] | None


class PipelineSubject:
    """A fitted pipeline of any method and labelled queries; a :class:`coldframe.diagnosis.subject.Subject`.

    The loss of a query with the gold answer y is, in nats::

        classification: -log softmax_labels(score)_y        generation: -1/T sum_t log p(y_t | y_<t, x)

    where y includes what ends an answer. A method that retrieves nothing loses nothing when the retrieved sets change:
    those losses are not computed again. Others are computed once per condition and seed; the model's states of the
    queries' text are shared between conditions where the method leaves them as they are (suffix placement).

    Args:
        pipeline: Fitted, or loaded.
        examples: At least two queries with their targets. Queries of one group (else of one key) are one group.
        seed: Of all that is drawn, beside the seed given to :meth:`losses`.
        quiet: No progress bars.

    Raises:
        ConfigError: The method asks no language model.
        DataError: Fewer than two queries, or a label that the task does not have.

    Cost: one pass over the queries per condition and seed.
    """

    unit = "nats"

    def __init__(self, pipeline: Pipeline, examples: Sequence[Example], seed: int = 0, quiet: bool = True) -> None:
        if len(examples) < 2:
            raise DataError("A pipeline is diagnosed on two queries at least", got=len(examples))
        if not pipeline.method.reads_model:
            raise ConfigError(
                f"{pipeline.method.name} has no language model, and a diagnosis asks what retrieval does to one",
                fix="Diagnose a method that adapts a model; what this one is worth beside others: coldframe compare.",
            )
        self.pipeline, self.examples, self.seed, self.quiet = pipeline, tuple(examples), seed, quiet
        self.name, self.task = pipeline.method.name, pipeline.schema.name
        self.model = str(pipeline.lm.provenance.get("name", "a model"))
        self.groups = groups_of(self.examples)
        with working("retrieve", quiet):
            self.retrieved = pipeline.retrieve(self.examples)
        self._texts = [example.text for example in self.examples]
        classify = pipeline.schema.kind == "classification"
        self._gold = pipeline.schema.targets(self.examples) if classify else None
        self._answered: dict[tuple[str, int], Answers] = {}

    def __len__(self) -> int:
        return len(self.examples)

    @cached_property
    @torch.no_grad()
    def first(self) -> Conditioning:
        """What the method puts into the model for the first query: which ports it fills."""
        return self.pipeline.method.eval().condition(self._texts[:1], self.retrieved.rows([0]))

    def missing(self) -> Mapping[Condition, str]:
        """The conditions that cannot be run here, each with the reason in words."""
        method, reasons = self.pipeline.method, dict[Condition, str]()
        if not method.uses_retrieval:
            return reasons
        if not method.uses_query:
            reasons["swapped-conditioning"] = (
                f"all that {self.name} puts into the model comes from what it retrieves, and 'swapped' swaps that"
            )
        if method.needs_passages:
            reasons["shuffled"] = f"{self.name} has learned its passages and does not read them again"
        if self.first.contexts is not None:
            reasons["gaussian"] = reasons["mean"] = f"{self.name} puts entries into the prompt as text"
        elif method.needs_passages:
            reasons["gaussian"] = reasons["mean"] = f"{self.name} makes weights of its passages, and no vectors"
        elif not method.makes_entry_vectors:
            reasons["gaussian"] = reasons["mean"] = f"{self.name} makes no vectors of single entries"
        entries = self.pipeline.store.examples
        ids, targets = {entry.id for entry in entries}, {entry.target for entry in entries}
        if not all(ids.intersection(query.gold) or query.target in targets for query in self.examples):
            reasons["oracle"] = "for some queries it is not known which entries of the store answer them"
        return reasons

    def losses(self, condition: Condition, seed: int = 0) -> NDArray[np.float64]:
        """Loss of every query's gold answer under a condition, ``[n]``, in nats; ``seed`` is of what is drawn.

        Raises:
            ConfigError: The condition is among :meth:`missing`.
        """
        if (reason := self.missing().get(condition)) is not None:
            raise ConfigError(f"The condition {condition!r} cannot be run here: {reason}")
        method = self.pipeline.method
        depends = method.uses_retrieval or (method.uses_query and condition == "swapped-conditioning")
        if condition != "empty" and not depends:
            condition = "full"
        return self.answers(condition, seed if condition in DRAWN else 0).losses

    def answers(self, condition: Condition, seed: int = 0) -> Answers:
        """Losses and label probabilities under a condition, computed once."""
        if (condition, seed) not in self._answered:
            self._answered[condition, seed] = self.run(self._conditioner_under(condition, seed), CONDITIONS[condition])
        return self._answered[condition, seed]

    def _conditioner_under(self, condition: Condition, seed: int) -> Conditioner:
        if condition == "empty":
            return lambda rows: EMPTY
        if condition == "gaussian" or condition == "mean":
            vectors = UninformativeVectors(condition, self._drawn(seed))
            return self.conditioner(self.pipeline.method.with_entry_vectors(vectors))
        if condition == "swapped-conditioning":
            own, partners = self.conditioner(), self._partners(seed)
            return lambda rows: own(partners[rows])
        return self.conditioner(retrieved=self._retrieved_under(condition, seed))

    def _retrieved_under(self, condition: Condition, seed: int) -> Retrieved:
        """The retrieved sets under a condition."""
        pipeline, own = self.pipeline, self.retrieved
        if condition == "full":
            return own
        if condition == "swapped":
            return own.rows(self._partners(seed))
        if condition == "shuffled":
            return Retrieved(shuffled_contents(pipeline.store, self._drawn(seed)), own.indices, own.scores)
        config = pipeline.retrieval.replace(strategy=_STRATEGIES[condition], seed=self._drawn(seed))
        retriever = retriever_of(pipeline.method, pipeline.schema, pipeline.store, config)
        assert retriever is not None  # called only where something is retrieved
        return retriever.retrieve(self.examples, exclude_same_key=False)

    def _partners(self, seed: int) -> NDArray[np.int64]:
        """For every query another one; without retrieval every query is as good as any other."""
        own = self.retrieved
        sets = [set(row[row >= 0].tolist()) if own.k else {i} for i, row in enumerate(own.indices)]
        return donors(sets, seed=[self.seed, seed])

    def _drawn(self, seed: int) -> int:
        """A seed made of the subject's and the draw's."""
        return int(np.random.SeedSequence([self.seed, seed]).generate_state(1)[0])

    def conditioner(self, method: Method | None = None, retrieved: Retrieved | None = None) -> Conditioner:
        """What a method (this one if None) makes of the queries and of retrieved sets (their own if None)."""
        condition = (method or self.pipeline.method).eval().condition
        sets = self.retrieved if retrieved is None else retrieved
        return lambda rows: condition([self._texts[i] for i in rows], sets.rows(rows))

    @torch.no_grad()
    def run(self, conditioner: Conditioner, title: str) -> Answers:
        """Losses of all queries, each under what ``conditioner`` puts into the model for it."""
        lm, schema, n, gold = self.pipeline.lm, self.pipeline.schema, len(self), self._gold
        losses = np.empty(n)
        log_probabilities = None if gold is None else np.empty((n, len(schema.labels)))
        with Bar(n, title, self.quiet) as bar:
            for batch in by_length(self._texts, lm.at_once(BATCH)):
                conditioning = conditioner(np.array(batch))
                queries = prompts(schema, [self._texts[i] for i in batch])
                if log_probabilities is not None and gold is not None:
                    if conditioning is EMPTY:
                        scores = lm.label_scores(queries, schema.words, EMPTY, choices=True)
                    else:
                        scores = self.pipeline.method.label_scores(lm, queries, schema.words, conditioning)
                    log_probabilities[batch] = scores.double().log_softmax(-1).cpu().numpy()
                    losses[batch] = -log_probabilities[batch, [gold[i] for i in batch]]
                else:
                    answers = [schema.template.answer(self.examples[i].target) for i in batch]
                    tokens = np.array([len(lm.answer_tokens(answer, schema.template.end)) for answer in answers])
                    losses[batch] = lm.loss(queries, answers, conditioning).double().cpu().numpy() / tokens
                bar.advance(len(batch))
        return Answers(losses, log_probabilities)
