"""A fitted pipeline as a subject of diagnosis: its losses with its retrieval intact and with it spoiled."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from coldframe.diagnosis.perturbations import DRAWN, other_queries, reads_vectors, stand_in
from coldframe.diagnosis.subject import CONDITIONS, Condition
from coldframe.errors import ConfigError, DataError
from coldframe.evaluation.runs import shuffled_labels
from coldframe.frozen.ports import EMPTY, Conditioning, broadcast_rows
from coldframe.inference.run import by_length
from coldframe.methods.base import Method, prompts
from coldframe.methods.soft_tokens.base import EncodedMethod
from coldframe.pipeline.pipeline import Pipeline
from coldframe.pipeline.setup import retriever_of
from coldframe.progress import Bar
from coldframe.retrieval.encoders import Encoder
from coldframe.retrieval.retriever import Retriever, Strategy
from coldframe.retrieval.store import Retrieved
from coldframe.tasks.task import Example

#: Positions of some queries to what is put into the model for them.
Conditioner: TypeAlias = Callable[[NDArray[np.int64]], Conditioning]

_BATCH = 64
_STRATEGIES: Mapping[Condition, Strategy] = {"random": "random", "fixed": "fixed", "oracle": "oracle"}
#: Conditions that do something else than changing what was retrieved.
_OTHER = frozenset({"full", "empty", "swapped-conditioning"})


@dataclasses.dataclass(frozen=True)
class _Answers:
    """Losses ``[n]``; for labels also their log-probabilities ``[n, labels]``."""

    losses: NDArray[np.float64]
    log_probabilities: NDArray[np.float64] | None


class PipelineSubject:
    """A fitted pipeline and labelled queries; a :class:`coldframe.diagnosis.subject.Subject`.

    The loss of a query with the gold answer y is, in nats::

        classification: -log softmax_labels(score)_y        generation: -1/T sum_t log p(y_t | y_<t, x)

    Made for a method that puts soft tokens into its model, it is a :class:`SoftTokenSubject`, which has the
    tokens to look at as well. A method that retrieves nothing loses nothing under any change of what is
    retrieved: those losses are its losses, and are not computed again. Other losses are computed once per
    condition and seed, and the model's states of the queries' text are kept between conditions where the
    method leaves them as they are (suffix placement).

    Args:
        pipeline: Fitted, or loaded.
        examples: At least two queries with their targets. Queries of one key are one group.
        seed: Of all that is drawn, beside the seed given to :meth:`losses`.
        quiet: No progress bars.

    Raises:
        DataError: Fewer than two queries, or a label that the task does not have.

    Cost: one pass over the queries per condition and seed.
    """

    unit = "nats"
    _vectors: bool
    _text: bool

    def __new__(cls, pipeline: Pipeline, examples: Sequence[Example], *settings: Any, **named: Any) -> PipelineSubject:
        """What the method does with a first query decides the class."""
        if len(examples) < 2:
            raise DataError("A pipeline is diagnosed on two queries at least", got=len(examples))
        method, texts = pipeline.method.eval(), [examples[0].text]
        with torch.no_grad():
            found = pipeline.retrieve(examples[:1])
            first = method.condition(texts, found)
            vectors = reads_vectors(method, texts, found)
        subject = super().__new__(cls if first.soft_tokens is None else SoftTokenSubject)
        subject._vectors, subject._text = vectors, first.contexts is not None
        return subject

    def __init__(self, pipeline: Pipeline, examples: Sequence[Example], seed: int = 0, quiet: bool = True) -> None:
        self.pipeline, self.examples, self.seed, self.quiet = pipeline, tuple(examples), seed, quiet
        self.name, self.task = pipeline.method.name, pipeline.schema.name
        self.model = str(pipeline.lm.provenance.get("name", "a model"))
        _, groups = np.unique([e.key for e in examples], return_inverse=True)
        self.groups: NDArray[np.int64] | None = groups if len(set(groups.tolist())) < len(examples) else None
        self.retrieved = pipeline.retrieve(self.examples)
        self._texts = [e.text for e in self.examples]
        self._classify = pipeline.schema.kind == "classification"
        self._gold = [pipeline.schema.index(e.target) if self._classify else -1 for e in self.examples]
        self._kept: dict[tuple[str, int], _Answers] = {}

    def __len__(self) -> int:
        return len(self.examples)

    def missing(self) -> Mapping[Condition, str]:
        """The conditions that cannot be run here, each with the reason in words."""
        return self._missing

    @cached_property
    def _missing(self) -> dict[Condition, str]:
        reasons: dict[Condition, str] = {}
        if not isinstance(self, SoftTokenSubject):
            reasons["swapped-conditioning"] = f"{self.name} puts no soft tokens into the model"
        if not self.pipeline.method.uses_retrieval:
            return reasons
        if self._text:
            reasons["gaussian"] = reasons["mean"] = f"{self.name} puts exemplars into the prompt as text"
        elif not self._vectors:
            reasons["gaussian"] = reasons["mean"] = f"{self.name} makes no vectors of single exemplars"
        known = {e.target for e in self.pipeline.store.examples}
        if not all(e.target in known for e in self.examples):
            reasons["oracle"] = "no entry of the store has the answer of some of the queries"
        return reasons

    def losses(self, condition: Condition, seed: int = 0) -> NDArray[np.float64]:
        """Loss of every query's gold answer under a condition, ``[n]``, in nats.

        Args:
            condition: One of ``CONDITIONS``.
            seed: Of what the condition draws at random.

        Raises:
            ConfigError: The condition is among :meth:`missing`.
        """
        if (reason := self._missing.get(condition)) is not None:
            raise ConfigError(f"The condition {condition!r} cannot be run here: {reason}")
        if condition not in _OTHER and not self.pipeline.method.uses_retrieval:
            condition = "full"
        return self._answers(condition, seed if condition in DRAWN else 0).losses

    def _answers(self, condition: Condition, seed: int = 0) -> _Answers:
        if (condition, seed) not in self._kept:
            self._kept[condition, seed] = self._compute(condition, seed)
        return self._kept[condition, seed]

    def _compute(self, condition: Condition, seed: int) -> _Answers:
        what = CONDITIONS[condition]
        if condition == "empty":
            return self._run(lambda rows: EMPTY, what)
        if condition == "gaussian" or condition == "mean":
            with stand_in(self.pipeline.method, condition, self._drawn(seed)):
                return self._run(self._conditioner(self.retrieved), what)
        if condition == "swapped-conditioning":
            own, other = self._conditioner(self.retrieved), self._others(seed)
            return self._run(lambda rows: own(other[rows]), what)
        return self._run(self._conditioner(self._found(condition, seed)), what)

    def _found(self, condition: Condition, seed: int) -> Retrieved:
        """What stands under a condition where the retrieved sets were."""
        if condition == "full":
            return self.retrieved
        if condition == "swapped":
            return self.retrieved.rows(self._others(seed))
        pipeline = self.pipeline
        if condition == "shuffled":
            store = shuffled_labels(pipeline.store, self._drawn(seed))
            return Retrieved(store, self.retrieved.indices, self.retrieved.scores)
        config = pipeline.retrieval.replace(strategy=_STRATEGIES[condition], seed=self._drawn(seed))
        retriever = retriever_of(pipeline.method, pipeline.schema, pipeline.store, config)
        assert retriever is not None  # asked for only where something is retrieved
        return retriever.retrieve(self.examples, exclude_same_key=False)

    def _others(self, seed: int) -> NDArray[np.int64]:
        """For every query another one."""
        return other_queries(self.retrieved, [self.seed, seed])

    def _drawn(self, seed: int) -> int:
        """One seed out of the subject's and the draw's."""
        return int(np.random.SeedSequence([self.seed, seed]).generate_state(1)[0])

    def _conditioner(self, found: Retrieved, method: Method | None = None) -> Conditioner:
        condition = (method or self.pipeline.method).condition
        return lambda rows: condition([self._texts[i] for i in rows], found.rows(rows))

    @torch.no_grad()
    def _run(self, conditioner: Conditioner, what: str) -> _Answers:
        """Losses of all queries, each under what ``conditioner`` puts into the model for it."""
        lm, schema, n = self.pipeline.lm, self.pipeline.schema, len(self)
        losses = np.empty(n)
        log_probabilities = np.empty((n, len(schema.labels))) if self._classify else None
        self.pipeline.method.eval()
        with Bar(n, what, self.quiet) as bar:
            for batch in by_length(self._texts, _BATCH):
                conditioning = conditioner(np.array(batch))
                asked = prompts(schema, [self._texts[i] for i in batch])
                if log_probabilities is not None:
                    scores = lm.label_scores(asked, schema.words, conditioning)
                    log_probabilities[batch] = scores.double().log_softmax(-1).cpu().numpy()
                    losses[batch] = -log_probabilities[batch, [self._gold[i] for i in batch]]
                else:
                    answers = [schema.template.answer(schema.word(self.examples[i].target)) for i in batch]
                    tokens = np.array([len(lm.answer_tokens(answer, schema.template.end)) for answer in answers])
                    losses[batch] = lm.loss(asked, answers, conditioning).double().cpu().numpy() / tokens
                bar.advance(len(batch))
        return _Answers(losses, log_probabilities)


class SoftTokenSubject(PipelineSubject):
    """A pipeline that conditions its model through soft tokens; a ``TokenSubject``, whose labels can be seen too.

    Exemplars that stand in the prompt beside the soft tokens stay as they are when tokens are replaced.
    """

    _tokens: NDArray[np.float32] | None = None

    def tokens(self) -> NDArray[np.float32]:
        """What stands in the soft-token port for every query, ``[n, m, d_model]``."""
        if self._tokens is None:
            self._tokens = self._tokens_of(self._conditioner(self.retrieved))
        return self._tokens

    @torch.no_grad()
    def _tokens_of(self, conditioner: Conditioner) -> NDArray[np.float32]:
        self.pipeline.method.eval()
        parts, order = [], []
        for batch in by_length(self._texts, _BATCH):
            soft = conditioner(np.array(batch)).soft_tokens
            assert soft is not None  # the class was chosen for it
            parts.append(broadcast_rows(soft, len(batch)).float().cpu().numpy())
            order += batch
        return np.concatenate(parts)[np.argsort(order)]

    def initial_tokens(self) -> NDArray[np.float32]:
        """The tokens as they were before training, ``[n, m, d_model]``."""
        method = self.pipeline.method
        fresh = type(method)(method.config).setup(method.ready, self.pipeline.training.seed).eval()
        return self._tokens_of(self._conditioner(self.retrieved, fresh))

    @torch.no_grad()
    def word_embeddings(self) -> NDArray[np.float32]:
        """The mean embedding of the tokens of each query's text, ``[n, 1, d_model]``."""
        lm = self.pipeline.lm
        embedded = [lm.embed(torch.tensor(lm.tokenize(text), device=lm.device)) for text in self._texts]
        return np.stack([one.float().mean(0, keepdim=True).cpu().numpy() for one in embedded])

    @torch.no_grad()
    def query_vectors(self) -> NDArray[np.float32]:
        """Vectors of the queries alone, ``[n, d']``, as the method sees them: encoded, and adapted if it does so."""
        method = self.pipeline.method.eval()
        if isinstance(method, EncodedMethod):
            return method.encode(self._texts).cpu().numpy()
        return self._encoder.encode(self._texts)

    def store_vectors(self) -> NDArray[np.float32]:
        """Encoder vectors of the store's entries, ``[entries, d']``."""
        return self._encoder.encode(self.pipeline.store.texts)

    def retrieved_ids(self) -> NDArray[np.int64]:
        """Store positions of what was retrieved, nearest first, ``[n, k]``; -1 where there is none."""
        return self.retrieved.ranked().indices

    def losses_with(self, tokens: NDArray[np.float32]) -> NDArray[np.float64]:
        """Losses with other soft tokens, ``[n]``; ``tokens`` is ``[m, d]`` for all or ``[n, m, d]``."""
        return self._with(tokens).losses

    def divergence(self, tokens: NDArray[np.float32]) -> NDArray[np.float64]:
        """``KL(p(. | own tokens, x) || p(. | tokens, x))`` over the labels, ``[n]``, nats; NaN for written answers."""
        own, other = self._answers("full").log_probabilities, self._with(tokens).log_probabilities
        if own is None or other is None:
            return np.full(len(self), np.nan)
        return np.asarray((np.exp(own) * (own - other)).sum(axis=1))

    def _with(self, tokens: NDArray[np.float32]) -> _Answers:
        key = hashlib.sha256(np.ascontiguousarray(tokens).tobytes()).hexdigest()
        if (key, tokens.ndim) not in self._kept:
            own = self._conditioner(self.retrieved)
            soft = torch.from_numpy(np.array(tokens, np.float32)).to(self.pipeline.lm.device)

            def replaced(rows: NDArray[np.int64]) -> Conditioning:
                some = soft if soft.dim() == 2 else soft[torch.from_numpy(rows)]
                return dataclasses.replace(own(rows), soft_tokens=some)

            self._kept[key, tokens.ndim] = self._run(replaced, "other soft tokens")
        return self._kept[key, tokens.ndim]

    @property
    def _encoder(self) -> Encoder:
        """The method's encoder, or else the one that retrieval by cosine would take."""
        pipeline = self.pipeline
        searching = Retriever(pipeline.store, pipeline.schema.domain, 0, pipeline.retrieval)
        return pipeline.method.ready.encoder or searching.encoder
