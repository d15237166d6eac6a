"""Classifiers as methods: the answers they always gave, choices on validation rows alone, files without a pickle."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contract.cases import lm_of
from tests.methods.without_model.support import noisy_task

from coldframe.errors import ArtifactError, ConfigError, DataError, MissingExtraError
from coldframe.methods.registry import create
from coldframe.pipeline.fit import fit
from coldframe.pipeline.pipeline import Pipeline, load
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.tasks.task import Schema, Task

TASK = noisy_task()
CLASSIFIERS = {
    "logistic-regression": {"encoder": "tiny"},
    "random-forest": {"encoder": "tiny", "trees": 20},
    "gradient-boosting": {"encoder": "tiny", "leaf": 3},
}
NAMES = pytest.mark.parametrize("name", CLASSIFIERS)


def fitted(name: str, on: Task = TASK, seed: int = 0, training: Any = None, **settings: Any) -> Pipeline:
    method = create(name, {**CLASSIFIERS.get(name, {}), **settings})
    config = {"seed": seed, **(training or {})}
    return fit(method, None, on, retrieval=RetrievalConfig(encoder="tiny"), training=config, quiet=True)


# What the controls of a comparison answered when they were no methods yet: the most probable label of each test row,
# and the probabilities of the first two rows.
ANSWERS: dict[str, tuple[str, dict[str, Any], str, list[list[float]]]] = {
    "1-NN vote": ("knn", {"k": 1}, "caaacbac", [[0, 0, 1], [1, 0, 0]]),
    "5-NN vote": ("knn", {"k": 5}, "caabcbaa", [[0, 0.4, 0.6], [1, 0, 0]]),
    "5-NN vote (weighted)": (
        "knn",
        {"k": 5, "weights": "similarity"},
        "caabcbaa",
        [[0, 0.3883, 0.6117], [1, 0, 0]],
    ),
    "logistic regression": (
        "logistic-regression",
        {},
        "caabcbaa",
        [[0.2379, 0.1934, 0.5687], [0.9264, 0.0426, 0.0309]],
    ),
    "random forest": (
        "random-forest",
        {"trees": 300},
        "caabcbaa"[:4] + "abaa",
        [[0.2935, 0.2791, 0.4274], [0.9189, 0.0281, 0.0531]],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("title", ANSWERS)
def test_answers_are_those_that_the_controls_gave(title: str) -> None:
    name, settings, answers, first = ANSWERS[title]
    pipeline = fitted(name, **settings)
    probabilities = pipeline.predictions(TASK.test).probabilities
    assert "".join(TASK.schema.labels[i] for i in probabilities.argmax(1)) == answers
    np.testing.assert_allclose(probabilities[:2], first, atol=6e-5)


@pytest.mark.slow
@NAMES
def test_it_learns_and_the_same_seed_gives_the_same(name: str) -> None:
    first, again = (fitted(name).predictions(TASK.test) for _ in range(2))
    np.testing.assert_array_equal(first.probabilities, again.probabilities)
    assert np.mean(first.probabilities.argmax(1) == first.targets) > 0.6
    other = fitted(name, seed=1).predictions(TASK.test).probabilities
    assert np.array_equal(other, first.probabilities) != create(name).uses_seed


@pytest.mark.slow
@NAMES
def test_its_open_setting_is_chosen_on_validation_rows_and_not_on_test_rows(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation labels that go round turn the choice round; test labels that do so turn nothing."""
    method = type(create(name))
    two = {"logistic-regression": (0.001, 10.0), "random-forest": (1, 30), "gradient-boosting": (1, 10)}[name]
    monkeypatch.setattr(method, "values", property(lambda self: two))

    def round_about(rows: Any) -> Any:
        return tuple(dataclasses.replace(row, target="bca"["abc".index(row.target)]) for row in rows)

    setting = method.open_setting  # type: ignore[attr-defined]
    on = dataclasses.replace(TASK, schema=TASK.schema.replace(metric="log_loss"))
    right = getattr(fitted(name, on).method.config, setting)
    poisoned = dataclasses.replace(on, test=round_about(TASK.test))
    assert getattr(fitted(name, poisoned).method.config, setting) == right
    turned = dataclasses.replace(on, validation=round_about(TASK.validation))
    assert getattr(fitted(name, turned).method.config, setting) != right


@NAMES
def test_without_validation_rows_the_usual_setting_is_taken(name: str) -> None:
    method = fitted(name, dataclasses.replace(TASK, validation=())).method
    assert getattr(method.config, method.open_setting) == method.usual  # type: ignore[attr-defined]


@NAMES
def test_classes_are_weighed_as_training_weighs_them(name: str) -> None:
    rare = dataclasses.replace(TASK.schema, metric="accuracy")
    plain = dataclasses.replace(TASK, schema=rare)
    own = {create(name).open_setting: 1}  # type: ignore[attr-defined]
    by_metric, by_hand = fitted(name, **own), fitted(name, plain, training={"class_weights": True}, **own)
    alike = fitted(name, plain, **own)
    weighed, hand, unweighed = (p.predictions(TASK.test).probabilities for p in (by_metric, by_hand, alike))
    np.testing.assert_array_equal(weighed, hand)
    assert not np.allclose(weighed, unweighed)


@pytest.mark.slow
@NAMES
def test_a_label_that_training_lacks_gets_zero(name: str) -> None:
    def without(rows: Any) -> Any:
        return tuple(row for row in rows if row.target != "b")

    on = dataclasses.replace(TASK, train=without(TASK.train), validation=without(TASK.validation))
    probabilities = fitted(name, on).predictions(TASK.test).probabilities
    assert np.all(probabilities[:, 1] == 0) and np.allclose(probabilities.sum(axis=1), 1)


@NAMES
def test_one_label_is_told(name: str) -> None:
    alone = tuple(dataclasses.replace(row, target="a") for row in TASK.train)
    with pytest.raises(DataError, match="at least two labels"):
        fitted(name, dataclasses.replace(TASK, train=alone))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, {}) for name in CLASSIFIERS),
        ("logistic-regression", {"features": "tfidf"}),
        ("knn", {"k": 3}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_it_comes_back_from_a_folder_without_a_pickle_and_without_a_model(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    pipeline = fitted(name, **settings)
    pipeline.save_pretrained(tmp_path)
    again = load(tmp_path)
    texts = [row.text for row in TASK.test]
    np.testing.assert_array_equal(again.predict_proba(texts), pipeline.predict_proba(texts))
    assert again.method.config == pipeline.method.config  # with what was chosen
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".jsonl", ".safetensors", ".md"}
    assert bool((tmp_path / "exemplars.jsonl").read_text()) == (name == "knn"), "rows only where they vote"
    card = (tmp_path / "README.md").read_text()
    assert f"{name}, fitted without a language model by coldframe" in card and "base model" not in card
    with pytest.raises(ConfigError, match="no language model"):
        _ = again.lm.d_model


def test_trees_that_do_not_fit_the_artifact_are_refused(tmp_path: Path) -> None:
    from coldframe.methods.without_model.trees import Trees

    pipeline = fitted("random-forest", trees=2)
    trees = pipeline.method.trees
    assert isinstance(trees, Trees)
    trees.feature[trees.left >= 0] = 999
    pipeline.save_pretrained(tmp_path)
    with pytest.raises(ArtifactError, match="no trees over this encoder's vectors"):
        load(tmp_path)


@pytest.mark.parametrize("name", [*CLASSIFIERS, "knn", "encoder-head", "setfit", "mha-esp-head"])
def test_nothing_but_labels_can_be_answered(name: str) -> None:
    says = dataclasses.replace(TASK, schema=Schema("say", "generation", metric="token_f1"))
    lm = lm_of("llama") if create(name).needs_model else None
    with pytest.raises(ConfigError, match=f"{name} chooses among labels and has no language model to write with"):
        fit(create(name, CLASSIFIERS.get(name)), lm, says, quiet=True)


def test_a_method_that_adapts_a_model_asks_for_one() -> None:
    with pytest.raises(ConfigError, match="prompt-tuning adapts a language model, and none was given"):
        fit(create("prompt-tuning"), None, TASK, quiet=True)


def test_it_is_no_part_of_a_composition() -> None:
    with pytest.raises(ConfigError, match="knn scores the labels itself"):
        create("icl+knn")


@NAMES
def test_without_scikit_learn_the_error_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("sklearn.linear_model", "sklearn.ensemble", "sklearn.preprocessing"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"coldframe\[train\]"):
        fitted(name)
