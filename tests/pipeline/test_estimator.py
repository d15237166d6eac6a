"""ColdframeClassifier keeps scikit-learn's rules, as far as they can hold for texts."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks as checks
from sklearn.utils.estimator_checks import estimator_checks_generator
from tests.tiny import tiny

from coldframe import ColdframeClassifier, load
from coldframe.errors import ConfigError, DataError
from coldframe.frozen.model import FrozenLM

LM = FrozenLM(*tiny("llama"))
QUICK: dict[str, Any] = {
    "method": "prompt-tuning",
    "model": LM,
    "method_settings": {"tokens": 2},
    "training": {"epochs": 1, "batch_size": 64},
    "instruction": "",
}
TEXTS = [f"item {i} is {'rose' if i % 3 else 'leaf'}" for i in range(24)]
NAMES = ["red" if i % 3 else "green" for i in range(24)]


def classifier(**changes: Any) -> ColdframeClassifier:
    return ColdframeClassifier(**{**QUICK, **changes})


# ---- scikit-learn's own checks --------------------------------------------------------------------------


def generated() -> list[Any]:
    """scikit-learn's own choice of checks, named without the address of a model (test processes must agree)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the generator says that it stops at text input
        found = [
            (name, pair)
            for name, made in (("default", ColdframeClassifier()), ("quick", classifier()))
            for pair in estimator_checks_generator(made)
        ]
    return [pytest.param(*pair, id=f"{name}-{getattr(pair[1], 'func', pair[1]).__name__}") for name, pair in found]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")  # the generator stops at text input
@pytest.mark.parametrize(("estimator", "check"), generated())
def test_generated_checks(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


@pytest.mark.parametrize(
    "check",
    [
        checks.check_estimator_cloneable,
        checks.check_estimator_tags_renamed,
        checks.check_valid_tag_types,
        checks.check_estimator_repr,
        checks.check_no_attributes_set_in_init,
        checks.check_do_not_raise_errors_in_init_or_set_params,
        checks.check_mixin_order,
        checks.check_parameters_default_constructible,
        checks.check_get_params_invariance,
        checks.check_set_params,
    ],
    ids=lambda check: check.__name__,
)
def test_checks_that_need_no_rows(check: Callable[[str, Any], None]) -> None:
    check("ColdframeClassifier", classifier())


def spelled(X: Any) -> Any:
    """Rows of numbers as texts."""
    return np.array([" ".join(f"{value:.2f}" for value in np.atleast_1d(row)) for row in np.asarray(X)], dtype=object)


class OfNumbers(ColdframeClassifier):
    """Reads rows of numbers aloud: with it the checks whose rows are numbers can be run, and only with it."""

    def fit(self, X: Any, y: Any) -> Self:
        from sklearn.utils.validation import validate_data

        if y is None:
            return super().fit(["a"], y)
        X, y = validate_data(self, X, y, multi_output=False)
        return super().fit(spelled(X), y)

    def predict_proba(self, X: Any) -> Any:
        from sklearn.utils.validation import check_is_fitted, validate_data

        check_is_fitted(self)
        return super().predict_proba(spelled(validate_data(self, X, reset=False)))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.one_d_array, tags.input_tags.string = True, False, False
        tags.no_validation = False
        tags.classifier_tags.poor_score = True  # a tiny random model
        return tags


EXPECTED = {
    "check_methods_subset_invariance": "asks for 1e-7, and float32 sums depend on the batch; tests/contract bounds it"
}


def of_numbers() -> list[Any]:
    found = []
    # By name, because reading texts fills the cache of a model that is passed; untrained, because it is quicker.
    untrained = {"model": "tiny", "method": "zero-shot", "instruction": ""}
    for estimator, check in estimator_checks_generator(OfNumbers(**untrained), legacy=True):
        name = checks._check_name(check)
        marks = [pytest.mark.xfail(reason=EXPECTED[name], strict=True)] if name in EXPECTED else []
        found.append(pytest.param(estimator, check, id=name, marks=marks))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("estimator", "check"), of_numbers())
def test_checks_on_rows(estimator: Any, check: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coldframe.pipeline.estimator._loaded", lambda name: LM)
    check(estimator)


# ---- what it does ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [NAMES, [name == "red" for name in NAMES], [3 if name == "red" else 12 for name in NAMES], [2.0, 1.0] * 12],
    ids=["strings", "booleans", "numbers", "floats"],
)
def test_probabilities_follow_classes(labels: list[Any]) -> None:
    fitted = classifier().fit(TEXTS, labels)
    assert fitted.classes_.tolist() == sorted(set(labels))
    found = fitted.predict_proba(TEXTS[:5])
    assert found.shape == (5, 2) and np.allclose(found.sum(axis=1), 1)
    assert fitted.predict(TEXTS[:5]).tolist() == [fitted.classes_[i] for i in found.argmax(axis=1)]
    # The label that the pipeline itself names, whatever order it keeps labels in.
    assert fitted.pipeline_.predict(TEXTS[:5]) == [str(label) for label in fitted.predict(TEXTS[:5])]
    assert 0 <= fitted.score(TEXTS, labels) <= 1


def test_fitting_again_gives_the_same() -> None:
    ours = classifier()
    first = ours.fit(TEXTS, NAMES).predict_proba(TEXTS)
    np.testing.assert_array_equal(ours.fit(TEXTS, NAMES).predict_proba(TEXTS), first)
    other = classifier(random_state=1).fit(TEXTS, NAMES).predict_proba(TEXTS)
    assert not np.array_equal(other, first)


def test_it_saves_what_load_reads(tmp_path: Path) -> None:
    fitted = classifier().fit(TEXTS, NAMES)
    fitted.save_pretrained(tmp_path)
    again = load(tmp_path, LM)
    np.testing.assert_array_equal(again.predict_proba(TEXTS), fitted.predict_proba(TEXTS))


@pytest.mark.slow
def test_clones_share_the_frozen_model_and_grid_search_works() -> None:
    ours = classifier()
    assert clone(ours).model is LM and clone(ours) is not ours
    grid = GridSearchCV(ours, {"method_settings": [{"tokens": 1}, {"tokens": 2}]}, cv=2, error_score="raise")
    grid.fit(TEXTS, NAMES)
    assert grid.best_params_["method_settings"] in ({"tokens": 1}, {"tokens": 2})
    assert len(cross_val_predict(ours, TEXTS, NAMES, cv=2)) == len(TEXTS)


def test_it_ends_a_pipeline_and_takes_columns() -> None:
    lower = FunctionTransformer(lambda X: [text.lower() for text in X])
    fitted = make_pipeline(lower, classifier(method="icl", method_settings={"k": 2}, retrieval={"similarity": "bm25"}))
    assert set(fitted.fit(TEXTS, NAMES).predict(TEXTS[:3])) <= {"red", "green"}
    column = np.array(TEXTS, dtype=object)[:, None]
    classifier().fit(column, NAMES).predict(column[:2])


def test_molecules_are_canonicalised() -> None:
    smiles = ["CCO", "CCN", "CCC", "c1ccccc1", "CCCO", "CCCN", "CCCC", "CCOC", "C1CCCCC1", "CCCCN"]
    labels = ["O" in text for text in smiles]
    ours = classifier(method="icl", method_settings={"k": 2}, domain="molecules", validation_size=0)
    found = ours.fit(smiles, labels).predict_proba(["OCC", "CCO"])
    np.testing.assert_array_equal(found[0], found[1])


def test_bad_input_is_told() -> None:
    with pytest.raises(NotFittedError):
        classifier().predict(TEXTS)
    cases: list[tuple[Any, Any, str]] = [
        (TEXTS, None, "y to be passed"),
        (TEXTS, NAMES[:-1], "differ in length"),
        ("one text", ["red"], "one text"),
        ([["a", "b"]], ["red"], r"shape \(1, 2\)"),
        ([*TEXTS[:-1], 3.0], NAMES, "row 24"),
        ([*TEXTS[:-1], " "], NAMES, "row 24"),
        (TEXTS, ["red"] * 24, "one class"),
        ([], [], "0 sample"),
    ]
    for X, y, message in cases:
        with pytest.raises(ValueError, match=message):
            classifier().fit(X, y)
    with pytest.raises(DataError, match="Query 2 is empty"):
        classifier().fit(TEXTS, NAMES).predict(["a", " "])
    with pytest.raises(DataError, match="X is one text"):
        classifier().fit(TEXTS, NAMES).predict("a text")
    with pytest.raises(ConfigError, match=re.escape("Did you mean 'tokens'?")):
        classifier(method_settings={"token": 2}).fit(TEXTS, NAMES)
