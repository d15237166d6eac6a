"""Sets of labels: how often they hold the right one, what they are made from, and what an artifact keeps of them."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny import tiny

import coldframe as cf
from coldframe.errors import ArtifactError, ConfigError, DataError
from coldframe.frozen.model import FrozenLM
from coldframe.pipeline.conformal import CALIBRATION_ROWS, Conformal, Coverage, label_sets
from coldframe.storage import artifact as manifests
from coldframe.storage.artifact import MANIFEST
from coldframe.tasks.task import Example, Schema, Task, Template

from ..evaluation.support import make_predictions

LABELS = ("No", "Yes")
SCHEMA = Schema(
    "t", "classification", labels=LABELS, words=LABELS, template=Template("{text}: {label}"), metric="accuracy"
)
COVERAGES = st.sampled_from([0.5, 0.7, 0.8, 0.9, 0.95])


def rows(prefix: str, count: int) -> tuple[Example, ...]:
    """Rows whose labels have nothing to do with their texts."""
    rng = random.Random(prefix)
    names = [f"{prefix}{i:04}" for i in range(count)]
    return tuple(Example(f"{rng.choice('abcdef')} {name}", rng.choice(LABELS), name, name) for name in names)


@pytest.fixture
def lm() -> FrozenLM:
    return FrozenLM(*tiny("llama"))


@pytest.fixture
def task() -> Task:
    return Task(SCHEMA, rows("train", 60), rows("validation", 40), rows("test", 20))


# ---- coverage ---------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(COVERAGES, st.data())
def test_each_row_in_turn_is_covered_by_the_others_as_often_as_is_wanted(coverage: float, data: Any) -> None:
    """Exchangeable rows, each as often the new one: the theorem's own average, with and without ties."""
    places = st.integers(0, data.draw(st.sampled_from([3, 1000]), "different scores"))
    scores = np.array(data.draw(st.lists(places, min_size=20, max_size=60), "scores")) / 1000
    covered = [
        scores[i] <= Conformal({"x": np.delete(scores, i).tolist()}).limits(coverage)[0] for i in range(len(scores))
    ]
    assert np.mean(covered) >= coverage - 1e-9
    if len(set(scores.tolist())) == len(scores):
        assert np.mean(covered) <= coverage + 1 / len(scores)


@settings(deadline=None)
@given(COVERAGES, st.lists(st.integers(0, 20), min_size=19, max_size=40), st.integers(0, 20))
def test_a_label_is_in_the_set_unless_too_few_right_ones_were_as_unlikely(
    coverage: float, scores: list[int], score: int
) -> None:
    """The other form of the rule: its p-value is above 1 - c."""
    conformal = Conformal({"x": [value / 20 for value in scores]})
    p_value = (1 + sum(value >= score for value in scores)) / (len(scores) + 1)
    (labels,) = label_sets(["x"], np.array([[1 - score / 20]]), conformal.limits(coverage))
    assert bool(labels) == (p_value > 1 - coverage + 1e-9)


def test_by_class_each_label_has_rows_of_its_own() -> None:
    easy, hard = [i / 1000 for i in range(100)], [0.5 + i / 1000 for i in range(100)]
    conformal = Conformal({"No": easy, "Yes": hard})
    np.testing.assert_allclose(conformal.limits(0.8, by_class=True), [0.080, 0.580])
    np.testing.assert_allclose(conformal.limits(0.8), [0.560, 0.560])


@pytest.mark.parametrize(("coverage", "needed"), [(0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99)])
def test_too_few_rows_are_told_and_how_many_it_takes(coverage: float, needed: int) -> None:
    enough = Conformal({"No": [0.5] * needed, "Yes": [0.1] * needed})
    assert (enough.limits(coverage, by_class=True) == [0.5, 0.1]).all()
    few = Conformal({"No": [0.5] * needed, "Yes": [0.5] * (needed - 1)})
    with pytest.raises(ConfigError, match=f"of 'Yes' for a coverage of {coverage}.*Got: {needed - 1}.*least {needed}"):
        few.limits(coverage, by_class=True)
    with pytest.raises(ConfigError, match=f"too few validation rows for .*Got: {needed - 1}"):
        Conformal({"No": [0.5] * (needed - 1), "Yes": []}).limits(coverage)


@pytest.mark.parametrize("coverage", [0.0, 1.0, 90.0, -1.0, float("nan")])
def test_a_coverage_is_a_share(coverage: float) -> None:
    with pytest.raises(ConfigError, match="out of range"):
        Conformal({"x": [0.1] * 99}).limits(coverage)


def test_votes_that_are_equal_but_for_rounding_tie() -> None:
    limits = Conformal({"x": [round(1 - 0.8, 6)] * 9}).limits(0.9)
    assert label_sets(["x"], np.array([[sum([0.1] * 8)], [0.8]]), limits) == [("x",)] * 2


def test_what_is_said_of_sets() -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [0.45, 0.55]])
    predictions = make_predictions([0, 0, 1, 1], probabilities)
    sets = Coverage.of(predictions, np.array([0.5, 0.3]))
    assert label_sets(["a", "b"], probabilities, np.array([0.5, 0.3])) == [("a",), ("b",), ("a",), ()]
    assert (sets.right.value, sets.right.n, sets.size, sets.single, sets.empty) == (0.25, 4, 0.75, 0.75, 0.25)
    assert sets.single_right.value == pytest.approx(1 / 3) and sets.single_right.n == 3
    assert [interval.value for interval in sets.by_label.values()] == [0.5, 0.0]
    nothing = Coverage.of(predictions, np.array([0.0, 0.0]))
    assert nothing.empty == 1 and np.isnan(nothing.single_right.value)


# ---- a fitted pipeline --------------------------------------------------------------------------------------


def test_scores_are_kept_and_loaded(lm: FrozenLM, task: Task, tmp_path: Path) -> None:
    pipeline = cf.fit(cf.ZeroShot(), lm, task, out=tmp_path)
    texts = [row.text for row in task.validation]
    right = pipeline.predict_proba(texts)[np.arange(40), SCHEMA.targets(task.validation)]
    assert pipeline.conformal is not None
    kept = sorted([*pipeline.conformal.scores["No"], *pipeline.conformal.scores["Yes"]])
    np.testing.assert_allclose(kept, np.sort(1 - right), atol=1e-5)
    again = cf.load(tmp_path, lm)
    assert again.conformal == pipeline.conformal
    assert again.label_sets(texts, 0.8) == pipeline.label_sets(texts, 0.8)
    covered = [row.target in labels for row, labels in zip(task.validation, again.label_sets(texts, 0.8), strict=True)]
    assert np.mean(covered) >= 0.8


def test_rows_that_a_method_learned_do_not_count_as_new(task: Task, tmp_path: Path) -> None:
    """Labels are noise, and learned rows are known by heart: their own scores would promise what no new row keeps."""
    pipeline = cf.fit(cf.LogisticRegression(c=1e4, features="tfidf"), None, task, out=tmp_path, quiet=True)
    alone = dataclasses.replace(task, validation=())
    unlearned = cf.fit(cf.LogisticRegression(c=1e4, features="tfidf"), None, alone, quiet=True)
    assert pipeline.conformal == Conformal.of(unlearned, task.validation)
    assert pipeline.conformal.limits(0.8)[0] > 0.5 > Conformal.of(pipeline, task.validation).limits(0.8)[0]


def test_many_rows_are_thinned_out(lm: FrozenLM, task: Task) -> None:
    pipeline = cf.fit(cf.ZeroShot(), lm, task)
    pipeline.calibrate_sets(rows("more", CALIBRATION_ROWS + 100))
    assert pipeline.conformal is not None
    assert sum(map(len, pipeline.conformal.scores.values())) == CALIBRATION_ROWS


@pytest.mark.parametrize(
    "change",
    [
        lambda pipeline, task: pipeline.replace(k=1),
        lambda pipeline, task: pipeline.replace_store(pipeline.store),
        lambda pipeline, task: pipeline.calibrate(task.validation[:9]),
    ],
    ids=["a setting", "the store", "a correction"],
)
def test_scores_go_with_what_they_were_measured_of(
    change: Callable[[Any, Task], Any], lm: FrozenLM, task: Task
) -> None:
    pipeline = cf.fit(cf.RetrievedICL(k=2), lm, task)
    pipeline.calibrate_sets(task.validation[:9])
    assert pipeline.label_sets(["a"], 0.5)
    changed = change(pipeline, task)
    with pytest.raises(ConfigError, match=r"no calibration scores.*calibrate_sets\(rows\)"):
        (changed if isinstance(changed, cf.Pipeline) else pipeline).label_sets(["a"], 0.5)


def test_without_validation_rows_or_labels_there_are_no_sets(lm: FrozenLM, task: Task, tmp_path: Path) -> None:
    pipeline = cf.fit(cf.ZeroShot(), lm, dataclasses.replace(task, validation=()), out=tmp_path)
    with pytest.raises(ConfigError, match="had no validation rows"):
        pipeline.label_sets(["a"])
    written = dataclasses.replace(SCHEMA, kind="generation", labels=(), words=(), metric="token_f1")
    with pytest.raises(ConfigError, match="no labels to make sets of"):
        cf.fit(cf.ZeroShot(), lm, dataclasses.replace(task, schema=written)).label_sets(["a"])


# ---- the artifact -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scores",
    [
        [0.1],
        {"No": [0.1]},
        {"No": [0.1], "Yes": [0.1], "So": []},
        {"No": [0.1], "Yes": 0.1},
        {"No": [0.1], "Yes": [None]},
        {"No": [0.1], "Yes": ["many"]},
        {"No": [0.1], "Yes": [1.5]},
        {"No": [0.1], "Yes": [float("nan")]},
        {"No": [0.1], "Yes": [[0.1]]},
    ],
    ids=["a list", "a label less", "a label more", "a number", "null", "a word", "above 1", "NaN", "nested"],
)
def test_scores_that_are_none_are_refused(scores: Any, lm: FrozenLM, task: Task, tmp_path: Path) -> None:
    cf.fit(cf.ZeroShot(), lm, task).save_pretrained(tmp_path)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    manifest.pop("sha256")
    manifest["calibration_scores"] = scores
    manifest["sha256"] = manifests._digest(manifest)
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="damaged|does not hold"):
        cf.load(tmp_path, lm)


def test_an_older_artifact_has_none(lm: FrozenLM, task: Task, tmp_path: Path) -> None:
    cf.fit(cf.ZeroShot(), lm, task).save_pretrained(tmp_path)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    manifest.pop("sha256")
    del manifest["calibration_scores"]
    manifest["sha256"] = manifests._digest(manifest)
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match="an older one"):
        cf.load(tmp_path, lm).label_sets(["a"])


def test_a_score_is_a_share() -> None:
    with pytest.raises(DataError, match="'Yes' is out of range.*-0.1"):
        Conformal({"No": [0.0, 1.0], "Yes": [0.5, -0.1]})
