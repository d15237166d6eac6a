"""BM25 over words, exact."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from coldframe.errors import MissingExtraError
from coldframe.retrieval.index import ScanningIndex, Scores


class BM25(ScanningIndex[Sequence[str]]):
    """Okapi BM25 (Lucene's form, k1 = 1.5, b = 0.75) by bm25s; words are lower-cased, none is left out.

    ``score(q, x) = sum over words w of q: idf(w) * tf / (tf + k1 * (1 - b + b * |x| / mean |x|))``

    Paper: Robertson and Zaragoza 2009, doi:10.1561/1500000019; the implementation: Lu 2024, arXiv:2407.03618.
    Not between 0 and 1, and not symmetric. A word that no row has, and a text without words, score 0.

    Args:
        texts: The store.

    Raises:
        MissingExtraError: Without the extra ``text``.

    Example:
        >>> index = BM25(["the cat sat", "a dog ran", "a cat ran"])
        >>> index.search(["where is the cat"], k=2)[0].tolist()
        [[0, 2]]
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._bm25s = _bm25s()
        self._n = len(texts)
        self._model: Any = None
        if any(words := self._words(texts)):
            self._model = self._bm25s.BM25(k1=1.5, b=0.75, method="lucene")
            self._model.index(words, show_progress=False)

    def __len__(self) -> int:
        return self._n

    def scan(self, queries: Sequence[str]) -> Iterator[Scores]:
        """BM25 of all rows, one query at a time."""
        for words in self._words(queries):
            known = [word for word in words if self._model is not None and word in self._model.vocab_dict]
            if known:
                yield self._model.get_scores(known).astype(np.float32)
            else:
                yield np.zeros(self._n, np.float32)

    def _words(self, texts: Sequence[str]) -> list[list[str]]:
        tokens = self._bm25s.tokenize(
            list(texts), lower=True, token_pattern=r"\w+", stopwords=None, return_ids=False, show_progress=False
        )
        return [list(words) for words in tokens]


def _bm25s() -> Any:
    """bm25s, without JAX: importing it would start JAX where that is installed, which takes most of a GPU's memory."""
    hidden = {"jax": None} if "jax" not in sys.modules else {}
    sys.modules.update(hidden)  # type: ignore[arg-type]
    try:
        import bm25s
    except ImportError as error:
        raise MissingExtraError("bm25s", "text", "The similarity 'bm25'") from error
    finally:
        for name in hidden:
            del sys.modules[name]
    return bm25s
