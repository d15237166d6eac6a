"""Classifiers of scikit-learn as methods: a setting is chosen on the validation rows, then all rows are learned."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from coldframe.methods.config import MethodConfig
from coldframe.methods.training_set import Problem, TrainingData
from coldframe.methods.without_model.base import WithoutModel, check_labels
from coldframe.retrieval.encoder_objects import spec_of
from coldframe.retrieval.store import Retrieved
from coldframe.tasks.metrics import METRICS
from coldframe.tasks.task import Example


@dataclasses.dataclass(frozen=True)
class LearnerConfig(MethodConfig):
    """Settings of a classifier on the encoder's vectors.

    Args:
        encoder: Encoder of the inputs, as a spec of ``coldframe.retrieval``; ``"auto"`` takes the domain's default.
    """

    section = "classifier settings"
    plain = {"encoder": spec_of}

    encoder: str = "auto"


@dataclasses.dataclass(frozen=True)
class Rows:
    """Features ``[n, width]`` (dense or sparse) and label positions ``[n]``; whether labels count alike; the seed."""

    features: Any
    targets: NDArray[np.int64]
    balanced: bool
    seed: int


class Learner(WithoutModel):
    """A classifier that is fitted at once and not by steps.

    Its open setting, where it is None, is chosen by the task's metric on the validation rows. Then it is fitted to
    training and validation rows together, because the store of a method that retrieves has both. Where the settings of
    training weigh classes, so does it. What was chosen stands in ``config`` from then on.

    Class attributes:
        open_setting: The setting that is chosen.
        tried: Its values, the simplest first; of equals the first is taken.
        usual: Its value where there are no validation rows.
    """

    open_setting: ClassVar[str]
    tried: ClassVar[tuple[Any, ...]]
    usual: ClassVar[Any]

    config_class = LearnerConfig
    config: LearnerConfig
    uses_encoder: ClassVar[bool] = True
    learns_validation: ClassVar[bool] = True

    @abstractmethod
    def learn(self, rows: Rows) -> None:
        """Fit the classifier with the settings of ``config``."""

    @abstractmethod
    def scores_of(self, features: Any) -> Tensor:
        """Log-scores of the labels, ``[n, labels]``."""

    def features(self, texts: Sequence[str]) -> Any:
        """What the classifier sees of the inputs, ``[n, width]``."""
        return self.encoder.encode(list(texts))

    @property
    def values(self) -> Sequence[Any]:
        """The values of the open setting that are tried."""
        return self.tried

    def prepare(self, texts: Sequence[str]) -> None:
        """Whatever :meth:`features` has to know of the training texts."""

    def scores(self, texts: Sequence[str], retrieved: Retrieved) -> Tensor:
        """Log-scores of the labels, ``[batch, labels]``."""
        return self.scores_of(self.features(texts))

    def problems(self, data: TrainingData) -> Iterator[Problem]:
        """None for the training loop: it is fitted here, at once.

        Raises:
            DataError: The training rows have one label.
        """
        train, validation = data.train.items, data.validation.items
        balanced = bool(data.train.weights)
        check_labels(self.name, train)
        if getattr(self.config, self.open_setting) is None:
            self.config = self._with(self._best(train, validation, balanced, data.seed) if validation else self.usual)
        self.learn(self._rows((*train, *validation), balanced, data.seed, fresh=True))
        yield from ()

    def _with(self, value: Any) -> LearnerConfig:
        return self.config.replace(**{self.open_setting: value})

    def _best(self, train: Sequence[Example], validation: Sequence[Example], balanced: bool, seed: int) -> Any:
        """The value of the open setting that does best on the validation rows."""
        rows = self._rows(train, balanced, seed, fresh=True)
        held_out = self._rows(validation, balanced, seed)
        schema = self.ready.schema
        metric, positive = METRICS[schema.metric], schema.positive_index
        best, best_score = self.usual, -np.inf
        for value in self.values:
            self.config = self._with(value)
            self.learn(rows)
            score = metric.score(held_out.targets, self.scores_of(held_out.features).softmax(-1).numpy(), positive)
            score = score if metric.greater_is_better else -score
            if score > best_score:  # a score that is not defined (NaN) is never larger
                best, best_score = value, score
        return best

    def _rows(self, examples: Sequence[Example], balanced: bool, seed: int, fresh: bool = False) -> Rows:
        """Rows as the classifier sees them; ``fresh``: the features are made for these rows."""
        texts = [example.text for example in examples]
        if fresh:
            self.prepare(texts)
        targets = np.array(self.ready.schema.targets(examples), np.int64)
        return Rows(self.features(texts), targets, balanced, seed)
