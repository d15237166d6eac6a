"""The whole way with a real model and real molecules: fit, evaluate, save, load, predict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import coldframe
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Prompt
from coldframe.pipeline.pipeline import Pipeline
from coldframe.tasks.metrics import METRICS
from coldframe.tasks.task import Task

pytestmark = pytest.mark.e2e


def test_the_model_speaks(lm: FrozenLM) -> None:
    (answer,) = lm.generate([Prompt("The capital of France is")], max_new_tokens=4)
    assert "Paris" in answer
    scores = lm.label_scores([Prompt("Two and two make"), Prompt("The opposite of cold is")], ["four", "hot"])
    assert scores.argmax(1).tolist() == [0, 1]


def test_fit_evaluate_save_load_predict(lm: FrozenLM, task: Task, fitted: tuple[Pipeline, Path]) -> None:
    pipeline, folder = fitted
    predictions = pipeline.predictions(task.test)
    targets = predictions.targets
    chance = np.tile(np.bincount([task.schema.index(e.target) for e in task.train], minlength=2), (len(targets), 1))
    accuracy = METRICS["accuracy"].score
    assert accuracy(targets, predictions.probabilities, None) > accuracy(targets, chance.astype(float), None) + 0.02
    assert METRICS["auroc"].score(targets, predictions.probabilities, 1) > 65  # of 100
    assert predictions.attention is not None and predictions.attention.shape == (len(targets), 4, 5)

    shuffled = pipeline.predictions(task.test[:50], shuffle=1)
    assert np.array_equal(shuffled.probabilities, pipeline.predictions(task.test[:50]).probabilities)
    texts = [e.text for e in task.test[:20]]
    again = coldframe.load(folder, lm)
    np.testing.assert_array_equal(again.predict_proba(texts), pipeline.predict_proba(texts))
    rehashed = type(lm)(lm.model, lm.tokenizer).weight_hash
    assert again.lm.weight_hash == rehashed == coldframe.load_lm("smollm2").weight_hash  # training changed nothing
