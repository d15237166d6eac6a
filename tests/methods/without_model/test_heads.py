"""Heads on encoders: where they start, what they learn, and that no language model is run for them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from tests.contract.cases import FOUND, QUERIES, SCHEMA, TinyBert, TinyEncoder, lm_of
from tests.methods.without_model.support import noisy_task

import coldframe as cf
from coldframe.errors import ConfigError, DataError
from coldframe.frozen.no_model import NoModel
from coldframe.methods.config import MethodContext
from coldframe.methods.without_model.encoder_head import EncoderHead
from coldframe.methods.without_model.setfit import SetFit, pairs_of
from coldframe.pipeline.fit import fit
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.retrieval.store import Retrieved
from coldframe.tasks.task import Example

CONTEXT = MethodContext(NoModel(), SCHEMA, TinyEncoder())
TASK = noisy_task()


def scores(method: EncoderHead, retrieved: Retrieved = FOUND) -> torch.Tensor:
    with torch.no_grad():
        scored = method.eval().condition(QUERIES, retrieved).scores
    assert scored is not None
    return scored


def test_a_head_on_the_query_starts_undecided_and_looks_at_no_neighbour() -> None:
    method = EncoderHead(encoder="tiny").setup(CONTEXT)
    assert not method.uses_retrieval and method.uses_query
    assert not scores(method).any()
    method.head.weight.data.normal_()
    vectors = torch.nn.functional.normalize(torch.from_numpy(TinyEncoder().encode(QUERIES)), dim=-1) * 12**0.5
    torch.testing.assert_close(scores(method), vectors @ method.head.weight.T + method.head.bias)


def test_a_head_with_neighbours_starts_at_their_vote() -> None:
    method = EncoderHead(encoder="tiny", k=3, heads=2).setup(CONTEXT)
    assert method.uses_retrieval
    assert method.attention is not None
    for linear in (method.attention.query, method.attention.key):
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    weights = torch.softmax(
        torch.from_numpy(10 * FOUND.scores).masked_fill(torch.from_numpy(FOUND.indices < 0), -1e9), -1
    )
    expected = torch.zeros(len(QUERIES), 3)
    for row, entries in enumerate(FOUND.indices):
        for column, entry in enumerate(entries):
            if entry >= 0:
                expected[row, SCHEMA.index(FOUND.store.examples[entry].target)] += weights[row, column]
    torch.testing.assert_close(scores(method), expected)
    nothing = Retrieved.nothing(FOUND.store, len(QUERIES))
    assert not scores(method, nothing).any()


@pytest.mark.slow
def test_a_head_learns_what_only_the_neighbours_labels_say() -> None:
    """Texts are noise, but each has a double in the store whose label is its own."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghij"), 8)) for _ in range(60)]
    labels = [SCHEMA.labels[i] for i in rng.integers(0, 3, 60)]
    store = tuple(Example(w, y, f"s-{i:02d}", f"s-{i:02d}") for i, (w, y) in enumerate(zip(words, labels, strict=True)))
    rows = [Example(f"{e.text} ?", e.target, f"q-{i:02d}", f"q-{i:02d}") for i, e in enumerate(store)]
    task = dataclasses.replace(
        TASK, schema=SCHEMA, train=tuple(rows[:30]), validation=tuple(rows[30:40]), test=tuple(rows[40:]), store=store
    )
    retrieval, training = RetrievalConfig(encoder="tiny"), {"epochs": 8, "batch_size": 8}
    shares = {}
    for k in (0, 3):
        pipeline = fit(EncoderHead(encoder="tiny", k=k), None, task, retrieval=retrieval, training=training, quiet=True)
        shares[k] = pipeline.evaluate(task.test)["accuracy"].value
    assert shares[3] >= 90 > 60 > shares[0]


def test_pairs_are_as_many_of_one_label_as_of_two_and_the_same_for_a_seed() -> None:
    pairs = pairs_of(TASK.train, 3, seed=1)
    targets = {row.text: row.target for row in TASK.train}
    assert len(pairs) == 6 * len(TASK.train) and sum(pair.same for pair in pairs) == 3 * len(TASK.train)
    assert all((targets[pair.first] == targets[pair.second]) == pair.same for pair in pairs)
    assert pairs == pairs_of(TASK.train, 3, seed=1) != pairs_of(TASK.train, 3, seed=2)


@pytest.mark.slow
def test_setfit_brings_texts_of_one_label_together() -> None:
    def gap(vectors: Any) -> float:
        """Mean cosine of test rows of one label less that of two."""
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        cosines, same = unit @ unit.T, np.equal.outer(*[[row.target for row in TASK.train]] * 2)
        return float(cosines[same & ~np.eye(len(same), dtype=bool)].mean() - cosines[~same].mean())

    method = SetFit(encoder="tiny-bert", encoder_rank=8)
    pipeline = fit(method, None, TASK, training={"epochs": 6, "learning_rate": 1e-2, "batch_size": 16}, quiet=True)
    texts = [row.text for row in TASK.train]
    assert gap(method._vectors(texts)) > 0.1 + gap(TinyBert().encode(texts))
    assert [record["epoch"] for record in pipeline.history] == [1, 2, 3, 4, 5, 6]
    assert pipeline.predict_proba(texts).sum(1) == pytest.approx(np.ones(len(texts)))
    assert method.trained_parameters > method.layer.weight.numel()


def test_setfit_needs_two_labels_and_an_encoder_that_can_be_tuned() -> None:
    alone = tuple(dataclasses.replace(row, target="a") for row in TASK.train)
    with pytest.raises(DataError, match="at least two labels"):
        fit(SetFit(encoder="tiny-bert"), None, dataclasses.replace(TASK, train=alone), quiet=True)
    with pytest.raises(ConfigError, match="cannot be fine-tuned"):
        fit(SetFit(encoder="tiny"), None, TASK, quiet=True)


def test_mha_esp_s_head_starts_undecided_and_reads_no_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("the language model was run")

    monkeypatch.setattr("coldframe.frozen.prefill.forward", never)
    method = cf.MHAESPHead(encoder="tiny", heads=2, k=3, adapter=8, text_exemplars=1, placement="suffix")
    method.setup(MethodContext(lm_of("llama"), SCHEMA, TinyEncoder()))
    conditioning = method.eval().condition(QUERIES, FOUND)
    assert conditioning.soft_tokens is None and conditioning.contexts is None and conditioning.attention is not None
    assert conditioning.scores is not None and not conditioning.scores.any()
    assert method.soft_token_count == 0 and not method.shares_text and not method.ports


def test_a_classifier_of_scikit_learn_s_kind_needs_no_model_for_it() -> None:
    classifier = cf.ColdframeClassifier(
        method="logistic-regression", model="no such model", method_settings={"features": "tfidf", "c": 10.0}
    )
    texts, labels = ["a fine day", "a bad day"] * 10, ["good", "bad"] * 10
    assert classifier.fit(texts, labels).predict(["fine", "bad"]).tolist() == ["good", "bad"]
