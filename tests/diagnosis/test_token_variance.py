"""Numbers of token variance beside naive loops; static tokens, tokens from the query, tokens from elsewhere."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from tests.contract.cases import SCHEMA, STORE, Case, built, example, lm_of

from coldframe.diagnosis.soft_token_subject import SoftTokenSubject, subject_of
from coldframe.diagnosis.subject import TokenSubject
from coldframe.diagnosis.token_statistics import (
    effective_rank,
    energy_share,
    explained_variance,
    mean_cosine,
    predicted_tokens,
    probe,
    retrieved_clusters,
    slot_cosines,
)
from coldframe.diagnosis.token_variance import reference_note, token_variance
from coldframe.errors import DataError
from coldframe.pipeline.pipeline import Pipeline
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.training.config import TrainingConfig

RNG = np.random.default_rng(0)
TOKENS = (RNG.normal(size=(25, 3, 6)) * np.array([0.2, 1.0, 3.0])[:, None] + 1).astype(np.float32)


def naive_energy_share(tokens: np.ndarray) -> float:
    top = bottom = 0.0
    n = len(tokens)
    for slot in range(tokens.shape[1]):
        mean = sum(tokens[i, slot].astype(float) for i in range(n)) / n
        top += sum(float(((tokens[i, slot] - mean) ** 2).sum()) for i in range(n)) / (n - 1)
        bottom += sum(float((tokens[i, slot].astype(float) ** 2).sum()) for i in range(n)) / n
    return top / bottom


def naive_cosine(vectors: np.ndarray) -> float:
    pairs = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in itertools.combinations(vectors.astype(float), 2)]
    return float(np.mean(pairs))


# ---- statistics ---------------------------------------------------------------------------------------------


def test_energy_share_is_its_definition() -> None:
    found = energy_share(TOKENS)
    assert found.value == pytest.approx(naive_energy_share(TOKENS), rel=1e-9)
    assert found.low < found.value < found.high
    groups = np.arange(25) // 5
    by_group = [
        naive_energy_share(TOKENS[np.isin(groups, np.random.default_rng(i).integers(0, 5, 5))]) for i in range(20)
    ]
    wide = energy_share(TOKENS, groups)
    assert wide.value == pytest.approx(found.value) and min(by_group) < found.value < max(by_group)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_equal_tokens_have_no_energy_no_rank_and_cosine_one(scale: float) -> None:
    same = np.tile((scale * RNG.normal(size=(1, 2, 7))).astype(np.float32), (31, 1, 1))
    found = energy_share(same)
    assert (found.low, found.value, found.high) == (0.0, 0.0, 0.0)
    assert effective_rank(same[:, 0]) == 0.0 and np.isnan(explained_variance(same, same))
    for one in slot_cosines(same):
        assert one.value == pytest.approx(1) and one.high - one.low < 1e-9


def test_cosines_and_their_jackknife_are_those_of_loops() -> None:
    for slot, one in enumerate(slot_cosines(TOKENS)):
        vectors = TOKENS[:, slot]
        assert one.value == pytest.approx(naive_cosine(vectors)) == mean_cosine(vectors)
        left_out = np.array([naive_cosine(np.delete(vectors, i, axis=0)) for i in range(25)])
        half = 1.96 * np.sqrt(24 / 25 * ((left_out - left_out.mean()) ** 2).sum())
        assert (one.low, one.high) == (pytest.approx(one.value - half), pytest.approx(min(one.value + half, 1)))


def test_cosines_leave_out_groups_together() -> None:
    groups = RNG.integers(0, 6, 25)
    vectors, one = TOKENS[:, 2], slot_cosines(TOKENS, groups)[2]
    left_out = np.array([naive_cosine(vectors[groups != g]) for g in np.unique(groups)])
    half = 1.96 * np.sqrt((1 - 1 / len(left_out)) * ((left_out - left_out.mean()) ** 2).sum())
    assert one.low == pytest.approx(one.value - half)


@pytest.mark.parametrize("shape", [(25, 6), (5, 40)])
def test_effective_rank_is_that_of_the_eigenvalues(shape: tuple[int, int]) -> None:
    vectors = RNG.normal(size=shape) * np.linspace(0.1, 3, shape[1]) + 5
    eigenvalues = np.linalg.eigvalsh(np.cov(vectors.T))
    assert effective_rank(vectors) == pytest.approx(eigenvalues.sum() ** 2 / (eigenvalues**2).sum())


# ---- prediction and probe -----------------------------------------------------------------------------------


def test_tokens_that_follow_the_query_are_predicted_and_others_are_not() -> None:
    queries = RNG.normal(size=(120, 10)).astype(np.float32)
    linear = (queries @ RNG.normal(size=(10, 12)) + 3).reshape(120, 2, 6).astype(np.float32)
    noise = RNG.normal(size=(120, 2, 6)).astype(np.float32)
    assert explained_variance(linear, predicted_tokens(linear, queries)) > 0.999
    assert explained_variance(noise, predicted_tokens(noise, queries)) < 0.05
    half = explained_variance(linear + 3 * noise, predicted_tokens(linear + 3 * noise, queries))
    assert 0.3 < half < 0.7


def test_queries_of_one_group_do_not_predict_each_other() -> None:
    """Every group's tokens are its own, which only a row of the same group could tell."""
    groups = np.repeat(np.arange(20), 3)
    marks, own = RNG.normal(size=(2, 20, 40)).astype(np.float32)
    queries, tokens = marks[groups], own[groups].reshape(60, 2, 20)
    assert explained_variance(tokens, predicted_tokens(tokens, queries)) > 0.5
    assert explained_variance(tokens, predicted_tokens(tokens, queries, groups)) < 0.2
    with pytest.raises(DataError, match="one group"):
        predicted_tokens(tokens, queries, np.zeros(60, np.int64))


@pytest.mark.slow
def test_a_probe_reads_what_is_there() -> None:
    labels = RNG.integers(0, 3, 90)
    noise = RNG.normal(size=(90, 2, 40)).astype(np.float32)
    marked = noise.copy()
    marked[np.arange(90), 0, labels] += 8
    accuracy, chance, p_value = probe(marked, labels, permutations=39)
    assert accuracy > 0.9 and 0.2 < chance < 0.5 and p_value == pytest.approx(1 / 40)
    accuracy, chance, p_value = probe(noise, labels, permutations=39)
    assert abs(accuracy - chance) < 0.2 and p_value > 0.05
    assert np.isnan(probe(noise, np.zeros(90, np.int64))).all()


def test_clusters_are_those_of_the_entries() -> None:
    entries = np.concatenate([RNG.normal(size=(10, 4)) * 0.01 + np.eye(4)[i] for i in range(3)]).astype(np.float32)
    kinds = RNG.integers(0, 3, 50)
    ids = kinds[:, None] * 10 + RNG.integers(0, 10, (50, 3))
    ids[7, 1:] = -1
    labels = retrieved_clusters(ids, entries, clusters=3)
    assert len(set(zip(kinds.tolist(), labels.tolist(), strict=True))) == 3 == len(set(labels.tolist()))


# ---- of subjects --------------------------------------------------------------------------------------------


class Planted:
    """Losses are the squared distance of the first slot from what each query needs; there is no model."""

    name, task, model, unit, groups = "planted", "made up", "none", "nats", None

    def __init__(self, tokens: np.ndarray, queries: np.ndarray, needed: np.ndarray) -> None:
        self._tokens, self._queries, self._needed = tokens.astype(np.float32), queries, needed

    def __len__(self) -> int:
        return len(self._tokens)

    def missing(self) -> dict[Any, str]:
        return {}

    def losses(self, condition: str, seed: int = 0) -> np.ndarray:
        nothing = np.zeros(self._tokens.shape[1:], np.float32)
        return self.losses_with(self._tokens if condition == "full" else nothing)

    def tokens(self) -> np.ndarray:
        return self._tokens

    def query_vectors(self) -> np.ndarray:
        return self._queries

    def retrieved_ids(self) -> np.ndarray:
        return np.zeros((len(self), 1), np.int64)

    def losses_with(self, tokens: np.ndarray) -> np.ndarray:
        first = np.broadcast_to(tokens, self._tokens.shape)[:, 0]
        return ((first - self._needed) ** 2).sum(axis=1).astype(np.float64)


def planted(static: float, query: float, store: float, unused: float = 0.0) -> Planted:
    """What is needed is so much the same for all, so much said by the query, so much by the store alone."""
    rng = np.random.default_rng(5)
    queries = rng.normal(size=(200, 5)).astype(np.float32)
    parts = [np.ones((200, 8)), queries @ rng.normal(size=(5, 8)) / 5**0.5, rng.normal(size=(200, 8))]
    needed = sum(weight * part for weight, part in zip((static, query, store), parts, strict=True))
    tokens = np.stack([needed, unused * rng.normal(size=(200, 8))], axis=1)
    return Planted(tokens, queries, needed)


@pytest.mark.parametrize(
    ("parts", "mean_share", "predicted_share", "outcome"),
    [
        ((1.0, 0.0, 0.0), 0.0, 0.0, "prompt-tuning-like"),
        ((0.0, 1.0, 0.0), 1.0, 0.0, "query-driven"),
        ((0.0, 0.0, 1.0), 1.0, 1.0, "retrieval-driven"),
        ((1.0, 0.0, 0.0, 5.0), 0.0, 0.0, "prompt-tuning-like"),
    ],
)
def test_planted_parts_are_found(
    parts: tuple[float, ...], mean_share: float, predicted_share: float, outcome: str
) -> None:
    subject = planted(*parts)
    assert isinstance(subject, TokenSubject)
    found = token_variance([subject], resamples=500)
    assert found.mean_share.value == pytest.approx(mean_share, abs=0.05)
    assert found.predicted_share.value == pytest.approx(predicted_share, abs=0.1)
    assert found.outcome == outcome and found.reason
    assert found.energy_share.value == pytest.approx(naive_energy_share(subject.tokens()), rel=1e-6)
    assert np.isnan([found.divergence.value, found.probe, found.probe_p_value]).all()


def test_seeds_are_averaged() -> None:
    one, two = planted(1.0, 0.0, 0.0), planted(0.0, 0.0, 1.0)
    both = token_variance([one, two], resamples=500)
    gains = [float((s.losses("empty") - s.losses("full")).mean()) for s in (one, two)]
    rises = [float((s.losses_with(s.tokens().mean(0)) - s.losses("full")).mean()) for s in (one, two)]
    assert both.mean_share.value == pytest.approx(sum(rises) / sum(gains), rel=1e-4)


TEXTS = [f"{'is' if i % 3 else 'the no'} {chr(97 + i % 26)}{chr(97 + i * 7 % 26)}" + " CC" * (i % 4) for i in range(24)]


def pipeline_subject(name: str, **settings: Any) -> Any:
    lm = lm_of("llama")
    method = built(Case(name, name, settings), lm, SCHEMA)
    pipeline = Pipeline(method, lm, SCHEMA, STORE, RetrievalConfig(encoder="tiny"), TrainingConfig())
    return subject_of(pipeline, [example(i, "ABC"[i % 3], text) for i, text in enumerate(TEXTS)])


def test_prompt_tuning_is_static() -> None:
    found = token_variance([pipeline_subject("prompt-tuning", tokens=3)], resamples=200)
    assert (found.tokens, found.energy_share.value, found.effective_ranks) == (3, 0.0, (0.0, 0.0, 0.0))
    assert all(one.value == pytest.approx(1) for one in found.cosines)
    assert found.divergence.value == pytest.approx(0, abs=1e-9)
    assert np.isnan([found.given_query, found.probe]).all()


@pytest.mark.slow
def test_a_pipeline_s_tokens_are_described_whole() -> None:
    subject = pipeline_subject("mha-esp", encoder="tiny", adapter=8, heads=2, k=3)
    assert isinstance(subject, SoftTokenSubject)
    found = token_variance([subject], resamples=200)
    tokens = subject.tokens()
    assert found.energy_share.value == pytest.approx(naive_energy_share(tokens), rel=1e-6)
    assert found.divergence.value == pytest.approx(subject.divergence(tokens.mean(0)).mean(), rel=1e-3)
    assert found.divergence.low < found.divergence.value < found.divergence.high
    assert found.probe >= 0 and 0 < found.probe_p_value <= 1
    assert np.shape(found.similarity) == (24, 24) and found.similarity[3][5] == found.similarity[5][3]
    flat = tokens.reshape(24, -1)
    wanted = flat[3] @ flat[5] / np.linalg.norm(flat[3]) / np.linalg.norm(flat[5])
    assert found.similarity[3][5] == pytest.approx(wanted, abs=1e-4)


def test_references_are_of_the_untrained_method_and_of_words() -> None:
    subject = pipeline_subject("mha-esp", encoder="tiny", adapter=8, heads=2, k=3)
    fresh = subject.initial_tokens()
    assert not np.allclose(fresh, subject.tokens()) and fresh.shape == subject.tokens().shape
    with torch.no_grad():
        for parameter in subject.pipeline.method.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(subject.initial_tokens(), fresh)
    lm = lm_of("llama")
    ids = torch.tensor(lm.tokenize(TEXTS[2]))
    np.testing.assert_allclose(subject.word_embeddings()[2, 0], lm.embed(ids).mean(0).numpy(), atol=1e-6)
    shares = [energy_share(one).value for one in (fresh, subject.word_embeddings())]
    assert [f"{share:.2%}" in reference_note(subject) for share in shares] == [True, True]


def test_too_few_queries_are_refused() -> None:
    subject = planted(0.0, 1.0, 0.0)
    with pytest.raises(DataError, match="Too few queries"):
        token_variance([Planted(subject.tokens()[:5], subject.query_vectors()[:5], subject.tokens()[:5, 0])])
