"""From examples to their exemplars: which similarity, which rows, never the query itself."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from coldframe import __version__
from coldframe.config import Config, check
from coldframe.errors import ConfigError, DataError
from coldframe.progress import say
from coldframe.retrieval import neighbours
from coldframe.retrieval.draws import first_in_queue, look_up, queue_of_labels, random_rows, row_name
from coldframe.retrieval.encoder_objects import spec_of
from coldframe.retrieval.encoders import Encoder, encoder_spec, load_encoder
from coldframe.retrieval.exact import ExactCosine, ExactTanimoto
from coldframe.retrieval.index import Index, Indices, Recall, Scores, nearest, stack
from coldframe.retrieval.molecules import MorganEncoder
from coldframe.retrieval.postgres_url import without_password
from coldframe.retrieval.similarity import Similarity, morgan_sets, scaffold_sets
from coldframe.retrieval.store import Retrieved, Store
from coldframe.retrieval.swap import swapped
from coldframe.tasks.task import Domain, Example, Passage, content_hash

SimilarityChoice = Literal["auto", "tanimoto", "scaffold-tanimoto", "cosine", "bm25"]
IndexKind = Literal["exact", "usearch", "postgres", "postgres-hnsw"]
Strategy = Literal["auto", "top", "given", "random", "fixed", "oracle", "swapped", "none"]

RECALL_QUERIES = 200
CACHED_FROM = 64  # shorter query lists cost less to search than to keep


@dataclasses.dataclass(frozen=True)
class RetrievalConfig(Config):
    """How exemplars are chosen.

    Args:
        similarity: ``auto`` is Tanimoto for molecules, BM25 for a store of passages, and cosine for other text.
        strategy: ``auto``: what the method wants, which is ``given`` for rows that come with entries of their own
            and ``top`` for others, unless it says otherwise. ``top``: the K most similar. ``given``: the first K
            that came with the row, in its order; the r-th is scored 1/r. ``random``: K at random, other ones for
            each query, decided by seed and query id. ``fixed``: the same K for all queries, drawn evenly from the
            labels by the seed, in store order, scored 0. ``oracle``: the K most similar with the query's own label,
            or of its gold entries where they are known (a diagnosis: it needs the answers). ``swapped``: what
            ``auto`` retrieves for another of the queries asked together, by the seed; it shares no entry with the
            query's own (a control). ``none``: nothing.
        index: ``exact``, or ``usearch`` (approximate; extra ``ann``). For stores that several processes share, in
            PostgreSQL (extra ``pg``): ``postgres`` (exact), or ``postgres-hnsw`` (approximate).
        index_url: Of the PostgreSQL server; left out, the variable COLDFRAME_INDEX_URL, else a server that is started
            on this machine. A password in it is not kept.
        encoder: Spec of the encoder behind cosine, or the encoder itself: a ``SentenceTransformer``, or any object with
            ``encode(texts)``. ``auto`` is the domain's default.
        seed: For ``random``, ``fixed`` and ``swapped``.
    """

    section = "retrieval settings"
    at_least = {"seed": 0}
    plain = {"encoder": spec_of, "index_url": without_password}

    similarity: SimilarityChoice = "auto"
    strategy: Strategy = "auto"
    index: IndexKind = "exact"
    index_url: str = ""
    encoder: str = "auto"
    seed: int = 0


class Retriever:
    """Finds exemplars for examples, by the tie rule of index.py, leaving out the query's own duplicates.

    Nothing is encoded before the first search. Lists for 64 queries and more are kept in the cache folder,
    under a hash of all that they depend on. An approximate index is measured against exact search when it is
    built: see ``recall`` (None for an exact one).

    Args:
        store: Where exemplars come from.
        domain: Decides what ``auto`` means.
        k: Exemplars per query; 0 retrieves nothing.
        config: See :class:`RetrievalConfig`.
        encoder: The encoder that ``config.encoder`` names, if there is one in use already.

    Raises:
        ConfigError: k is larger than the store, or the similarity does not fit the domain or the index.

    Example:
        >>> rows = [Example(s, t, id=s, key=s) for s, t in [("CCO", "No"), ("CCN", "No"), ("c1ccccc1", "Yes")]]
        >>> retriever = Retriever(Store.of(rows), "molecules", k=1)
        >>> [e.text for e in retriever.retrieve(rows[:1], exclude_same_key=True).examples(0)]
        ['CCN']
    """

    def __init__(
        self,
        store: Store,
        domain: Domain,
        k: int,
        config: RetrievalConfig | None = None,
        *,
        encoder: Encoder | None = None,
    ) -> None:
        self.store, self.domain, self.k, self.config = store, domain, k, config or RetrievalConfig()
        self._encoder = encoder
        self.recall: Recall | None = None
        check(k >= 0, "k cannot be negative", got=k)
        similarity, size = self.similarity, len(store)
        if self.config.strategy not in ("none", "given") and k > size:
            fix = f"Pass k = {max(size - 1, 0)} or less, or add exemplars."
            raise ConfigError("The exemplar store has fewer rows than k", got=f"{size} rows, k = {k}", fix=fix)
        if similarity in ("tanimoto", "scaffold-tanimoto") and domain != "molecules":
            raise ConfigError(f"{similarity} compares molecules", got=f"domain {domain!r}", fix="Use cosine or bm25.")
        if similarity == "bm25" and domain != "text":
            raise ConfigError("bm25 compares words", got=f"domain {domain!r}", fix="Use tanimoto or cosine.")
        if self.config.index != "exact" and similarity not in ("tanimoto", "cosine"):
            fix = "Use index='exact'."
            raise ConfigError(f"{self.config.index} has no {similarity}", expected="tanimoto or cosine", fix=fix)

    @property
    def similarity(self) -> Similarity:
        """The similarity in use, ``auto`` resolved."""
        if self.config.similarity != "auto":
            return self.config.similarity
        if self.domain == "molecules":
            return "tanimoto"
        passages = len(self.store) and all(isinstance(entry, Passage) for entry in self.store.examples)
        return "bm25" if passages else "cosine"

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder behind cosine."""
        return self._encoder or load_encoder(encoder_spec(self.config.encoder, self.domain))

    @property
    def searches_vectors(self) -> bool:
        """Whether the vectors of the whole store are searched in this process."""
        searches = self.k > 0 and self.config.strategy not in ("none", "given", "fixed")
        return searches and self.similarity == "cosine" and not self.config.index.startswith("postgres")

    @cached_property
    def index(self) -> Index[Any]:
        """The store, encoded and ready to search."""
        if self.config.index.startswith("postgres"):
            return self._shared()
        cosine = self.similarity == "cosine"
        things: Any = self.store.encoded(self.encoder) if cosine else self._features(self.store.texts)
        if self.config.index == "usearch":
            return self._approximate(things)
        if self.similarity == "bm25":
            from coldframe.retrieval.bm25 import BM25

            return BM25(things)
        return ExactCosine(things) if cosine else ExactTanimoto(things)

    def retrieve(self, examples: Sequence[Example], *, exclude_same_key: bool) -> Retrieved:
        """The exemplars of each example.

        Args:
            examples: n queries.
            exclude_same_key: Leave out rows with the query's key: itself and its duplicates. True wherever
                queries may be in the store (training); False for queries that came from elsewhere.

        Returns:
            n sets of k, padded with -1 where fewer than k rows may be used.

        Raises:
            DataError: ``oracle`` is asked about a query without a label that the store knows; a row names an entry that
                the store does not have.
        """
        strategy = self.config.strategy
        if strategy == "none" or self.k == 0:
            return Retrieved.nothing(self.store, len(examples))
        exclude = self._excluded(examples, exclude_same_key)
        if strategy == "fixed":
            return Retrieved(self.store, *self._fixed(exclude))
        if strategy not in ("auto", "given", "swapped"):
            return Retrieved(self.store, *self._searched(examples, exclude, exclude_same_key))
        retrieved = self._own_or_searched(examples, exclude, exclude_same_key)
        if strategy != "swapped":
            return retrieved
        return swapped(retrieved, barred=exclude, seed=self.config.seed)

    def _own_or_searched(
        self, examples: Sequence[Example], exclude: list[NDArray[np.int64]], exclude_same_key: bool
    ) -> Retrieved:
        """Entries that came with a row; for rows without any the most similar ones."""
        indices, scores, came_with_entries = look_up(examples, self._by_id, self.k, exclude)
        if rows := np.flatnonzero(~came_with_entries).tolist():
            if self.config.strategy == "given":
                problem = f"{row_name(examples[rows[0]])} came with no entries of its own"
                raise DataError(problem, fix="Use strategy 'auto' or 'top'.")
            queries, barred = [examples[i] for i in rows], [exclude[i] for i in rows]
            indices[rows], scores[rows] = self._searched(queries, barred, exclude_same_key)
        return Retrieved(self.store, indices, scores)

    def _searched(
        self, examples: Sequence[Example], exclude: list[NDArray[np.int64]], exclude_same_key: bool
    ) -> tuple[Indices, Scores]:
        """What a search gives, from the cache where there are many queries."""
        if len(examples) < CACHED_FROM:
            return self._search(examples, exclude)
        return neighbours.remember(
            self._key(examples, exclude_same_key),
            (len(examples), self.k, len(self.store)),
            lambda: self._search(examples, exclude),
        )

    def _search(self, examples: Sequence[Example], exclude: list[NDArray[np.int64]]) -> tuple[Indices, Scores]:
        queries = self._features([example.text for example in examples])
        if self.config.strategy != "random":
            indices, scores = self.index.search(queries, self.k, exclude)
            if self.similarity == "bm25" and (empty := int((indices < 0).all(axis=1).sum())):
                say(f"{empty} of {len(examples)} queries share no word with the store: nothing is retrieved for them")
            return indices, scores
        rows = np.empty((len(examples), self.k), np.int64)
        for i, (example, left_out) in enumerate(zip(examples, exclude, strict=True)):
            rows[i] = random_rows(example, len(self.store), self.k, left_out, self.config.seed)
        scores, present = self.index.score(queries, rows), rows >= 0
        return stack([nearest(r[p], s[p], self.k) for r, s, p in zip(rows, scores, present, strict=True)], self.k)

    def _shared(self) -> Index[Any]:
        """The table of the store in PostgreSQL; who finds it there encodes nothing but its queries."""
        from coldframe.retrieval.postgres import PostgresCosine, PostgresIndex, PostgresTanimoto

        cosine, approximate = self.similarity == "cosine", self.config.index == "postgres-hnsw"
        features = self.encoder.hash if cosine else f"{MorganEncoder.hash} {version('rdkit')}"
        key = content_hash(__version__, self.store.hash, features)

        def things() -> Any:
            return self._features(self.store.texts)

        kind: type[PostgresIndex[Any]] = PostgresCosine if cosine else PostgresTanimoto
        index = kind(things, key, self.config.index_url, approximate=approximate)
        if approximate:
            self._measure(index, lambda rows: self._features([self.store.texts[i] for i in rows]))
        return index

    def _approximate(self, things: Any) -> Index[Any]:
        """The usearch index."""
        from coldframe.retrieval.usearch import ApproximateIndex, UsearchCosine, UsearchTanimoto

        cosine = self.similarity == "cosine"
        index: ApproximateIndex[Any] = UsearchCosine(things) if cosine else UsearchTanimoto(things)
        self._measure(index, lambda rows: index.take(things, rows))
        return index

    def _measure(self, index: Any, take: Callable[[Indices], Any]) -> None:
        """How much an approximate index misses, and a line on it: each sampled row is asked for its own neighbours."""
        sample = np.linspace(0, len(self.store) - 1, min(RECALL_QUERIES, len(self.store))).astype(np.int64)
        itself = self._excluded([self.store.examples[i] for i in sample], same_key=True)
        self.recall = recall = index.recall(take(sample), self.k, itself)
        name = self.config.index
        say(f"{name} finds {recall.value:.1%} of the {self.k} nearest (measured on {len(sample)} stored rows)")

    def _features(self, texts: Sequence[str]) -> Any:
        """Texts as the similarity in use wants them."""
        if self.similarity == "cosine":
            return self.encoder.encode(texts)
        if self.similarity == "bm25":
            return list(texts)
        return morgan_sets(texts) if self.similarity == "tanimoto" else scaffold_sets(texts)

    def _excluded(self, examples: Sequence[Example], same_key: bool) -> list[NDArray[np.int64]]:
        """For every query, the store positions that it must not get."""
        nobody = np.empty(0, np.int64)
        excluded = [self._by_key.get(e.key, nobody) if same_key else nobody for e in examples]
        if self.config.strategy != "oracle":
            return excluded
        return [np.union1d(out, self._without_answer(e)) for e, out in zip(examples, excluded, strict=True)]

    def _without_answer(self, example: Example) -> NDArray[np.int64]:
        """Entries that do not answer a query: all but its gold ones, or where none are known those of other labels."""
        if gold := [self._by_id[id] for id in example.gold if id in self._by_id]:
            return np.setdiff1d(np.arange(len(self.store)), gold)
        if example.target not in self._not_labelled:
            raise DataError(
                "The oracle needs each query's own label, and exemplars that have it (or its gold entries)",
                got=f"{example.target!r} for {example.id!r}",
                expected=", ".join(sorted(self._not_labelled)[:10]),
                fix="Use strategy 'top'.",
            )
        return self._not_labelled[example.target]

    @cached_property
    def _by_id(self) -> dict[str, int]:
        return {example.id: position for position, example in enumerate(self.store.examples)}

    @cached_property
    def _by_key(self) -> dict[str, NDArray[np.int64]]:
        places: dict[str, list[int]] = defaultdict(list)
        for position, example in enumerate(self.store.examples):
            places[example.key].append(position)
        return {key: np.array(rows) for key, rows in places.items()}

    @cached_property
    def _not_labelled(self) -> dict[str, NDArray[np.int64]]:
        targets = np.array([example.target for example in self.store.examples])
        return {str(target): np.flatnonzero(targets != target) for target in np.unique(targets)}

    @cached_property
    def _queue(self) -> Indices:
        return queue_of_labels([example.target for example in self.store.examples], self.config.seed)

    def _fixed(self, exclude: list[NDArray[np.int64]]) -> tuple[Indices, Scores]:
        results = [first_in_queue(self._queue, self.k, left_out) for left_out in exclude]
        return stack([nearest(rows, np.zeros(len(rows), np.float32), self.k) for rows in results], self.k)

    def _key(self, examples: Sequence[Example], exclude_same_key: bool) -> str:
        """Names all that the neighbour lists depend on."""
        encoder = self.encoder.hash if self.similarity == "cosine" else ""
        rows = (f"{e.id}\x1e{e.text}\x1e{e.key}\x1e{e.target}\x1e{e.gold}" for e in examples)
        keys = content_hash(*(example.key for example in self.store.examples))
        strategy = "top" if self.config.strategy in ("auto", "swapped") else self.config.strategy  # what is searched
        config = self.config.replace(similarity=self.similarity, strategy=strategy, index_url="")
        settings = (config.to_dict(), self.k, exclude_same_key, encoder)
        return content_hash(__version__, self.store.hash, keys, repr(settings), *rows)
