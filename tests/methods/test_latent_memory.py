"""Latent memory learns to read a store that has the answer, and is a static prompt where all entries are alike."""

from __future__ import annotations

import dataclasses
import random
import zlib
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.contract.cases import FOUND, METHODS, QUERIES, STORE, TWO, built, lm_of

from coldframe.methods.base import prompts
from coldframe.methods.soft_tokens.latent_memory import LatentMemory
from coldframe.pipeline.fit import fit
from coldframe.pipeline.pipeline import Pipeline
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.retrieval.store import Retrieved, Store
from coldframe.tasks.builtin.facts import place
from coldframe.tasks.task import Example, Task
from coldframe.training.config import TrainingConfig


class Bag:
    """The mean of random vectors, one for each word."""

    dim, takes_label_text, hash = 48, True, "bag"

    def __init__(self, spec: str) -> None:
        self.spec = spec

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        words = [
            [np.random.default_rng(zlib.crc32(w.encode())).normal(size=self.dim) for w in t.split()] for t in texts
        ]
        return np.array([np.mean(some, axis=0) for some in words], np.float32).reshape(len(texts), self.dim)


def told(seed: int = 0) -> Task:
    """Places with labels at random; each has a query, and an entry in the store."""
    rng = random.Random(seed)
    places = list(dict.fromkeys(place(rng) for _ in range(160)))
    labels = [TWO.labels[i % 2] for i in range(len(places))]
    rng.shuffle(labels)
    pairs = list(zip(places, labels, strict=True))
    forms = {"query": "is {}", "entry": "the {}"}
    queries, entries = (
        [Example(text.format(p), y, f"{kind}-{i:03d}", f"{kind} {p}") for i, (p, y) in enumerate(pairs)]
        for kind, text in forms.items()
    )
    return Task(TWO, tuple(queries[:96]), (), tuple(queries[96:]), store=tuple(entries))


def losses(pipeline: Pipeline, task: Task, retrieved: Retrieved) -> NDArray[np.float64]:
    texts = [e.text for e in task.test]
    with torch.no_grad():
        conditioning = pipeline.method.condition(texts, retrieved)
        scores = pipeline.lm.label_scores(prompts(task.schema, texts), task.schema.words, conditioning)
    return -scores.double().log_softmax(-1).numpy()[np.arange(len(texts)), task.targets(task.test)]


@pytest.fixture(autouse=True)
def encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pipeline.setup", "retrieval.retriever"):
        monkeypatch.setattr(f"coldframe.{module}.load_encoder", Bag)


@pytest.mark.slow
def test_it_reads_the_entry_of_places_it_was_never_trained_on() -> None:
    task = told()
    method = LatentMemory(encoder="bag", tokens=2, k=3, static_learning_rate=1e-2)
    training = TrainingConfig(epochs=15, batch_size=16, learning_rate=5e-3)
    retrieval = RetrievalConfig(encoder="bag")
    pipeline = fit(method, lm_of("llama"), task, retrieval=retrieval, training=training, quiet=True)
    retrieved = pipeline.retrieve(task.test)
    others = retrieved.rows(np.arange(len(task.test)) - 1)
    assert losses(pipeline, task, retrieved).mean() < 0.2 < np.log(2) < losses(pipeline, task, others).mean()


def test_entries_that_are_all_alike_give_every_query_the_same_tokens() -> None:
    """Values that are equal add up to the same whatever attention is: what is left is a static prompt."""
    case = next(case for case in METHODS if case.id == "latent-memory")
    alike = Store.of([dataclasses.replace(STORE.examples[0], id=f"alike-{i}") for i in range(6)])
    method = built(case, lm_of("llama"))
    with torch.no_grad():
        tokens, differing = (
            method.condition(QUERIES[:3], Retrieved(store, FOUND.indices[:3], FOUND.scores[:3])).soft_tokens
            for store in (alike, STORE)
        )
    assert tokens is not None and differing is not None
    torch.testing.assert_close(tokens, tokens[:1].expand_as(tokens))
    assert (differing - differing[:1]).abs().max() > 1e-3
