"""coldframe as a scikit-learn classifier of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coldframe.errors import DataError, MissingExtraError
from coldframe.frozen.model import FrozenLM, load_lm
from coldframe.methods.registry import create
from coldframe.pipeline.calibration import Calibration
from coldframe.pipeline.fit import fit
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.tasks import infer
from coldframe.tasks.columns import Columns
from coldframe.tasks.examples import ExampleReader
from coldframe.tasks.options import TaskConfig
from coldframe.tasks.splits import stratified_split
from coldframe.tasks.table import Problems, Row, Table
from coldframe.tasks.task import Domain, Schema, Task

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, clone
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, column_or_1d
except ImportError as error:
    raise MissingExtraError("scikit-learn", "train", "ColdframeClassifier") from error

#: Loading takes seconds, and what one frozen model has read serves every fit of a grid search.
_loaded = lru_cache(maxsize=1)(load_lm)


class ColdframeClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A frozen language model, adapted by ``fit``, as a scikit-learn classifier.

    ``X`` is one text (or SMILES) for each row. The rows passed to ``fit`` become the exemplar store; a share of
    them is held out to choose the epoch by, and joins the store afterwards.

    Args:
        method: A name of ``coldframe methods``.
        model: A model's name, or a ``FrozenLM`` that is loaded already (clones share it).
        method_settings: Settings of the method.
        training: Settings of the training loop.
        retrieval: How exemplars are found.
        domain: ``"molecules"`` for SMILES: canonicalised, compared without stereo, fingerprints as vectors.
        template: Body of the prompt with ``{text}``.
        instruction: Said once before everything; None lists the answer words, ``""`` says nothing.
        words: Answer word of a class that should not answer with its own name.
        metric: What the epoch is chosen by; None takes effective accuracy for two classes, else accuracy.
        validation_size: Share (or number) of rows held out for choices; 0 for none.
        calibrate: How the labels' scores are corrected: ``"contextual"``, ``"batch"``, ``"prior"``, ``"validation"``
            or ``"none"``; see :meth:`coldframe.pipeline.pipeline.Pipeline.calibrate`.
        random_state: Of the split, the initialisation and the order.

    Attributes:
        classes_: The labels, sorted.
        pipeline_: The fitted :class:`coldframe.pipeline.pipeline.Pipeline`.

    Raises:
        MissingExtraError: scikit-learn is not installed (extra ``train``).

    Example:
        >>> from coldframe import ColdframeClassifier
        >>> classifier = ColdframeClassifier(method="icl", method_settings={"k": 3}, random_state=1)
        >>> classifier.get_params()["random_state"]
        1
        >>> classifier.fit(["fine day", "bad day"] * 20, ["good", "bad"] * 20).predict(["a day"])  # doctest: +SKIP
    """

    def __init__(
        self,
        method: str = "mha-esp",
        model: str | FrozenLM = "smollm2",
        *,
        method_settings: Mapping[str, Any] | None = None,
        training: Mapping[str, Any] | None = None,
        retrieval: Mapping[str, Any] | None = None,
        domain: Domain = "text",
        template: str | None = None,
        instruction: str | None = None,
        words: Mapping[str, str] | None = None,
        metric: str | None = None,
        validation_size: float = 0.15,
        calibrate: bool | Calibration = "none",
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.method = method
        self.model = model
        self.method_settings = method_settings
        self.training = training
        self.retrieval = retrieval
        self.domain = domain
        self.template = template
        self.instruction = instruction
        self.words = words
        self.metric = metric
        self.validation_size = validation_size
        self.calibrate = calibrate
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Adapt the model.

        Args:
            X: Texts, ``[n]``.
            y: Labels, ``[n]``: strings, numbers or booleans.

        Raises:
            DataError: A row cannot be used (empty, no SMILES), or the lengths differ.
            ConfigError: A setting is out of range, or K is larger than the rows.
        """
        if y is None:
            raise DataError("ColdframeClassifier requires y to be passed, but the target y is None")
        texts, labels = _texts(X), column_or_1d(y, warn=True)
        check_classification_targets(labels)
        if len(texts) != len(labels):
            raise DataError("X and y differ in length", got=f"{len(texts)} and {len(labels)} rows")
        seed = self.random_state
        if not isinstance(seed, (int, np.integer)):
            seed = int(check_random_state(seed).randint(2**31 - 1))
        self.classes_, places = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise DataError("A classifier needs at least two classes, and y has one class", got=str(self.classes_[0]))
        task = self._task(texts, [str(self.classes_[place]) for place in places], int(seed))
        # Columns of our probabilities in the order of classes_.
        self._columns = [task.schema.index(str(label)) for label in self.classes_]
        method = create(self.method, self.method_settings)
        lm = None
        if method.needs_model:
            lm = _loaded(self.model) if isinstance(self.model, str) else self.model
        self.pipeline_ = fit(
            method,
            lm,
            task,
            retrieval=RetrievalConfig.from_dict(self.retrieval or {}),
            training={"seed": int(seed), **(self.training or {})},
            calibrate=self.calibrate,
            quiet=True,
        )
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Label probabilities, ``[n, classes]``, columns in the order of ``classes_``."""
        check_is_fitted(self)
        return self.pipeline_.predict_proba(_texts(X))[:, self._columns]

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable label of each row."""
        check_is_fitted(self)
        labels: NDArray[Any] = self.classes_[self.predict_proba(X).argmax(axis=1)]
        return labels

    def save_pretrained(self, path: str | Path) -> None:
        """Write the artifact that ``coldframe.load`` and the command line read; do not pickle a model."""
        check_is_fitted(self)
        self.pipeline_.save_pretrained(path)

    def _task(self, texts: Sequence[str], targets: Sequence[str], seed: int) -> Task:
        words = None if self.words is None else {str(label): word for label, word in self.words.items()}
        config = TaskConfig(template=self.template, instruction=self.instruction, words=words)
        labels, answers, positive, _ = infer.labels(config, targets)
        schema = Schema(
            "data",
            "classification",
            self.domain,
            infer.template(config, "text", "label", "classification", answers),
            labels,
            answers,
            positive,
            self.metric or ("effective_accuracy" if len(labels) == 2 else "accuracy"),
        )
        rows = [Row(i, {"text": x, "label": y}) for i, (x, y) in enumerate(zip(texts, targets, strict=True), start=1)]
        reader = ExampleReader(self.domain, "classification")
        table, columns = Table("X", ("text", "label"), tuple(rows)), Columns(("text",), "label")
        examples = [example for example, _ in reader.read(table, columns, "x", Problems())]
        held = np.zeros(len(examples), bool)
        if self.validation_size:
            keys = [example.key for example in examples]
            held = stratified_split(keys, [example.target for example in examples], self.validation_size, seed)
        train = tuple(e for e, out in zip(examples, held, strict=True) if not out)
        return Task(schema, train, tuple(e for e, out in zip(examples, held, strict=True) if out), ())

    def __sklearn_clone__(self) -> Self:
        # A frozen model cannot change: clones share it, with all it has read, instead of copying gigabytes. They share
        # an encoder among the settings, too.
        params: dict[str, Any] = {
            name: value if name == "model" else dict(value) if isinstance(value, Mapping) else clone(value, safe=False)
            for name, value in self.get_params(deep=False).items()
        }
        return type(self)(**params)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.no_validation = True  # there are no features to count
        return tags


def _texts(X: ArrayLike) -> list[str]:
    """A one-dimensional array, list or column of texts."""
    if isinstance(X, (str, bytes)):
        raise DataError("X is one text", got=type(X).__name__, expected="a list of texts, one for each row")
    inputs = np.asarray(X, dtype=object)
    if inputs.ndim == 2 and inputs.shape[1] == 1:
        inputs = inputs[:, 0]
    if inputs.ndim != 1:
        raise DataError("X is not one text for each row", got=f"shape {inputs.shape}", expected="shape (n,)")
    if not len(inputs):
        raise DataError("Found array with 0 sample(s) while a minimum of 1 is required.")
    for row, text in enumerate(inputs, start=1):
        if not isinstance(text, str):
            raise DataError(f"X, row {row} is no text", got=repr(text)[:60], expected="str")
    return [str(text) for text in inputs]


__all__ = ["ColdframeClassifier"]
