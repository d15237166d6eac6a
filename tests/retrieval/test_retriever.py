"""Strategies, leave-one-out, and what is refused."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from coldframe.errors import ArtifactError, ConfigError, DataError
from coldframe.retrieval.molecules import morgan_bits
from coldframe.retrieval.retriever import RetrievalConfig, Retriever
from coldframe.retrieval.similarity import morgan_sets
from coldframe.retrieval.store import Store
from coldframe.tasks.task import Example

CHAINS = ["C" * n + tail for n in range(1, 9) for tail in ("O", "N", "F", "Cl")]


def tanimoto(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    shared = len(np.intersect1d(a, b))
    return shared / (len(a) + len(b) - shared)


def example(text: str, target: str = "A", name: str | None = None, key: str | None = None) -> Example:
    return Example(text, target, id=name or text, key=key or text)


@pytest.fixture
def molecules() -> list[Example]:
    return [example(s, "A" if i % 3 else "B") for i, s in enumerate(CHAINS)]


def retriever(rows: list[Example], k: int, **settings: Any) -> Retriever:
    return Retriever(Store.of(rows), "molecules", k, RetrievalConfig(**settings))


def test_a_query_never_gets_itself_or_its_duplicate(molecules: list[Example]) -> None:
    twins = [example(e.text, e.target, e.id + "-again", e.key) for e in molecules[:10]]
    rows = molecules + twins
    for strategy in ("top", "random", "fixed", "oracle"):
        retrieved = retriever(rows, 4, strategy=strategy).retrieve(rows, exclude_same_key=True)
        for i, query in enumerate(rows):
            got = retrieved.examples(i)
            assert len(got) == 4
            assert query.key not in {e.key for e in got}, strategy


def test_a_query_that_may_gets_itself_first(molecules: list[Example]) -> None:
    retrieved = retriever(molecules, 1).retrieve(molecules, exclude_same_key=False)
    bits = morgan_bits([e.text for e in molecules])
    for i, query in enumerate(molecules):
        assert retrieved.scores[i, 0] == 1.0
        assert (morgan_bits([retrieved.examples(i)[0].text]) == bits[i]).all(), query


def test_top_is_the_naive_loop(molecules: list[Example]) -> None:
    tool = retriever(molecules, 5)
    retrieved = tool.retrieve(molecules, exclude_same_key=True)
    sets = morgan_sets(tool.store.texts)
    for i, query in enumerate(molecules):
        own = morgan_sets([query.text])[0]
        ranked = sorted(
            (-tanimoto(own, sets[j]), j) for j in range(len(tool.store)) if tool.store.examples[j].key != query.key
        )
        assert retrieved.indices[i].tolist() == [j for _, j in ranked[:5]]


def test_exclusion_beyond_the_store_is_padded() -> None:
    rows = [example("CCO", name="a", key="x"), example("CCO", name="b", key="x"), example("CCN", name="c")]
    retrieved = retriever(rows, 2).retrieve(rows, exclude_same_key=True)
    assert retrieved.indices.tolist() == [[2, -1], [2, -1], [0, 1]]
    assert retrieved.scores[0, 1] == 0


def test_random_depends_on_seed_and_query_id_not_on_the_batch(molecules: list[Example]) -> None:
    tool = retriever(molecules, 3, strategy="random", seed=1)
    together = tool.retrieve(molecules, exclude_same_key=True)
    alone = [tool.retrieve([e], exclude_same_key=True).indices[0].tolist() for e in reversed(molecules)]
    assert together.indices.tolist() == alone[::-1]
    assert len({tuple(row) for row in together.indices.tolist()}) > len(molecules) // 2
    other = retriever(molecules, 3, strategy="random", seed=2).retrieve(molecules, exclude_same_key=True)
    assert other.indices.tolist() != together.indices.tolist()


def test_random_rows_carry_their_true_similarity_sorted(molecules: list[Example]) -> None:
    tool = retriever(molecules, 4, strategy="random")
    retrieved = tool.retrieve(molecules[:5], exclude_same_key=True)
    sets = morgan_sets(tool.store.texts)
    for i, query in enumerate(molecules[:5]):
        own = morgan_sets([query.text])[0]
        expected = [tanimoto(own, sets[j]) for j in retrieved.indices[i].tolist()]
        np.testing.assert_allclose(retrieved.scores[i], expected, atol=1e-7)
        keys = list(zip((-retrieved.scores[i]).tolist(), retrieved.indices[i].tolist(), strict=True))
        assert keys == sorted(keys)


def test_random_is_uniform_over_the_store(molecules: list[Example]) -> None:
    queries = [example("CCO", name=f"q{i}") for i in range(400)]
    retrieved = retriever(molecules, 4, strategy="random").retrieve(queries, exclude_same_key=False)
    counts = np.bincount(retrieved.indices.ravel(), minlength=len(molecules))
    assert counts.min() > 20 and counts.max() < 90  # 50 expected


def test_fixed_is_one_balanced_set_in_store_order(molecules: list[Example]) -> None:
    retrieved = retriever(molecules, 6, strategy="fixed", seed=3).retrieve(
        [example("CCBr"), example("CI")], exclude_same_key=True
    )
    assert retrieved.indices[0].tolist() == retrieved.indices[1].tolist() == sorted(retrieved.indices[0].tolist())
    assert Counter(e.target for e in retrieved.examples(0)) == {"A": 3, "B": 3}
    assert (retrieved.scores == 0).all()
    other = retriever(molecules, 6, strategy="fixed", seed=4).retrieve([example("CCBr")], exclude_same_key=True)
    assert other.indices.tolist() != retrieved.indices[:1].tolist()


def test_fixed_gives_a_member_of_the_set_the_next_in_line(molecules: list[Example]) -> None:
    tool = retriever(molecules, 6, strategy="fixed")
    everyone = tool.retrieve([example("CCBr")], exclude_same_key=True).examples(0)
    for member in everyone:
        got = tool.retrieve([member], exclude_same_key=True).examples(0)
        assert len(got) == 6
        assert len({e.id for e in got} & {e.id for e in everyone}) == 5


def test_oracle_gives_the_nearest_of_the_own_label(molecules: list[Example]) -> None:
    retrieved = retriever(molecules, 3, strategy="oracle").retrieve(molecules, exclude_same_key=True)
    for label in "AB":
        own = [e for e in molecules if e.target == label]
        alone = retriever(own, 3).retrieve(own, exclude_same_key=True)
        for i, query in enumerate(own):
            assert retrieved.examples(molecules.index(query)) == alone.examples(i)


def test_oracle_needs_labels(molecules: list[Example]) -> None:
    with pytest.raises(DataError, match="own label"):
        retriever(molecules, 3, strategy="oracle").retrieve([example("CCO", target="")], exclude_same_key=False)


def test_none_and_zero_give_empty_sets(molecules: list[Example]) -> None:
    for tool in (retriever(molecules, 5, strategy="none"), retriever(molecules, 0), retriever([], 5, strategy="none")):
        assert tool.retrieve(molecules[:2], exclude_same_key=True).indices.shape == (2, 0)


def test_no_queries(molecules: list[Example]) -> None:
    for strategy in ("top", "random", "fixed", "oracle"):
        retrieved = retriever(molecules, 3, strategy=strategy).retrieve([], exclude_same_key=True)
        assert retrieved.indices.shape == retrieved.scores.shape == (0, 3)


@pytest.mark.slow
def test_scaffold_tanimoto_and_usearch(molecules: list[Example]) -> None:
    rings = [example(f"c1ccccc1{s}") for s in CHAINS[:6]] + [example("CCO")]
    retrieved = retriever(rings, 2, similarity="scaffold-tanimoto").retrieve(rings[:1], exclude_same_key=True)
    assert retrieved.scores.tolist() == [[1.0, 1.0]]
    many = [example("C" * a + o + "C" * b) for a in range(1, 15) for b in range(1, 15) for o in ("O", "N")]
    exact = retriever(many, 5).retrieve(many[:50], exclude_same_key=True)
    tool = retriever(many, 5, index="usearch")
    near = tool.retrieve(many[:50], exclude_same_key=True)
    assert tool.recall is not None and tool.recall.value > 0.9 and tool.recall.queries == 200
    assert (near.scores <= exact.scores + 1e-7).all()
    assert (near.scores == exact.scores).mean() > 0.9


def test_cosine_of_fingerprints_and_of_a_given_encoder(molecules: list[Example]) -> None:
    retrieved = retriever(molecules, 2, similarity="cosine").retrieve(molecules[:3], exclude_same_key=False)
    assert retrieved.scores[:, 0].tolist() == [1.0, 1.0, 1.0]

    class Length:
        spec, dim, takes_label_text, hash = "length", 2, True, "0"

        def encode(self, texts: Any) -> Any:
            return np.array([[len(text), 1] for text in texts], np.float32)

    store = Store.of([example("a"), example("bb"), example("c" * 9)])
    retrieved = Retriever(store, "text", 1, encoder=Length()).retrieve([example("z" * 8)], exclude_same_key=True)
    assert retrieved.examples(0)[0].text == "c" * 9


@pytest.mark.slow
def test_bm25_does_not_start_jax(tmp_path: Path) -> None:
    """bm25s tries JAX when it is imported, which takes three quarters of a GPU's memory from the model."""
    pytest.importorskip("bm25s")
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "__init__.py").write_text("raise SystemExit('jax was started')")
    code = "import sys; from coldframe.retrieval.bm25 import BM25; BM25(['a b']); sys.exit('jax' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_molecules_can_be_read_after_an_approximate_index_was_built() -> None:
    code = (
        "import numpy as np; from coldframe.retrieval import molecules, usearch;"
        "usearch.UsearchCosine(np.eye(3, dtype=np.float32)); molecules.morgan_bits(['CCO'])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert ended.returncode == 0, ended.stderr[-1000:]


def test_bm25_over_words() -> None:
    store = Store.of([example("who wrote Emma"), example("what is a newt"), example("when did Emma live")])
    tool = Retriever(store, "text", 2, RetrievalConfig(similarity="bm25"))
    texts = [e.text for e in tool.retrieve([example("Emma wrote what")], exclude_same_key=True).examples(0)]
    assert texts[0] == "who wrote Emma"


@pytest.mark.parametrize(
    ("domain", "k", "settings", "message"),
    [
        ("molecules", 99, {}, "Pass k = 31 or less"),
        ("molecules", -1, {}, "negative"),
        ("text", 1, {"similarity": "tanimoto"}, "Use cosine or bm25"),
        ("molecules", 1, {"similarity": "bm25"}, "Use tanimoto or cosine"),
        ("molecules", 1, {"similarity": "scaffold-tanimoto", "index": "usearch"}, "Use index='exact'"),
        ("molecules", 1, {"strategy": "tops"}, "Did you mean 'top'"),
        ("molecules", 1, {"seed": -1}, "seed"),
    ],
)
def test_what_cannot_work_is_refused(
    domain: Any, k: int, settings: dict[str, Any], message: str, molecules: list[Example]
) -> None:
    with pytest.raises(ConfigError, match=message):
        Retriever(Store.of(molecules), domain, k, RetrievalConfig(**settings))


def test_the_settings_travel_as_json() -> None:
    config = RetrievalConfig(similarity="cosine", strategy="random", encoder="hf:x:cls", seed=7)
    assert RetrievalConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ConfigError, match="similarity"):
        RetrievalConfig.from_dict({"similarty": "cosine"})


class Counting:
    """Gives lengths as vectors, and counts the texts that it was given."""

    spec, dim, takes_label_text = "counting", 2, True

    def __init__(self, name: str = "a") -> None:
        self.hash, self.texts = name, 0

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.texts += len(texts)
        return np.array([[len(text), 1] for text in texts], np.float32).reshape(-1, 2)


def test_vectors_of_a_store_are_read_again_where_encoder_and_entries_are_the_same(
    molecules: list[Example], tmp_path: Path
) -> None:
    path = tmp_path / "vectors.safetensors"
    Store.of(molecules).save_vectors(path, Counting())

    def encoded(encoder: Counting, rows: list[Example]) -> int:
        store = Store.of(rows)
        store.load_vectors(path)
        config = RetrievalConfig(similarity="cosine")
        retrieved = Retriever(store, "text", 2, config, encoder=encoder).retrieve(rows[:1], exclude_same_key=True)
        again = Retriever(Store.of(rows), "text", 2, config, encoder=Counting()).retrieve(
            rows[:1], exclude_same_key=True
        )
        assert (retrieved.indices == again.indices).all() and (retrieved.scores == again.scores).all()
        return encoder.texts

    assert encoded(Counting(), molecules) == 1  # the query
    assert encoded(Counting("b"), molecules) == 1 + len(molecules)
    changed = [dataclasses.replace(molecules[0], text="CCCCCCCCCCCCC"), *molecules[1:]]
    assert encoded(Counting(), changed) == 1 + len(molecules)


@pytest.mark.parametrize("made_of", ['["a"]', "3", "{", None])
def test_damaged_vectors_are_told(made_of: str | None, molecules: list[Example], tmp_path: Path) -> None:
    path, store = tmp_path / "vectors.safetensors", Store.of(molecules)
    save_file({"vectors": np.ones((3, 2), np.float32)}, path, {"made_of": made_of} if made_of else None)
    with pytest.raises(ArtifactError, match="is damaged"):
        store.load_vectors(path)
    save_file({"vectors": np.full((3, 2), np.nan, np.float32)}, path, {"made_of": '["a", "b"]'})
    with pytest.raises(ArtifactError, match="no vectors of finite numbers"):
        store.load_vectors(path)
