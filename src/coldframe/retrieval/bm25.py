"""BM25 over words, exact; scripts without blanks count by pairs of characters."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from coldframe.errors import MissingExtraError
from coldframe.retrieval.index import ScanningIndex, Scores

# Thai, Lao, Tibetan, Myanmar, Khmer; Hiragana, Katakana, Bopomofo; Yi; Han. Vowel signs and tone marks are in it.
_WITHOUT_BLANKS = (
    "\u0e01-\u0e4e\u0e81-\u0ecd\u0f40-\u0fbc\u1000-\u103f\u1780-\u17d3\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff"
    "\u3105-\u312f\u31f0-\u31ff\ua000-\ua48c\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_RUN = re.compile(rf"([{_WITHOUT_BLANKS}]+)|(?:(?![{_WITHOUT_BLANKS}])\w)+")


def words_of(text: str) -> list[str]:
    """The lower-cased words of a text; of a run without blanks every pair of neighbouring characters.

    Example:
        >>> words_of("Order 12: 已发货")
        ['order', '12', '已发', '发货']
    """
    words: list[str] = []
    for run in _RUN.finditer(text.lower()):
        run_text = run.group()
        if run.group(1) is None or len(run_text) == 1:
            words.append(run_text)
        else:
            words += [run_text[i : i + 2] for i in range(len(run_text) - 1)]
    return words


class BM25(ScanningIndex[Sequence[str]]):
    """Okapi BM25 (Lucene's form, k1 = 1.5, b = 0.75) by bm25s; see :func:`words_of`, none is left out.

    ``score(q, x) = sum over words w of q: idf(w) * tf / (tf + k1 * (1 - b + b * |x| / mean |x|))``

    Paper: Robertson and Zaragoza 2009, doi:10.1561/1500000019; the implementation: Lu 2024, arXiv:2407.03618.
    Not between 0 and 1, and not symmetric. A row that shares no word with a query scores 0, and is not retrieved.

    Args:
        texts: The store.

    Raises:
        MissingExtraError: Without the extra ``text``.

    Example:
        >>> index = BM25(["the cat sat", "a dog ran", "a cat ran"])
        >>> index.search(["where is the cat"], k=2)[0].tolist()
        [[0, 2]]
    """

    needs_overlap = True

    def __init__(self, texts: Sequence[str]) -> None:
        bm25s = _bm25s()
        self._n = len(texts)
        self._model: Any = None
        if any(words := [words_of(text) for text in texts]):
            self._model = bm25s.BM25(k1=1.5, b=0.75, method="lucene")
            self._model.index(words, show_progress=False)

    def __len__(self) -> int:
        return self._n

    def scan(self, queries: Sequence[str]) -> Iterator[Scores]:
        """BM25 of all rows, one query at a time."""
        for query in queries:
            words = [word for word in words_of(query) if self._model is not None and word in self._model.vocab_dict]
            if words:
                yield self._model.get_scores(words).astype(np.float32)
            else:
                yield np.zeros(self._n, np.float32)


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
