"""Logistic regression on the encoder's vectors, or on words and pieces of words."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor

from coldframe.methods.base import WEIGHTS
from coldframe.methods.config import MethodContext
from coldframe.methods.search_space import Choices, Floats, SearchSpace
from coldframe.methods.without_model.learner import Learner, LearnerConfig, Rows
from coldframe.methods.without_model.logistic import STRENGTHS, USUAL_STRENGTH, LogisticLayer
from coldframe.methods.without_model.tfidf import VOCABULARY, TfIdf
from coldframe.storage.artifact import Artifact
from coldframe.storage.tensors import read_tensors, reading


@dataclasses.dataclass(frozen=True)
class LogisticRegressionConfig(LearnerConfig):
    """Settings of the logistic regression.

    Args:
        c: Inverse strength of the penalty, above 0; left out, 0.01, 0.1, 1 or 10 (with TF-IDF ten times as much),
            whichever does best on the validation rows.
        features: The encoder's vectors, or the TF-IDF of words and of pieces of words (``"tfidf"``), for which no
            encoder is loaded.
    """

    section = "logistic regression settings"
    above = {"c": 0}

    c: float | None = None
    features: Literal["vectors", "tfidf"] = "vectors"


class LogisticRegression(Learner):
    """Logistic regression: ``p(y | x) = softmax(W f(x) + b)_y`` with ``f`` the encoder's vectors or TF-IDF.

    ``W`` is small in the sense of ``|W|^2 / (2 c)``. Vectors are scaled by the largest absolute value of each feature,
    which leaves bits as they are. TF-IDF is that of words and pairs of words, and of 2 to 4 characters within words,
    each with ``1 + log(count)`` and scaled to unit length; no case is told from another, but in molecules.

    Paper: Cox 1958; TF-IDF: Salton and Buckley 1988.

    Cost:
        ``labels x width`` parameters, fitted in seconds; one encoded text a query. Needs scikit-learn (extra
        ``train``), with vectors only to be fitted.

    Example:
        >>> LogisticRegression(c=1.0, features="tfidf")
        LogisticRegression(c=1.0, features='tfidf')
    """

    name: ClassVar[str] = "logistic-regression"
    paper: ClassVar[str] = "Cox 1958"
    config_class = LogisticRegressionConfig
    config: LogisticRegressionConfig
    uses_seed: ClassVar[bool] = False
    open_setting: ClassVar[str] = "c"
    tried: ClassVar[tuple[Any, ...]] = STRENGTHS
    usual: ClassVar[Any] = USUAL_STRENGTH
    search_space: ClassVar[SearchSpace] = {"c": Floats(1e-3, 1e2), "features": Choices(("vectors", "tfidf"))}

    def build(self, context: MethodContext) -> None:
        """The layer, whose width is known once there are features."""
        self.layer = LogisticLayer(len(context.schema.labels), 0)
        self.words = TfIdf(context.schema.domain) if self.config.features == "tfidf" else None

    @property
    def trained_parameters(self) -> int:
        """Weights and biases."""
        return self.layer.weight.numel() + self.layer.bias.numel()

    @property
    def values(self) -> Sequence[float]:
        """The strengths that are tried: rows of TF-IDF are short, and want less of a penalty."""
        return STRENGTHS if self.words is None else [10 * strength for strength in STRENGTHS]

    def prepare(self, texts: Sequence[str]) -> None:
        """Count words, for TF-IDF."""
        if self.words is not None:
            self.words.fit(texts)

    def features(self, texts: Sequence[str]) -> Any:
        """Vectors or TF-IDF, ``[n, width]``."""
        return super().features(texts) if self.words is None else self.words(texts)

    def learn(self, rows: Rows) -> None:
        """Fit the layer."""
        self.layer = LogisticLayer(len(self.ready.schema.labels), rows.features.shape[1])
        assert self.config.c is not None  # chosen before
        self.layer.fit(rows.features, rows.targets, self.config.c, rows.balanced, scaled=self.words is None)

    def scores_of(self, features: Any) -> Tensor:
        """Scores of the layer."""
        scores: Tensor = self.layer(features)
        return scores

    def save(self, folder: Path) -> list[str]:
        """The layer, and the vocabulary of TF-IDF."""
        names = super().save(folder)
        return names if self.words is None else [*names, self.words.save(folder)]

    def load(self, artifact: Artifact) -> None:
        """What :meth:`save` wrote."""
        path = artifact / WEIGHTS
        with reading(path, fix="Fit again."):
            width = read_tensors(path, fix="Fit again.")[0]["layer.weight"].shape[1]
        self.layer = LogisticLayer(len(self.ready.schema.labels), width)
        super().load(artifact)
        if self.words is not None:
            self.words.load(artifact / VOCABULARY)
