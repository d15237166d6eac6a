"""The exemplar store and what comes out of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coldframe.errors import ArtifactError
from coldframe.retrieval.encoders import Encoder
from coldframe.retrieval.vectors import read_vectors, write_vectors
from coldframe.storage.files import atomic_path
from coldframe.tasks.task import Example, Passage, content_hash


@dataclasses.dataclass(frozen=True)
class Store:
    """The examples that may be retrieved, in a fixed order.

    Positions into ``examples`` are how the rest of the library names exemplars; the order is that of the
    ids, so that a position order is an id order and the tie rule (-similarity, id) needs no strings.
    """

    examples: tuple[Example, ...]

    @classmethod
    def of(cls, examples: Sequence[Example]) -> Store:
        """A store of these examples, sorted by id."""
        return cls(tuple(sorted(examples, key=lambda example: example.id)))

    def __len__(self) -> int:
        return len(self.examples)

    @cached_property
    def texts(self) -> list[str]:
        """All inputs, in store order."""
        return [example.text for example in self.examples]

    @cached_property
    def keys(self) -> NDArray[np.str_]:
        """All identity keys, in store order."""
        return np.array([example.key for example in self.examples])

    @cached_property
    def hash(self) -> str:
        """Names the content: ids, texts and targets."""
        return content_hash(*(f"{e.id}\x1e{e.text}\x1e{e.target}" for e in self.examples))

    @cached_property
    def _vectors(self) -> dict[str, NDArray[np.float32]]:
        """What encoders made of all inputs, by encoder."""
        return {}

    def encoded(self, encoder: Encoder) -> NDArray[np.float32]:
        """Vectors of all inputs, ``[n, dim]``, in store order; made once."""
        name = _version_of(encoder)
        if name not in self._vectors:
            self._vectors[name] = encoder.encode(self.texts)
        return self._vectors[name]

    def save_vectors(self, path: Path, encoder: Encoder) -> None:
        """Write :meth:`encoded`, and what it was made of."""
        write_vectors(path, self.encoded(encoder), (_version_of(encoder), self.hash))

    def load_vectors(self, path: Path) -> None:
        """Read what :meth:`save_vectors` wrote; another encoder, or other entries, will be encoded anew.

        Raises:
            ArtifactError: The file is damaged.
        """
        vectors, (encoder, store) = read_vectors(path)
        if store == self.hash and len(vectors) == len(self):
            self._vectors[encoder] = vectors

    def save(self, path: Path) -> None:
        """Write the entries as JSON lines, whole or not at all."""
        with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as out:
            for example in self.examples:
                out.write(json.dumps(dataclasses.asdict(example), ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> Store:
        """Read what :meth:`save` wrote."""
        try:
            lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # a text may hold other line ends
            return cls(tuple(_entry(json.loads(line)) for line in lines))
        except (OSError, ValueError, AttributeError, TypeError, KeyError, RecursionError) as error:
            raise ArtifactError(f"{path} is damaged: {error}") from error


def _version_of(encoder: Encoder) -> str:
    """The encoder's hash; RDKit, which is no part of it, may count fragments otherwise in its next version."""
    return f"{encoder.hash} {version('rdkit')}" if encoder.spec.startswith("morgan") else encoder.hash


def _entry(values: dict[str, Any]) -> Example:
    """The inverse of ``dataclasses.asdict``: lists are tuples again, and what has a body is a passage."""
    kind = Passage if "body" in values else Example
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return kind(**fields)


@dataclasses.dataclass(frozen=True)
class Retrieved:
    """What was retrieved for a batch of queries: one *set* per query.

    Attributes:
        store: Where the positions point.
        indices: int64 ``[n, k]``, positions into the store; -1 where fewer than k were found.
        scores: float32 ``[n, k]``, similarities, larger is nearer; 0 where the index is -1.

    Rows come sorted by (-similarity, id), but no method may rely on the order unless it says it is not
    order invariant.
    """

    store: Store
    indices: NDArray[np.int64]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def k(self) -> int:
        """Exemplars per query."""
        return int(self.indices.shape[1])

    def rows(self, positions: Sequence[int] | NDArray[np.int64] | slice) -> Retrieved:
        """The part that belongs to some of the queries."""
        return Retrieved(self.store, self.indices[positions], self.scores[positions])

    def top(self, k: int) -> Retrieved:
        """Only the first ``k`` of each query."""
        return Retrieved(self.store, self.indices[:, :k], self.scores[:, :k])

    def nearest(self, k: int) -> Retrieved:
        """The ``k`` nearest of each query by the tie rule, in the order held."""
        ranked = np.lexsort((self.indices, -self.scores, self.indices < 0), axis=1)
        return self._reordered(np.sort(ranked[:, :k], axis=1))

    def shuffled(self, rng: np.random.Generator) -> Retrieved:
        """The same sets in another order, to measure what the order does."""
        return self._reordered(rng.permuted(np.tile(np.arange(self.k), (len(self), 1)), axis=1))

    def canonical(self) -> Retrieved:
        """The same sets in the one order that their members alone decide: by position, absent ones last."""
        places = np.where(self.indices < 0, np.iinfo(np.int64).max, self.indices)
        return self._reordered(np.argsort(places, axis=1, kind="stable"))

    def ranked(self) -> Retrieved:
        """The same sets by the tie rule, whatever order they are held in: nearest first, absent ones last."""
        return self._reordered(np.lexsort((self.indices, -self.scores, self.indices < 0), axis=1))

    def _reordered(self, order: NDArray[np.int64]) -> Retrieved:
        return Retrieved(
            self.store,
            np.take_along_axis(self.indices, order, axis=1),
            np.take_along_axis(self.scores, order, axis=1),
        )

    def examples(self, row: int) -> list[Example]:
        """The exemplars of one query, in the order held."""
        return [self.store.examples[i] for i in self.indices[row] if i >= 0]

    @classmethod
    def nothing(cls, store: Store, n: int) -> Retrieved:
        """No exemplar for any of ``n`` queries."""
        return cls(store, np.empty((n, 0), np.int64), np.empty((n, 0), np.float32))
