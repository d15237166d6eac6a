"""Priors of labels in the artifact, and their correction on validation rows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tests.tiny import tiny

import coldframe as cf
from coldframe.errors import ConfigError
from coldframe.frozen.model import FrozenLM
from coldframe.pipeline.label_bias import fit_label_bias
from coldframe.tasks.task import Example, Schema, Task, Template

LABELS = ("No", "Yes", "So")
SCHEMA = Schema(
    "t",
    "classification",
    labels=LABELS,
    words=LABELS,
    template=Template("{text}: {label}"),
    metric="accuracy",
)


def rows(prefix: str, count: int, labels: str = "No Yes So") -> tuple[Example, ...]:
    names = labels.split()
    return tuple(
        Example(f"{prefix} {i}", names[i % len(names)], f"{prefix}{i:03}", f"{prefix}{i:03}") for i in range(count)
    )


@pytest.fixture
def lm() -> FrozenLM:
    return FrozenLM(*tiny("llama"))


@pytest.fixture
def task() -> Task:
    return Task(SCHEMA, rows("train", 6), rows("validation", 90), rows("test", 30))


@pytest.mark.slow
def test_a_bias_is_where_the_naive_search_finds_it() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([3, 1], 60)
    targets = rng.integers(0, 2, 60)
    weights = rng.uniform(0.5, 2, 60)

    def objective(b: float) -> float:
        scores = np.log(probabilities) + np.array([-b, b])
        losses = np.log(np.exp(scores).sum(1)) - scores[np.arange(60), targets]
        return float((weights * losses).mean() + 0.0005 * 2 * b**2)

    grid = np.linspace(-5, 5, 20_001)
    expected = grid[np.argmin([objective(b) for b in grid])]
    np.testing.assert_allclose(fit_label_bias(probabilities, targets, list(weights)), [-expected, expected], atol=1e-3)


def test_a_label_that_never_occurs_gets_a_finite_bias() -> None:
    bias = fit_label_bias(np.full((20, 3), 1 / 3), np.array([0, 1] * 10))
    assert np.isfinite(bias).all() and bias[2] < bias[0] and abs(bias[0] - bias[1]) < 1e-4


def test_calibration_moves_the_priors_to_the_shares_and_is_kept(lm: FrozenLM, task: Task, tmp_path: Path) -> None:
    plain = cf.fit(cf.ZeroShot(), lm, task, out=tmp_path / "plain")
    corrected = cf.fit(cf.ZeroShot(), lm, task, out=tmp_path / "corrected", calibrate=True)
    assert max(plain.priors.values()) > 0.5  # a random model prefers a word
    assert all(abs(prior - 1 / 3) < 0.05 for prior in corrected.priors.values())
    texts = [row.text for row in task.test]
    expected = np.log(plain.predict_proba(texts)) + np.array(corrected.method.label_bias)
    expected = np.exp(expected) / np.exp(expected).sum(1, keepdims=True)
    np.testing.assert_allclose(corrected.predict_proba(texts), expected, atol=1e-6)
    again = cf.load(tmp_path / "corrected", lm)
    assert again.priors == corrected.priors
    np.testing.assert_array_equal(again.predict_proba(texts), corrected.predict_proba(texts))
    np.testing.assert_array_equal(cf.load(tmp_path / "plain", lm).predict_proba(texts), plain.predict_proba(texts))


def test_rows_weigh_as_the_metric_does(lm: FrozenLM, task: Task) -> None:
    skewed = dataclasses.replace(task, validation=rows("validation", 90, "No No No No Yes So"))
    balanced = dataclasses.replace(skewed, schema=dataclasses.replace(SCHEMA, metric="balanced_accuracy"))
    assert cf.fit(cf.ZeroShot(), lm, skewed, calibrate=True).method.label_bias[0] > (
        cf.fit(cf.ZeroShot(), lm, balanced, calibrate=True).method.label_bias[0] + 0.5
    )


def test_there_must_be_something_to_correct_and_to_correct_it_by(lm: FrozenLM, task: Task) -> None:
    with pytest.raises(ConfigError, match="no validation rows"):
        cf.fit(cf.ZeroShot(), lm, dataclasses.replace(task, validation=()), calibrate=True)
    written = dataclasses.replace(
        task, schema=dataclasses.replace(SCHEMA, kind="generation", labels=(), words=(), metric="token_f1")
    )
    with pytest.raises(ConfigError, match="no labels"):
        cf.fit(cf.ZeroShot(), lm, written, calibrate=True)


@pytest.mark.slow
def test_a_correction_stays_when_settings_change(lm: FrozenLM, task: Task) -> None:
    method = cf.Compose(cf.RetrievedICL(k=2), cf.PromptTuning(tokens=2))
    pipeline = cf.fit(method, lm, task, epochs=1, calibrate=True, quiet=True)
    assert (
        pipeline.method.label_bias and pipeline.replace(**{"icl.k": 1}).method.label_bias == pipeline.method.label_bias
    )


def test_what_was_learned_from_is_known(lm: FrozenLM, task: Task) -> None:
    train, validation = ({row.key for row in part} for part in (task.train, task.validation))
    trained = cf.fit(cf.PromptTuning(tokens=2), lm, task, epochs=1, quiet=True)
    assert trained.trained_keys == train | validation
    assert cf.fit(cf.ZeroShot(), lm, task).trained_keys == frozenset()
    assert cf.fit(cf.ZeroShot(), lm, task, calibrate=True).trained_keys == validation
