"""How neural encoders compute: in batches of one shape, and each text once."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from coldframe.errors import NotFiniteError
from coldframe.progress import Bar, speaking

MEMO_BYTES = 512 << 20
MANY = 8  # texts; fewer take no half minute


def batch_size(device: str) -> int:
    """Texts per batch: few on a CPU, where a single query costs as much as a whole batch."""
    return 4 if device == "cpu" else 32


def batches_of_one_shape(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Positions of texts, ``size`` of one length at a time, the longest first; the last of a length fills its batch up.

    The last bits of a vector depend on the shape of the batch it is computed in: kernels add up in another order. In
    batches of one shape, without padding, they depend on the text alone, whatever stands beside it (tried on a CPU with
    AVX2 and on an H200). Longest first, so that a lack of memory shows at once.

    Cost: against batches of 64 with padding, a third less texts per second on a CPU, where texts have 15 tokens.

    Example:
        >>> list(batches_of_one_shape([3, 5, 3, 3], 2))
        [[1, 1], [0, 2], [3, 3]]
    """
    places: dict[int, list[int]] = defaultdict(list)
    for position, length in enumerate(lengths):
        places[length].append(position)
    for length in sorted(places, reverse=True):
        alike = places[length]
        alike += [alike[-1]] * (-len(alike) % size)
        for start in range(0, len(alike), size):
            yield alike[start : start + size]


def encoding(count: int) -> Bar:
    """Progress of encoding so many texts, where these are many and whoever wants them tells of progress."""
    return Bar(count, "encode texts", quiet=count < MANY or not speaking())


class Memo:
    """Remembers the vectors of the last texts, up to ``limit_bytes``; the oldest are forgotten first.

    Threads may share it.
    """

    def __init__(self, compute: Callable[[list[str]], NDArray[np.float32]], limit_bytes: int = MEMO_BYTES) -> None:
        self._compute, self._limit = compute, limit_bytes
        self._vectors: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._lock = Lock()

    def __call__(self, texts: Sequence[str], dim: int) -> NDArray[np.float32]:
        """Vectors of some texts, ``[n, dim]``; each distinct new one is computed once."""
        with self._lock:
            vectors = {text: self._vectors[text] for text in texts if text in self._vectors}
        if new := [text for text in dict.fromkeys(texts) if text not in vectors]:
            computed = self._compute(new)
            if len(bad := np.flatnonzero(~np.isfinite(computed).all(axis=1))):
                raise NotFiniteError(
                    f"The encoder gives no vector of finite numbers for {new[bad[0]][:60]!r}",
                    fix="Its weights are damaged: fetch them anew, or choose another encoder.",
                )
            # A view would keep its whole batch alive.
            vectors.update((text, row.copy()) for text, row in zip(new, computed, strict=True))
        with self._lock:
            for text, row in vectors.items():
                self._vectors[text] = row
                self._vectors.move_to_end(text)
            while len(self._vectors) * dim * 4 > self._limit:
                self._vectors.popitem(last=False)
        return np.stack([vectors[text] for text in texts]) if texts else np.empty((0, dim), np.float32)
