"""What was retrieved for another query: the control that keeps everything but the match."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable, Sequence, Set

import numpy as np
from numpy.typing import NDArray

from coldframe.errors import DataError
from coldframe.retrieval.store import Retrieved


def donors(
    sets: Sequence[Set[Hashable]], *, barred: Sequence[Set[Hashable]] | None = None, seed: int | Sequence[int] = 0
) -> NDArray[np.int64]:
    """For every query another one whose set it gets: a permutation that leaves nothing in its place.

    First a random order in which the fewest queries keep an equal set: all places, sorted by set (the sets, and the
    places of one set, in random order), are moved on by the size g of the largest group of equal sets. That leaves
    ``max(0, 2 g - n)`` with an equal set, and no permutation leaves fewer. Then for every query whose new set shares
    entries with its own, the shortest ring of exchanges that mends it and spoils no other.

    Example:
        >>> donors([{1}, {1}, {2}, {3}]).tolist()
        [2, 3, 0, 1]
    """
    if len(sets) < 2:
        raise DataError("A swap needs two queries", got=len(sets), expected="at least 2")
    exchange = _Exchange(sets, sets if barred is None else barred, seed)
    for query in range(len(sets)):
        if not exchange.apart(query, exchange.donor[query]):
            exchange.mend(query)
    return exchange.donor


def swapped(retrieved: Retrieved, *, barred: Sequence[NDArray[np.int64]] | None = None, seed: int = 0) -> Retrieved:
    """For every query what was retrieved for another one that shares no entry with it.

    Where there is no such query, it gets random entries that were not retrieved for it, scored 0.
    """
    own = [set(row[row >= 0].tolist()) for row in retrieved.indices]
    shun = own if barred is None else [entries | set(rows.tolist()) for entries, rows in zip(own, barred, strict=True)]
    n = len(own)
    donor = donors(own, barred=shun, seed=seed) if n > 1 else np.arange(n)
    indices, scores = retrieved.indices[donor], retrieved.scores[donor]
    rng = np.random.default_rng(seed)
    for query in range(n):
        if n > 1 and shun[query].isdisjoint(own[donor[query]]):
            continue
        pool = np.setdiff1d(np.arange(len(retrieved.store)), sorted(shun[query]))
        if not len(pool) and retrieved.k:
            problem = "There is nothing to swap with: every entry of the store was retrieved for a query"
            raise DataError(problem, fix="Lower k.")
        rows = rng.permutation(pool)[: retrieved.k]
        indices[query] = np.pad(rows, (0, retrieved.k - len(rows)), constant_values=-1)
        scores[query] = 0
    return Retrieved(retrieved.store, indices, scores)


class _Exchange:
    """Who gets whose set, and rings of exchanges."""

    def __init__(
        self, sets: Sequence[Set[Hashable]], barred: Sequence[Set[Hashable]], seed: int | Sequence[int]
    ) -> None:
        self.own = [frozenset(entries) for entries in sets]
        self.shun = [entries | further for entries, further in zip(self.own, barred, strict=True)]
        names: dict[frozenset[Hashable], int] = {}
        self.groups = np.array([names.setdefault(entries, len(names)) for entries in self.own])
        self.holders: dict[Hashable, list[int]] = defaultdict(list)
        for query, entries in enumerate(self.own):
            for entry in entries:
                self.holders[entry].append(query)
        self.donor = _shifted(self.groups, seed)
        self.closed = np.zeros(len(self.own), bool)

    def apart(self, query: int, other: int) -> bool:
        """Whether a query may get the set of another."""
        return bool(self.groups[query] != self.groups[other]) and self.shun[query].isdisjoint(self.own[other])

    def all_apart(self, query: int) -> NDArray[np.bool_]:
        """The same for all others, ``[n]``."""
        row: NDArray[np.bool_] = self.groups != self.groups[query]
        for entry in self.shun[query]:
            row[self.holders.get(entry, [])] = False
        return row

    def mend(self, query: int) -> None:
        """Give a query a set that is apart, by a ring of exchanges in which nobody who had one loses it."""
        freed = self.donor[query]
        asks: dict[int, int] = {}
        visited = self.closed.copy()
        visited[query] = True
        queue = deque([query])
        while queue:
            current = queue.popleft()
            for holder in np.flatnonzero(self.all_apart(current)[self.donor] & ~visited).tolist():
                visited[holder], asks[holder] = True, current
                has_none = holder != freed and not self.apart(holder, self.donor[holder])
                if has_none or self.apart(holder, freed):
                    while holder != query:  # from the end of the ring: each hands its set to the one that asks for it
                        freed, self.donor[holder] = self.donor[holder], freed
                        holder = asks[holder]
                    self.donor[query] = freed
                    return
                queue.append(holder)
        # The visited queries accept only each other's sets, so no later ring gets through them either.
        self.closed = visited
        self.closed[query] = False


def _shifted(groups: NDArray[np.int64], seed: int | Sequence[int]) -> NDArray[np.int64]:
    n, rng = len(groups), np.random.default_rng(seed)
    _, place, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.lexsort((rng.permutation(n), rng.permutation(len(sizes))[place]))
    largest = int(sizes.max())
    donor = np.empty(n, np.int64)
    donor[order] = np.roll(order, -(largest if largest < n else 1))
    return donor
