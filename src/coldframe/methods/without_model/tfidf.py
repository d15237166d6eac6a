"""TF-IDF of words and of pieces of words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coldframe.methods.without_model.base import scikit_learn
from coldframe.storage.files import write_text
from coldframe.storage.tensors import reading
from coldframe.tasks.task import Domain

VOCABULARY = "vocabulary.json"
#: Words and pairs of words, where marks are words too, so that no text is without any; pieces of 2 to 4 characters.
_KINDS: tuple[dict[str, Any], ...] = (
    {"analyzer": "word", "ngram_range": (1, 2), "token_pattern": r"(?u)\w+|[^\w\s]"},
    {"analyzer": "char_wb", "ngram_range": (2, 4)},
)


class TfIdf:
    """Texts as sparse rows ``(1 + log n_t) (1 + log((1 + N) / (1 + N_t)))`` of the terms t they have n_t times.

    ``N_t`` of the N training texts have the term. Words and pieces have unit length each. Needs scikit-learn.

    Args:
        domain: In molecules small and large letters differ.
    """

    def __init__(self, domain: Domain) -> None:
        self._common = {"sublinear_tf": True, "lowercase": domain != "molecules", "dtype": np.float32}
        self._vectorizers: list[Any] = []

    def fit(self, texts: Sequence[str]) -> None:
        """Count the terms of training texts."""
        with scikit_learn():
            from sklearn.feature_extraction.text import TfidfVectorizer
        self._vectorizers = [TfidfVectorizer(**self._common, **kind).fit(texts) for kind in _KINDS]

    def __call__(self, texts: Sequence[str]) -> Any:
        """Rows, ``[n, terms]``."""
        from scipy.sparse import hstack

        return hstack([vectorizer.transform(texts) for vectorizer in self._vectorizers], format="csr")

    def save(self, folder: Path) -> str:
        """Write terms and their weights; returns the name of the file."""
        kinds = [
            {"terms": vectorizer.get_feature_names_out().tolist(), "idf": vectorizer.idf_.tolist()}
            for vectorizer in self._vectorizers
        ]
        write_text(folder / VOCABULARY, json.dumps(kinds, ensure_ascii=False))
        return VOCABULARY

    def load(self, path: Path) -> None:
        """Read what :meth:`save` wrote.

        Raises:
            ArtifactError: It is damaged.
        """
        with scikit_learn():
            from sklearn.feature_extraction.text import TfidfVectorizer
        self._vectorizers = []
        with reading(path, fix="Fit again."):
            for kind, values in zip(_KINDS, json.loads(path.read_text(encoding="utf-8")), strict=True):
                vectorizer = TfidfVectorizer(**self._common, **kind, vocabulary=[str(t) for t in values["terms"]])
                vectorizer.idf_ = np.array(values["idf"], np.float32)
                self._vectorizers.append(vectorizer)
