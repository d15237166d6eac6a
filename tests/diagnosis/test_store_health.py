"""Numbers of a store's health beside naive loops, and what is warned of."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contract.cases import SCHEMA, Case, TinyEncoder, built, example, lm_of

from coldframe.diagnosis.store_health import (
    contrast,
    curve,
    entropy,
    gini,
    health_of,
    overlaps,
    skewness,
    store_health,
)
from coldframe.errors import ConfigError, DataError
from coldframe.pipeline.pipeline import Pipeline
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.retrieval.store import Store
from coldframe.training.config import TrainingConfig

counted = st.lists(st.integers(0, 30), min_size=2, max_size=30).filter(any)


def random_sets(n: int = 60, entries: int = 40, k: int = 4, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.array([rng.choice(entries, k, replace=False) for _ in range(n)])


def searched(retrieved: np.ndarray, entries: int = 40, **more: Any) -> dict[str, Any]:
    similarities = -np.sort(-np.random.default_rng(1).random(retrieved.shape).astype(np.float32), axis=1)
    return {"entries": entries, "retrieved": retrieved, "similarities": similarities, **more}


def warned(health: Any, word: str) -> bool:
    return any(word in sentence for sentence in health.warnings)


@settings(deadline=None)
@given(counted)
def test_gini_is_the_mean_difference_over_twice_the_mean(counts: list[int]) -> None:
    differences = [abs(a - b) for a in counts for b in counts]
    wanted = np.mean(differences) / (2 * np.mean(counts))
    got = gini(np.array(counts))
    assert got == pytest.approx(wanted, abs=1e-12)
    assert 0 <= got <= 1 - 1 / len(counts) + 1e-12
    assert got == pytest.approx(gini(np.array(counts[::-1]) * 3), abs=1e-12)


@settings(deadline=None)
@given(counted)
def test_entropy_and_skewness_are_their_definitions(counts: list[int]) -> None:
    shares = [count / sum(counts) for count in counts]
    wanted = -sum(p * math.log(p) for p in shares if p) / math.log(len(counts))
    assert entropy(np.array(counts)) == pytest.approx(wanted, abs=1e-12)
    mean = sum(counts) / len(counts)
    moments = [sum((count - mean) ** power for count in counts) / len(counts) for power in (2, 3)]
    wanted = moments[1] / moments[0] ** 1.5 if moments[0] else 0.0
    assert skewness(np.array(counts)) == pytest.approx(wanted, abs=1e-9)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 8), min_size=3, max_size=3, unique=True), min_size=2, max_size=8), st.data())
def test_overlap_is_shared_over_either(sets: list[list[int]], data: st.DataObject) -> None:
    absent = data.draw(st.integers(0, 2))
    found = np.array(sets)
    found[0, :absent] = -1
    members = [{i for i in row if i >= 0} for row in found.tolist()]
    got = overlaps(found)
    for i, j in itertools.combinations(range(len(sets)), 2):
        assert got[i, j] == got[j, i] == pytest.approx(len(members[i] & members[j]) / len(members[i] | members[j]))
    assert (np.diag(got) == 0).all()


def test_overlap_of_random_sets_is_that_of_chance_and_of_equal_sets_is_all() -> None:
    health = health_of(**searched(random_sets(400)))
    assert health.overlap_chance == pytest.approx(4 / 76)
    shared = [math.comb(4, x) * math.comb(36, 4 - x) / math.comb(40, 4) for x in range(5)]
    exactly = sum(p * x / (8 - x) for x, p in enumerate(shared))
    assert health.overlap.low < exactly < health.overlap.high
    assert health.overlap.value == pytest.approx(exactly, rel=0.03)
    same = health_of(**searched(np.tile(random_sets(1), (30, 1))))
    assert (same.overlap.low, same.overlap.value, same.overlap.high) == (1.0, 1.0, 1.0)
    assert warned(same, "overlap by 100%") and not warned(health, "overlap")


def test_counts_are_those_of_a_loop() -> None:
    found = random_sets()
    found[5, 2:] = -1
    health = health_of(**searched(found))
    counts = Counter(int(i) for row in found for i in row if i >= 0)
    every = np.array([counts[i] for i in range(40)])
    assert health.never == sum(count == 0 for count in every) / 40
    assert (health.hubness, health.gini) == (skewness(every), gini(every))
    assert [count for _, count in health.curve] == sorted(every, reverse=True)
    assert (health.entries, health.queries, health.k) == (40, 60, 4)


def test_the_curve_has_both_ends_and_few_points() -> None:
    points = curve(np.arange(5000))
    assert points[:3] == ((1, 4999), (2, 4998), (3, 4997)) and points[-1] == (5000, 0) and len(points) <= 200


def test_contrast_and_gap_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    distances = rng.random((21, 40)).astype(np.float32)
    distances[3, 7] = 0
    wanted = [(row.mean() - row.min()) / row.min() for row in distances.astype(np.float64) if row.min() > 0]
    assert contrast(distances) == pytest.approx(np.median(wanted))
    one = searched(random_sets())
    assert health_of(**one).score_gap == pytest.approx(
        np.median(one["similarities"][:, 0] - one["similarities"][:, -1])
    )
    short = random_sets()
    short[:, 2:] = -1
    gap = np.median(one["similarities"][:, 0] - one["similarities"][:, 1])
    assert health_of(**searched(short)).score_gap == pytest.approx(gap)


def test_anisotropy_is_the_mean_cosine_of_pairs() -> None:
    vectors = (np.random.default_rng(0).normal(size=(15, 5)) + 2).astype(np.float32)
    for moved, name in ((vectors, "anisotropy"), (vectors - vectors.mean(0), "anisotropy_centred")):
        pairs = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in itertools.combinations(moved, 2)]
        got = getattr(health_of(**searched(random_sets(), vectors=vectors)), name)
        assert got == pytest.approx(np.mean(pairs), abs=1e-6)
    assert warned(health_of(**searched(random_sets(), vectors=vectors)), "similar directions")


def test_doubles_and_leaks_are_counted() -> None:
    keys, asked = ["a", "b", "a", "c", "a", "d", *map(str, range(34))], ["d", "x", "a"]
    health = health_of(**searched(random_sets(3), keys=keys, query_keys=asked))
    assert (health.duplicates, health.leaks) == (3, 2)
    assert warned(health, "3 of 40 entries") and warned(health, "2 of 3 queries")


def test_a_random_store_is_not_warned_of_and_a_hub_is() -> None:
    found = random_sets(400, entries=400)
    assert not health_of(**searched(found, 400)).warnings
    hub = found.copy()
    hub[:, 0] = 7
    assert warned(health_of(**searched(hub, 400)), "hubs")
    few = random_sets(400, entries=40)
    assert warned(health_of(**searched(few, 400)), "90% of the entries are never retrieved")


def test_a_store_without_contrast_is_warned_of() -> None:
    far = np.full((20, 40), 0.9, np.float32) + np.linspace(0, 0.01, 40, dtype=np.float32)
    assert warned(health_of(**searched(random_sets(20), distances=far)), "contrast 0.01")
    alike = {**searched(random_sets(20)), "similarities": np.ones((20, 4), np.float32)}
    assert warned(health_of(**alike), "hardly nearer than the last")


def test_nothing_found_and_positions_outside_are_told() -> None:
    with pytest.raises(DataError, match="Nothing was retrieved"):
        health_of(**searched(np.empty((3, 0), np.int64)))
    with pytest.raises(ConfigError, match="outside the store"):
        health_of(**searched(random_sets(), entries=3))


# ---- of a pipeline ------------------------------------------------------------------------------------------

LETTERS = [example(i, "ABC"[i % 3], f"{a}{b}{a} {b}{a}{a} is {i}") for i, (a, b) in enumerate(["ab", "bc", "cd"] * 8)]


def pipeline_of(name: str, schema: Any = SCHEMA, **settings: Any) -> Pipeline:
    lm = lm_of("llama")
    method = built(Case(name, name, settings), lm, schema)
    return Pipeline(method, lm, schema, Store.of(LETTERS), RetrievalConfig(encoder="tiny"), TrainingConfig())


def test_a_pipeline_s_store_is_measured_as_it_is_searched() -> None:
    pipeline = pipeline_of("icl", k=3)
    queries = [LETTERS[4], *(example(100 + i, "A", f"asked {i} abc") for i in range(5))]
    health = store_health(pipeline, queries)
    assert (health.entries, health.queries, health.k, health.leaks, health.duplicates) == (24, 6, 3, 1, 0)
    vectors = TinyEncoder().encode(pipeline.store.texts)
    asked = TinyEncoder().encode([query.text for query in queries])
    cosine = lambda a, b: float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))  # noqa: E731
    distances = np.array([[1 - cosine(a, b) for b in vectors] for a in asked])
    assert health.contrast == pytest.approx(contrast(distances.astype(np.float32)), rel=1e-4)
    pairs = [cosine(a, b) for a, b in itertools.combinations(vectors, 2)]
    assert health.anisotropy == pytest.approx(np.mean(pairs), abs=1e-5)


def test_molecules_are_compared_by_tanimoto() -> None:
    pytest.importorskip("rdkit")
    from coldframe.retrieval.molecules import MorganEncoder

    smiles = ["CCO", "CCN", "c1ccccc1", "CC(=O)O", "CCCCO", "c1ccncc1"]
    rows = [example(i, "ABC"[i % 3], text) for i, text in enumerate(smiles)]
    lm, schema = lm_of("llama"), SCHEMA.replace(domain="molecules")
    method = built(Case("icl", "icl", {"k": 2}), lm, schema)
    retrieval = RetrievalConfig(encoder="morgan")
    pipeline = Pipeline(method, lm, schema, Store.of(rows), retrieval, TrainingConfig())
    health = store_health(pipeline, [example(50, "A", "CCCO"), example(51, "A", "Cc1ccccc1")])
    bits = MorganEncoder().encode(smiles)
    asked = MorganEncoder().encode(["CCCO", "Cc1ccccc1"])
    distances = [[1 - (a * b).sum() / np.maximum(a, b).sum() for b in bits] for a in asked]
    assert health.contrast == pytest.approx(contrast(np.array(distances, np.float32)), rel=1e-5)


def test_a_method_without_retrieval_has_no_store() -> None:
    with pytest.raises(ConfigError, match="retrieves nothing"):
        store_health(pipeline_of("prompt-tuning"), LETTERS)
