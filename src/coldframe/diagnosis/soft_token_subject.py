"""A pipeline whose soft tokens can be looked at and replaced."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from coldframe.diagnosis.pipeline_subject import BATCH, Answers, Conditioner, PipelineSubject
from coldframe.frozen.ports import Conditioning, broadcast_rows
from coldframe.inference.run import by_length
from coldframe.methods.registry import create
from coldframe.methods.soft_tokens.base import EncodedMethod
from coldframe.pipeline.pipeline import Pipeline
from coldframe.retrieval.encoders import Encoder
from coldframe.retrieval.retriever import Retriever
from coldframe.tasks.task import Example


def subject_of(pipeline: Pipeline, examples: Sequence[Example], seed: int = 0, quiet: bool = True) -> PipelineSubject:
    """A fitted pipeline as a subject: a :class:`SoftTokenSubject` if it puts soft tokens into its model."""
    subject = PipelineSubject(pipeline, examples, seed, quiet)
    return subject if subject.first.soft_tokens is None else SoftTokenSubject(pipeline, examples, seed, quiet)


class SoftTokenSubject(PipelineSubject):
    """A pipeline that conditions its model through soft tokens; a ``TokenSubject``, whose labels can be seen too.

    What the method puts into other ports stays as it is when tokens are replaced.
    """

    def tokens(self) -> NDArray[np.float32]:
        """The soft tokens of every query, ``[n, m, d_model]``."""
        return self._own_tokens

    @cached_property
    def _own_tokens(self) -> NDArray[np.float32]:
        return self._tokens_of(self.conditioner())

    @torch.no_grad()
    def _tokens_of(self, conditioner: Conditioner) -> NDArray[np.float32]:
        parts, order = [], []
        for batch in by_length(self._texts, self.pipeline.lm.at_once(BATCH)):
            soft = conditioner(np.array(batch)).soft_tokens
            assert soft is not None  # subject_of has looked
            parts.append(broadcast_rows(soft, len(batch)).float().cpu().numpy())
            order += batch
        return np.concatenate(parts)[np.argsort(order)]

    def initial_tokens(self) -> NDArray[np.float32]:
        """The tokens as they were before training, ``[n, m, d_model]``."""
        method = self.pipeline.method
        fresh = create(method.name, method.config.to_dict()).setup(method.ready, self.pipeline.training.seed)
        return self._tokens_of(self.conditioner(fresh))

    @torch.no_grad()
    def word_embeddings(self) -> NDArray[np.float32]:
        """The mean embedding of the tokens of each query's text, ``[n, 1, d_model]``."""
        lm = self.pipeline.lm
        embedded = [lm.embed(torch.tensor(lm.tokenize(text), device=lm.device)) for text in self._texts]
        return np.stack([vectors.float().mean(0, keepdim=True).cpu().numpy() for vectors in embedded])

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
        own, other = self.answers("full").log_probabilities, self._with(tokens).log_probabilities
        if own is None or other is None:
            return np.full(len(self), np.nan)
        return np.asarray((np.exp(own) * (own - other)).sum(axis=1))

    def _with(self, tokens: NDArray[np.float32]) -> Answers:
        key = hashlib.sha256(np.ascontiguousarray(tokens).tobytes()).hexdigest(), tokens.ndim
        if key not in self._answered:
            own = self.conditioner()
            soft = torch.from_numpy(np.array(tokens, np.float32)).to(self.pipeline.lm.device)

            def replaced(rows: NDArray[np.int64]) -> Conditioning:
                batch = soft if soft.dim() == 2 else soft[torch.from_numpy(rows)]
                return dataclasses.replace(own(rows), soft_tokens=batch)

            self._answered[key] = self.run(replaced, "other soft tokens")
        return self._answered[key]

    @cached_property
    def _encoder(self) -> Encoder:
        """The method's encoder, or else the one that retrieval by cosine would take."""
        pipeline = self.pipeline
        searching = Retriever(pipeline.store, pipeline.schema.domain, 0, pipeline.retrieval)
        return pipeline.method.ready.encoder or searching.encoder
