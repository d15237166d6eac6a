"""The attention of MHA-ESP looks at its exemplars: where a neighbour's label is the answer, it finds it."""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.contract.cases import (
    FOUND,
    QUERIES,
    SCHEMA,
    TWO,
    WRITE,
    TinyEncoder,
    corpus,
    example,
    lm_of,
    task,
)

from coldframe.inference.predictions import Predictions
from coldframe.methods.config import MethodContext
from coldframe.methods.registry import create
from coldframe.methods.soft_tokens.label_vectors import LabelVectors
from coldframe.methods.soft_tokens.mha_esp import MHAESP
from coldframe.methods.soft_tokens.set_attention import attention_entropy, standardised
from coldframe.pipeline.fit import fit
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.retrieval.store import Retrieved, Store
from coldframe.tasks.task import Example, Passage, Task

#: MHA-ESP as it was: it takes the mean of its exemplars.
AVERAGING = {"scores": "dot", "similarity": "raw", "slope": 1.0, "label_place": "vector"}


def drawn(name: str, width: int) -> NDArray[np.float64]:
    return np.random.default_rng(zlib.crc32(name.encode())).normal(size=width) / width**0.5


class PlaceEncoder:
    """``kind topic number``: near where the numbers are the same, less near where only the topics are."""

    dim, takes_label_text = 24, False

    def __init__(self, spec: str = "places") -> None:
        self.spec, self.hash = spec, f"hash of {spec}"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = []
        for text in texts:
            _, topic, number = text.split()
            rows.append(drawn(f"topic {topic}", 24) + 0.7 * drawn(f"number {number}", 24) + 0.15 * drawn(text, 24))
        return np.array(rows, np.float32)


def copy_task(places: int = 300) -> Task:
    """A query's label is that of the one entry that is nearest; labels are dealt out at random.

    The four next entries share its topic and nothing else. No place is asked about twice: the query alone, and what was
    learned of other places, say nothing.
    """
    labels = np.random.default_rng(0).permutation(np.arange(places) % 2)
    entries, queries = (
        [
            Example(f"{kind} {i % (places // 10)} {i}", "AB"[labels[i]], f"{kind}{i}", f"{kind}{i}")
            for i in range(places)
        ]
        for kind in ("entry", "query")
    )
    train, held_out = int(0.6 * places), int(0.75 * places)
    splits = queries[:train], queries[train:held_out], queries[held_out:]
    return Task(TWO, *map(tuple, splits), store=tuple(entries))


def answered(monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]) -> Predictions:
    for module in ("pipeline.setup", "retrieval.retriever"):
        monkeypatch.setattr(f"coldframe.{module}.load_encoder", PlaceEncoder)
    on = copy_task()
    method = create("mha-esp", {"encoder": "places", "heads": 2, "adapter": 16, "dropout": 0.0, **settings})
    retrieval = RetrievalConfig(similarity="cosine", encoder="places")
    training = {"epochs": 6, "learning_rate": 2e-3, "patience": 0, "select": "loss"}
    return fit(method, lm_of("llama"), on, retrieval=retrieval, training=training, quiet=True).predictions(on.test)


@pytest.mark.slow
def test_it_copies_the_label_of_the_nearest_and_an_average_cannot(
    cache: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, averaging = (answered(monkeypatch, settings) for settings in ({}, AVERAGING))
    targets = dict(zip(ours.ids, ours.targets, strict=True))
    labels = {entry.id: "AB".index(entry.target) for entry in copy_task().store or ()}
    nearest = np.mean([labels[str(row[0])] == targets[id] for id, row in zip(ours.ids, ours.neighbours, strict=True)])
    assert nearest == 1.0 and abs(np.mean(ours.targets) - 0.5) < 0.1
    assert np.mean(ours.predicted == ours.targets) > nearest - 0.02
    assert np.mean(averaging.predicted == averaging.targets) < 0.75
    assert ours.attention_entropy is not None and ours.attention_entropy < 0.8
    assert averaging.attention_entropy is not None and averaging.attention_entropy > 0.95


def fresh(**settings: Any) -> MHAESP:
    settings = {"encoder": "tiny", "heads": 4, "k": 3, "adapter": None, **settings}
    return MHAESP(**settings).setup(MethodContext(lm_of("llama"), SCHEMA, TinyEncoder(settings["encoder"]))).eval()


def test_cosine_scores_have_a_spread_from_the_start_and_dot_products_have_none() -> None:
    entropies = {}
    for scores in ("cosine", "dot"):
        attention = fresh(scores=scores, similarity="none", label_place="text").condition(QUERIES, FOUND).attention
        assert attention is not None
        entropies[scores] = 1 - attention_entropy(attention, torch.from_numpy(FOUND.indices >= 0))  # type: ignore[operator]
    assert entropies["cosine"] > 0.02 and entropies["dot"] < 0.005


def test_the_similarity_separates_ranks_whatever_its_unit() -> None:
    method = fresh(scores="dot", label_place="text", slope=2.0)
    scaled = Retrieved(FOUND.store, FOUND.indices, FOUND.scores * 50)
    for retrieved in (FOUND, scaled):
        attention = method.condition(QUERIES, retrieved).attention
        assert attention is not None
        nearest = torch.from_numpy(np.sort(FOUND.indices[:, :3]) == FOUND.indices[:, :1])
        assert float(attention[:2].detach().mean(1)[nearest[:2]].min()) > 0.6  # of three; the third query has a tie
    torch.testing.assert_close(*(method.condition(QUERIES, r).attention for r in (FOUND, scaled)))


def test_standardised_counts_those_that_are_present() -> None:
    values = torch.tensor([[0.9, 0.5, 0.1, 7.0], [2.0, 2.0, 2.0, 2.0], [5.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    present = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    root = math.sqrt(1.5)
    expected = torch.tensor([[root, 0, -root, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(standardised(values, present), expected)


def test_entropy_is_a_share_of_what_each_query_could_have() -> None:
    present = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.bool)
    even = torch.tensor([[[0.25] * 4], [[0.5, 0.5, 0, 0]], [[1.0, 0, 0, 0]]])
    assert attention_entropy(even, present) == pytest.approx(1.0)
    assert attention_entropy(even[2:], present[2:]) is None
    sharp = torch.tensor([[[0.5, 0.5, 0, 0]], [[1.0, 0, 0, 0]], [[1.0, 0, 0, 0]]])
    assert attention_entropy(sharp, present) == pytest.approx((0.5 + 0.0) / 2)


def test_label_vectors_are_the_models_own_words() -> None:
    lm = lm_of("llama")
    entries = [example(0, "B"), example(1, "A"), Passage.of("a passage")]
    vectors = LabelVectors(MethodContext(lm, SCHEMA))(entries)
    for row, word in ((0, " no"), (1, " yes")):
        embedding = lm.embed(torch.tensor(lm.tokenize(word))).mean(0)
        torch.testing.assert_close(vectors[row], embedding / embedding.norm())
    assert not vectors[2].any()
    written = LabelVectors(MethodContext(lm, WRITE))
    assert not list(written.parameters())
    torch.testing.assert_close(
        written([example(0, "yes"), Passage.of("a passage")]), torch.stack([vectors[1], vectors[2]])
    )


@pytest.mark.parametrize("on", [task(WRITE), corpus()], ids=["targets", "passages"])
def test_texts_as_targets_and_passages_without_labels(on: Task, cache: object, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pipeline.setup", "retrieval.retriever"):
        monkeypatch.setattr(f"coldframe.{module}.load_encoder", TinyEncoder)
    method = MHAESP(encoder="tiny-print", adapter=8, heads=2, k=2)
    retrieval = RetrievalConfig(similarity="cosine", encoder="tiny-print")
    pipeline = fit(method, lm_of("llama"), on, retrieval=retrieval, epochs=1, batch_size=4, quiet=True)
    answers = pipeline.predictions(on.test)
    assert answers.generated is not None and answers.attention is not None


def test_the_record_of_an_epoch_says_whether_it_attends(cache: object, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pipeline.setup", "retrieval.retriever"):
        monkeypatch.setattr(f"coldframe.{module}.load_encoder", TinyEncoder)
    settings = {"encoder": "tiny", "adapter": 8, "k": 3}
    retrieval = RetrievalConfig(encoder="tiny")
    records = {
        name: fit(create(name, more), lm_of("llama"), task(), retrieval=retrieval, epochs=1, quiet=True).history[0]
        for name, more in {
            "mha-esp": {**settings, "heads": 2},
            "latent-memory": settings,
            "idpg": {"encoder": "tiny"},
        }.items()
    }
    for name in ("mha-esp", "latent-memory"):
        assert 0 < records[name]["attention_entropy"] < 1 and records[name]["attention_gradient"] > 0
    assert not {"attention_entropy", "attention_gradient"} & set(records["idpg"])


def test_entropy_of_predictions_counts_what_a_method_looked_at() -> None:
    method = fresh(label_place="text")
    with torch.no_grad():
        attention = method.condition(QUERIES, FOUND).attention
    expected = attention_entropy(
        attention, torch.from_numpy(np.sort(np.where(FOUND.indices < 0, 99, FOUND.indices)) < 99)
    )  # type: ignore[arg-type]
    from coldframe.inference.run import predict

    neighbours = FOUND
    wider = Retrieved(
        Store(neighbours.store.examples),
        np.concatenate([neighbours.indices, np.array([[1], [0], [5], [-1]])], axis=1),
        np.concatenate([neighbours.scores, np.zeros((4, 1), np.float32)], axis=1),
    )
    rows = [dataclasses.replace(example(i, "A"), text=text) for i, text in enumerate(QUERIES)]
    for retrieved in (neighbours, wider):
        predictions = predict(method, lm_of("llama"), SCHEMA, rows, retrieved)
        assert predictions.attention_entropy == pytest.approx(expected)
