"""Controls without a language model: what the retriever's own features are worth.

If an adapted model does not beat these, the model was not needed. They see what the method sees: the same training
rows, features and neighbours. All decide by the most probable label; instead of a tuned threshold the classifiers have
balanced class weights.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coldframe.config import check
from coldframe.errors import DataError, MissingExtraError
from coldframe.inference.predictions import Predictions
from coldframe.retrieval.encoders import default_encoder, load_encoder
from coldframe.retrieval.retriever import RetrievalConfig, Retriever
from coldframe.retrieval.store import Retrieved, Store
from coldframe.tasks.metrics import METRICS
from coldframe.tasks.task import Example, Schema, Task

REGULARISATION = (0.01, 0.1, 1.0, 10.0)
LEAVES = (1, 2, 5)
TREES = 300
VOTERS = 5
_PURPOSE = "A control without a language model"


@dataclasses.dataclass(frozen=True)
class ControlData:
    """What the controls learn from and answer.

    Attributes:
        schema: The task's schema; classification only.
        train: Rows to learn from.
        validation: Rows to choose settings on; may be empty, then the defaults are taken.
        test: The queries.
        features: The encoder's vectors of train, validation and test, each ``[rows, dim]``.
        retrieved: Neighbours of the test queries among the training rows.
    """

    schema: Schema
    train: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example]
    features: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
    retrieved: Retrieved

    def __post_init__(self) -> None:
        check(self.schema.kind == "classification", "Controls need labels", got=self.schema.kind)
        rows = (len(self.train), len(self.validation), len(self.test))
        if tuple(len(x) for x in self.features) != rows or len(self.retrieved) != len(self.test):
            raise DataError(
                "Features and neighbours do not belong to these rows",
                got=(*(len(x) for x in self.features), len(self.retrieved)),
                expected=(*rows, rows[2]),
            )

    def targets(self, examples: Sequence[Example]) -> NDArray[np.int64]:
        """Label positions, ``[rows]``."""
        return np.array([self.schema.index(example.target) for example in examples], np.int64)

    @property
    def positive(self) -> int | None:
        """Position of the positive label."""
        return None if self.schema.positive is None else self.schema.index(self.schema.positive)

    def predictions(
        self, method: str, seed: int, probabilities: NDArray[np.float64], retrieved: Retrieved, seconds: float
    ) -> Predictions:
        """Wrap probabilities of the test rows, ``[test, labels]``."""
        ids = np.array([example.id for example in retrieved.store.examples] + [""])  # position -1: no neighbour
        return Predictions(
            method=method,
            seed=seed,
            task=self.schema.name,
            ids=tuple(example.id for example in self.test),
            texts=tuple(example.text for example in self.test),
            labels=self.schema.labels,
            targets=self.targets(self.test),
            probabilities=probabilities,
            neighbours=ids[retrieved.indices],
            similarities=retrieved.scores,
            seconds=seconds,
        )


def control_data(task: Task, retrieval: RetrievalConfig, encoder: str = "auto") -> ControlData:
    """What a method has of a task: the vectors of all rows by an encoder, and the nearest neighbours in its store."""
    domain = task.schema.domain
    reader = load_encoder(default_encoder(domain) if encoder == "auto" else encoder)
    store = Store.of(task.exemplars)
    retriever = Retriever(store, domain, min(VOTERS, len(store)), retrieval.replace(strategy="top"))
    train, validation, test = (
        reader.encode([example.text for example in part]) if part else np.zeros((0, reader.dim), np.float32)
        for part in (task.train, task.validation, task.test)
    )
    return ControlData(
        schema=task.schema,
        train=task.train,
        validation=task.validation,
        test=task.test,
        features=(train, validation, test),
        retrieved=retriever.retrieve(task.test, exclude_same_key=False),
    )


def nearest_neighbours(data: ControlData, k: int, *, weighted: bool = False) -> Predictions:
    """The k nearest training rows vote.

    p(label) = sum of w_j over the neighbours with that label / sum of w_j,   w_j = 1 or max(similarity_j, 0)

    A tie goes to the label of the nearest neighbour (by a share of 1e-9, so that the probabilities say so too). With
    similarity 0 to all of them, every neighbour counts alike; without a neighbour the labels' shares in training count.

    Args:
        data: What to learn from and answer.
        k: Voters, at least 1 and at most what was retrieved.
        weighted: Weigh votes by similarity.
    """
    most = data.retrieved.k
    check(1 <= k <= most, "k is not among the neighbours retrieved", got=k, expected=f"1 to {most}")
    start, near = time.perf_counter(), data.retrieved.top(k)
    store_targets = data.targets(near.store.examples)
    present = near.indices >= 0
    weights = np.where(present, np.maximum(near.scores, 0) if weighted else 1.0, 0.0).astype(np.float64)
    weights = np.where(weights.sum(axis=1, keepdims=True) > 0, weights, present)
    voters = np.where(present, store_targets[near.indices], -1)
    one_hot = voters[:, :, None] == np.arange(len(data.schema.labels))  # [n, k, labels]
    votes = (one_hot * weights[:, :, None]).sum(axis=1)
    prior = np.bincount(store_targets, minlength=len(data.schema.labels)) / len(store_targets)
    total = votes.sum(axis=1, keepdims=True)
    shares = np.where(total > 0, votes / np.where(total > 0, total, 1), prior)
    tied = shares >= shares.max(axis=1, keepdims=True) - 1e-12
    # Neighbours come nearest first, so the first one with a tied label is the nearest.
    rows = np.arange(len(near))
    leads = present & tied[rows[:, None], np.maximum(voters, 0)]
    winner = voters[rows, leads.argmax(axis=1)]
    shares[rows[leads.any(axis=1)], winner[leads.any(axis=1)]] += 1e-9
    shares /= shares.sum(axis=1, keepdims=True)
    name = f"{k}-NN vote" + (" (weighted)" if weighted else "")
    return data.predictions(name, 0, shares, near, time.perf_counter() - start)


def logistic_regression(data: ControlData, seed: int = 0) -> Predictions:
    """Logistic regression with balanced classes; C out of ``REGULARISATION`` by the validation score.

    Features are scaled by their largest absolute value, which leaves bits as they are.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import MaxAbsScaler
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "train", _PURPOSE) from error

    def make(strength: float) -> Any:
        model = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000, random_state=seed)
        return make_pipeline(MaxAbsScaler(), model)

    return _tuned(data, "logistic regression", make, REGULARISATION, default=1.0, seed=seed)


def random_forest(data: ControlData, seed: int = 0) -> Predictions:
    """A forest of ``TREES`` trees with balanced classes; leaf size out of ``LEAVES`` by the validation score."""
    try:
        from sklearn.ensemble import RandomForestClassifier
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "train", _PURPOSE) from error

    def make(leaf: int) -> Any:
        return RandomForestClassifier(
            TREES, min_samples_leaf=leaf, class_weight="balanced", random_state=seed, n_jobs=-1
        )

    return _tuned(data, "random forest", make, LEAVES, default=1, seed=seed)


def _tuned(
    data: ControlData, name: str, make: Callable[[Any], Any], settings: Sequence[Any], *, default: Any, seed: int
) -> Predictions:
    """Answers of the setting that is best on validation, fitted to train and validation: a method's store has both."""
    start = time.perf_counter()
    train, validation, test = (_compact(x) for x in data.features)
    targets, held_out = data.targets(data.train), data.targets(data.validation)
    metric = METRICS[data.schema.metric]
    if len(np.unique(targets)) < 2:
        raise DataError(f"The control {name!r} needs training rows of at least two labels", got="one label")
    sign = 1 if metric.greater_is_better else -1
    best, best_score = default, -np.inf
    for setting in settings if len(held_out) else ():
        model = make(setting).fit(train, targets)
        score = sign * metric.score(held_out, _probabilities(model, validation, data), data.positive)
        if score > best_score:  # a score that is not defined (NaN) is never larger
            best, best_score = setting, score
    everything = _compact(np.concatenate(data.features[:2]))
    model = make(best).fit(everything, np.concatenate([targets, held_out]))
    probabilities, nothing = _probabilities(model, test, data), Retrieved.nothing(data.retrieved.store, len(data.test))
    return data.predictions(name, seed, probabilities, nothing, time.perf_counter() - start)


def _compact(features: NDArray[np.float32]) -> Any:
    """Fingerprints as a sparse matrix, which scikit-learn handles many times faster; the rest as it is."""
    from scipy.sparse import csr_array

    return csr_array(features) if features.size and np.count_nonzero(features) < 0.1 * features.size else features


def _probabilities(model: Any, features: Any, data: ControlData) -> NDArray[np.float64]:
    """Probabilities over all labels of the task; 0 for one that training did not have."""
    if hasattr(model, "n_jobs"):
        model.n_jobs = 1  # several threads add up the trees in any order, and sums of floats depend on it
    probabilities = np.zeros((features.shape[0], len(data.schema.labels)))
    probabilities[:, model.classes_] = model.predict_proba(features)
    return probabilities


def all_controls(data: ControlData, *, k: int = VOTERS, seeds: Sequence[int] = (0,)) -> dict[str, list[Predictions]]:
    """Every control, by name; one run per seed where the seed matters (the forest).

    Args:
        data: What to learn from and answer.
        k: Voters of the K-NN votes, cut to what was retrieved.
        seeds: Seeds of the forest.
    """
    k = min(k, data.retrieved.k)
    runs = [[nearest_neighbours(data, 1)]] if k >= 1 else []
    runs += [[nearest_neighbours(data, k)], [nearest_neighbours(data, k, weighted=True)]] if k > 1 else []
    runs += [[logistic_regression(data)], [random_forest(data, seed) for seed in seeds]]
    return {seeds_of[0].method: seeds_of for seeds_of in runs}
