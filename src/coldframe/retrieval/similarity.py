"""How alike two inputs are. The written rule for 0/0, in all of them: 0.

| name | of | of two inputs |
|---|---|---|
| ``tanimoto`` | molecules | shared Morgan bits / bits of either |
| ``scaffold-tanimoto`` | molecules | the same of the counted fragments of their Murcko scaffolds |
| ``cosine`` | anything an encoder takes | cosine of their vectors |
| ``bm25`` | texts | Okapi BM25 of the query's words |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from coldframe.retrieval.molecules import BITS, morgan_bits, scaffold_counts

Similarity = Literal["tanimoto", "scaffold-tanimoto", "cosine", "bm25"]

_LEVELS = 1 << 20  # more than any fragment can occur


@dataclasses.dataclass(frozen=True)
class Sets:
    """n sets of integers in one array: set i is ``members[starts[i] : starts[i + 1]]``, without repeats.

    Tanimoto needs nothing but sets. A bit fingerprint is the set of its on-bits. A count fingerprint is the
    set of all (fragment, level) with 1 <= level <= count, for then ``|A and B| = sum of min(a, b)``.

    Attributes:
        members: int64 ``[total]``.
        starts: int64 ``[n + 1]``.
    """

    members: NDArray[np.int64]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, i: int) -> NDArray[np.int64]:
        return self.members[self.starts[i] : self.starts[i + 1]]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Members per set."""
        return np.diff(self.starts)

    @classmethod
    def of(cls, sets: Sequence[NDArray[np.int64]]) -> Sets:
        """From one array per set.

        Example:
            >>> Sets.of([np.array([1, 5]), np.array([], int)]).sizes.tolist()
            [2, 0]
        """
        starts = np.concatenate([[0], np.cumsum([len(s) for s in sets])]).astype(np.int64)
        return cls(np.concatenate([np.empty(0, np.int64), *sets]).astype(np.int64, copy=False), starts)

    @classmethod
    def of_bits(cls, packed: NDArray[np.uint8]) -> Sets:
        """From packed fingerprints, uint8 ``[n, bytes]`` (bit order of ``numpy.packbits``)."""
        members, sizes = [np.empty(0, np.int64)], [np.zeros(1, np.int64)]
        for block in range(0, len(packed), 4096):  # the unpacked bits need eight times the room
            bits = np.unpackbits(packed[block : block + 4096], axis=1)
            members.append(np.nonzero(bits)[1])
            sizes.append(bits.sum(axis=1, dtype=np.int64))
        return cls(np.concatenate(members), np.cumsum(np.concatenate(sizes)))

    @classmethod
    def of_counts(cls, counts: Sequence[Mapping[int, int]]) -> Sets:
        """From count fingerprints: fragment to how often it occurs.

        Example:
            >>> Sets.of_counts([{7: 3, 8: 1}]).sizes.tolist()
            [4]
        """
        return cls.of(
            [
                np.array([f * _LEVELS + level for f, count in row.items() for level in range(count)], np.int64)
                for row in counts
            ]
        )

    def packed(self, bits: int = BITS) -> NDArray[np.uint8]:
        """As packed fingerprints, uint8 ``[n, bits / 8]``; members must be below ``bits``."""
        dense = np.zeros((len(self), bits), bool)
        dense[np.repeat(np.arange(len(self)), self.sizes), self.members] = True
        return np.packbits(dense, axis=1)


def morgan_sets(smiles: Sequence[str]) -> Sets:
    """On-bits of Morgan fingerprints: what ``tanimoto`` compares."""
    return Sets.of_bits(morgan_bits(smiles))


def scaffold_sets(smiles: Sequence[str]) -> Sets:
    """Counted fragments of Murcko scaffolds: what ``scaffold-tanimoto`` compares."""
    return Sets.of_counts([scaffold_counts(text) for text in smiles])


def lengths(vectors: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Length of each row to divide by: 1 for a zero row, so that its cosine with anything is 0."""
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    return np.where(norms > 0, norms, 1.0)


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows scaled to length 1; a zero row stays zero.

    Example:
        >>> unit(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)).round(1).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    return (vectors / lengths(vectors)[:, None]).astype(np.float32)
