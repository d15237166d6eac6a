"""Search in PostgreSQL with pgvector, for stores that several processes and machines share."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from coldframe.config import check
from coldframe.retrieval.exact import ExactCosine
from coldframe.retrieval.index import Exclude, Indices, Recall, Scores, nearest, stack
from coldframe.retrieval.molecules import BITS
from coldframe.retrieval.postgres_server import Server
from coldframe.retrieval.similarity import Sets, lengths
from coldframe.tasks.task import content_hash

Q = TypeVar("Q")

_BLOCK = 1 << 16  # rows that are sent at once
_CANDIDATES = (
    64  # beyond k, of the approximate search: they are scored exactly, so that ties among them follow the rule
)
_ALLOWED = "WHERE position <> ALL(%(exclude)s)"
_EXACT = (("enable_indexscan", "off"),)  # a graph that somebody built is not asked
_APPROXIMATE = (("enable_seqscan", "off"), ("hnsw.ef_search", "400"))


class PostgresIndex(ABC, Generic[Q]):
    """A table of the store's rows, which the first process fills and every other finds.

    The table's name is a hash of ``key``: who has the same store, encoder and version shares it, and neither encodes
    nor sends anything. It is filled in one transaction, so that it is whole or not there. Neighbours are those of the
    exact index, ties included; only with ``approximate`` a graph (HNSW) is asked first.

    Args:
        things: Makes the store as the similarity wants it; called only if the table is not there yet.
        key: Names all that the table depends on.
        url: Of the server; see :class:`Server`.
        approximate: Take candidates from a graph, which may miss some; :meth:`recall` says how many.

    Raises:
        MissingExtraError: Without the extra ``pg``.
        ColdframeError: The server cannot be reached, or has no pgvector.

    Cost: a search reads all rows, on as many processors as the server gives it; with ``approximate`` a few hundred.
    """

    operator: str
    operator_class: str

    def __init__(self, things: Callable[[], Q], key: str, url: str = "", *, approximate: bool = False) -> None:
        self.approximate = approximate
        self._scan = Server(url, _EXACT)
        self._graph = Server(url, _APPROXIMATE) if approximate else None
        self.table = f"coldframe_{content_hash(type(self).__name__, key)[:32]}"
        self._scan.run(lambda cursor: self._create(cursor, things))
        if approximate:
            self._scan.run(self._create_graph)
        rows = self._scan.run(lambda cursor: cursor.execute(f"SELECT count(*) FROM {self.table}").fetchone())
        self._size = int(rows[0])

    def __len__(self) -> int:
        return self._size

    # ---- what a similarity defines ----------------------------------------------------------------------

    @abstractmethod
    def column(self, things: Q) -> str:
        """The column's type."""

    @abstractmethod
    def count(self, things: Q) -> int:
        """Rows."""

    @abstractmethod
    def part(self, things: Q, start: int, stop: int) -> Q:
        """Some of the rows."""

    @abstractmethod
    def packed(self, things: Q) -> NDArray[np.uint8]:
        """Rows as the server's binary format has them, uint8 ``[n, bytes]``."""

    @abstractmethod
    def unpacked(self, values: list[bytes]) -> NDArray[Any]:
        """The inverse, as :meth:`similarity` takes them."""

    @abstractmethod
    def literals(self, queries: Q) -> list[str | None]:
        """Queries as text for the server; None for one that nothing resembles."""

    @abstractmethod
    def similarity(self, queries: Q, query: int, rows: NDArray[Any]) -> Scores:
        """Exact similarities, equal to the exact index's to the bit."""

    def slack(self, queries: Q) -> float:
        """How far the server's distances may be off."""
        return 0.0

    def nearest_rows(self) -> str:
        """The end of the statement that gives at least the k nearest of the rows that are allowed."""
        return f"FROM {self.table} {_ALLOWED} ORDER BY thing {self.operator} %(query)s, position LIMIT %(k)s"

    # ---- search -----------------------------------------------------------------------------------------

    def search(self, queries: Q, k: int, exclude: Exclude | None = None) -> tuple[Indices, Scores]:
        """See :meth:`coldframe.retrieval.index.Index.search`."""
        check(k >= 0, "k cannot be negative", got=k)
        texts = self.literals(queries)
        if not texts or not self._size or not k:
            return stack([nearest(np.empty(0, np.int64), np.empty(0, np.float32), k) for _ in texts], k)
        results = []
        for query, text in enumerate(texts):
            out = np.empty(0, np.int64) if exclude is None else np.asarray(exclude[query], np.int64)
            results.append(self._nearest(queries, query, text, k, out))
        return stack(results, k)

    def score(self, queries: Q, indices: Indices) -> Scores:
        """See :meth:`coldframe.retrieval.index.Index.score`; exact."""
        scores = np.zeros(indices.shape, np.float32)
        for query in range(len(indices)):
            present = indices[query] >= 0
            wanted = indices[query, present]
            where = f"FROM {self.table} WHERE position = ANY(%(positions)s)"
            positions, things = self._rows(self._scan, where, {"positions": wanted.tolist()})
            if len(positions):
                known = self.similarity(queries, query, self.unpacked(things))
                order = np.argsort(positions)
                scores[query, present] = known[order[np.searchsorted(positions[order], wanted)]]
        return scores

    def recall(self, queries: Q, k: int, exclude: Exclude | None = None) -> Recall:
        """How much of the exact answer the search finds; an exact one finds all."""
        _, scores = self.search(queries, k, exclude)
        graph, self._graph = self._graph, None
        try:
            _, truth = self.search(queries, k, exclude)
        finally:
            self._graph = graph
        hit = scores >= truth[:, -1:]
        return Recall(float(hit.mean()) if hit.size else 1.0, k, len(truth))

    def drop(self) -> None:
        """Delete the table, for everybody who shares it."""
        self._scan.run(lambda cursor: cursor.execute(f"DROP TABLE IF EXISTS {self.table}"))

    def _nearest(
        self, queries: Q, query: int, text: str | None, k: int, exclude: NDArray[np.int64]
    ) -> tuple[Indices, Scores]:
        values = {"query": text, "k": k, "exclude": exclude.tolist(), "slack": self.slack(queries)}
        width = k + len(exclude) + _CANDIDATES
        positions, things = np.empty(0, np.int64), list[bytes]()
        if text is None:  # equally far from everything: the first rows
            first = f"FROM {self.table} {_ALLOWED} ORDER BY position LIMIT %(k)s"
            positions, things = self._rows(self._scan, first, values)
        elif self._graph is not None and width < self._size:
            near = f"FROM {self.table} ORDER BY thing {self.operator} %(query)s LIMIT {width}"
            positions, things = self._rows(self._graph, near, values)
            allowed = np.flatnonzero(~np.isin(positions, exclude))
            positions, things = positions[allowed], [things[i] for i in allowed]
        if len(positions) < k and text is not None:
            positions, things = self._rows(self._scan, self.nearest_rows(), values)
        if not things:
            return nearest(positions, np.empty(0, np.float32), k)
        return nearest(positions, self.similarity(queries, query, self.unpacked(things)), k)

    def _rows(self, server: Server, where: str, values: dict[str, Any]) -> tuple[Indices, list[bytes]]:
        """Positions and things of some rows."""
        rows = server.run(lambda cursor: cursor.execute(f"SELECT position, thing {where}", values).fetchall())
        return np.array([position for position, _ in rows], np.int64), [bytes(thing) for _, thing in rows]

    # ---- the table --------------------------------------------------------------------------------------

    def _create(self, cursor: Any, things: Callable[[], Q]) -> None:
        """Fill the table unless it is there: one process at a time, the others wait and find it."""
        lock = int.from_bytes(hashlib.sha256(self.table.encode()).digest()[:7], "big")
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (lock,))
        if cursor.execute("SELECT to_regclass(%s) IS NOT NULL", (self.table,)).fetchone()[0]:
            return
        if not cursor.execute("SELECT 1 FROM pg_type WHERE typname = 'vector'").fetchone():
            cursor.execute("CREATE EXTENSION IF NOT EXISTS vector")
        store = things()
        cursor.execute(f"CREATE TABLE {self.table} (position bigint PRIMARY KEY, thing {self.column(store)} NOT NULL)")
        with cursor.copy(f"COPY {self.table} (position, thing) FROM STDIN (FORMAT binary)") as copy:
            copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
            for start in range(0, self.count(store), _BLOCK):
                copy.write(_rows(start, self.packed(self.part(store, start, start + _BLOCK))))
            copy.write(b"\xff\xff")

    def _create_graph(self, cursor: Any) -> None:
        cursor.execute(
            f"CREATE INDEX IF NOT EXISTS {self.table}_hnsw ON {self.table} USING hnsw (thing {self.operator_class})"
        )


def _rows(first: int, packed: NDArray[np.uint8]) -> bytes:
    """Rows of the binary COPY format: two fields, each with its length; numbers are big-endian."""
    width = packed.shape[1]
    layout = [("fields", ">i2"), ("length", ">i4"), ("position", ">i8"), ("bytes", ">i4"), ("thing", "u1", (width,))]
    rows = np.zeros(len(packed), np.dtype(layout))
    rows["fields"], rows["length"], rows["bytes"] = 2, 8, width
    rows["position"] = np.arange(first, first + len(packed))
    rows["thing"] = packed
    return rows.tobytes()


class PostgresTanimoto(PostgresIndex[Sets]):
    """Tanimoto over 2048-bit fingerprints: pgvector's Jaccard on ``bit(2048)``.

    Two ratios of counts up to 2048 that differ are apart in float32 too, so the server's order is that of the exact
    index, and equal ratios are equal numbers.
    """

    operator, operator_class = "<%%>", "bit_jaccard_ops"

    def column(self, things: Sets) -> str:
        """Bits."""
        return f"bit({BITS})"

    def count(self, things: Sets) -> int:
        """Fingerprints."""
        return len(things)

    def part(self, things: Sets, start: int, stop: int) -> Sets:
        """Some of the fingerprints."""
        starts = things.starts[start : stop + 1]
        return Sets(things.members[starts[0] : starts[-1]], starts - starts[0])

    def packed(self, things: Sets) -> NDArray[np.uint8]:
        """Their number, then eight to a byte."""
        head = np.frombuffer(BITS.to_bytes(4, "big"), np.uint8)
        return np.concatenate([np.tile(head, (len(things), 1)), things.packed()], axis=1)

    def unpacked(self, values: list[bytes]) -> NDArray[np.uint8]:
        """Eight bits to a byte."""
        return np.stack([np.frombuffer(value, np.uint8)[4:] for value in values])

    def literals(self, queries: Sets) -> list[str | None]:
        """Zeros and ones."""
        bits = np.unpackbits(queries.packed(), axis=1) + ord("0")
        return [row.tobytes().decode() if len(queries[i]) else None for i, row in enumerate(bits)]

    def similarity(self, queries: Sets, query: int, rows: NDArray[np.uint8]) -> Scores:
        """By popcount."""
        bits = Sets.of([queries[query]]).packed()
        shared = np.bitwise_count(rows & bits).sum(axis=1, dtype=np.float32)
        either = np.bitwise_count(rows | bits).sum(axis=1, dtype=np.float32)
        return np.asarray(shared / np.maximum(either, 1), np.float32)


class PostgresCosine(PostgresIndex[NDArray[np.float32]]):
    """Cosine over float32 vectors: pgvector's ``vector``.

    The server adds up in float32, so it only gives the candidates: all rows within its own rounding error of the k-th.
    Each is scored in float64 from the two vectors alone.
    """

    operator, operator_class = "<=>", "vector_cosine_ops"

    def column(self, things: NDArray[np.float32]) -> str:
        """A vector of as many numbers."""
        return f"vector({max(things.shape[1], 1)})"

    def count(self, things: NDArray[np.float32]) -> int:
        """Vectors."""
        return len(things)

    def part(self, things: NDArray[np.float32], start: int, stop: int) -> NDArray[np.float32]:
        """Some of the vectors."""
        return things[start:stop]

    def packed(self, things: NDArray[np.float32]) -> NDArray[np.uint8]:
        """How many numbers, two empty bytes, the numbers."""
        values = np.ascontiguousarray(things, ">f4").view(np.uint8).reshape(len(things), 4 * things.shape[1])
        head = np.frombuffer(int(things.shape[1]).to_bytes(2, "big") + b"\0\0", np.uint8)
        return np.concatenate([np.tile(head, (len(things), 1)), values], axis=1)

    def unpacked(self, values: list[bytes]) -> NDArray[np.float32]:
        """Numbers."""
        return np.stack([np.frombuffer(value, ">f4", offset=4) for value in values]).astype(np.float32)

    def literals(self, queries: NDArray[np.float32]) -> list[str | None]:
        """Unit vectors: a length that float32 cannot square is no trouble then."""
        unit = queries.astype(np.float64) / lengths(queries)[:, None]
        return [f"[{','.join(map(str, row.astype(np.float32)))}]" if row.any() else None for row in unit]

    def similarity(self, queries: NDArray[np.float32], query: int, rows: NDArray[np.float32]) -> Scores:
        """As the exact index refines it."""
        return ExactCosine(rows).refine(queries, query, np.empty(0, np.float32), np.arange(len(rows)))

    def slack(self, queries: NDArray[np.float32]) -> float:
        """Of sums in float32, as the exact index has it."""
        return float(4 * np.finfo(np.float32).eps * max(queries.shape[1], 1))

    def nearest_rows(self) -> str:
        """All that may be among the k nearest; a zero vector, whose distance is no number, is at distance 1."""
        distance = "coalesce(nullif(thing <=> %(query)s, 'NaN'), 1)"
        bound = f"SELECT {distance} AS distance FROM {self.table} {_ALLOWED} ORDER BY 1 LIMIT %(k)s"
        most = f"(SELECT max(distance) + %(slack)s FROM ({bound}) AS nearest)"
        return f"FROM {self.table} {_ALLOWED} AND {distance} <= {most}"
