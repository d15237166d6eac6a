"""The ways to correct the scores of labels, against values worked by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from math import log
from pathlib import Path

import numpy as np
import pytest
from tests.pipeline.test_label_bias import SCHEMA, rows
from tests.tiny import tiny

import coldframe as cf
from coldframe.errors import ConfigError
from coldframe.evaluation.jobs import Job
from coldframe.evaluation.runs import Runner
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Prompt
from coldframe.pipeline.calibration import Calibration
from coldframe.pipeline.label_bias import even_bias, outcome_of, prior_bias
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.tasks.task import Task


@pytest.fixture
def lm() -> FrozenLM:
    return FrozenLM(*tiny("llama"))


@pytest.fixture
def task() -> Task:
    """Rows of which half are No, so that shares are not even."""
    return Task(SCHEMA, rows("train", 6), rows("validation", 40, "No No Yes So"), rows("test", 30))


def corrected(probabilities: np.ndarray, bias: Sequence[float]) -> np.ndarray:
    scores = np.log(probabilities) + np.array(bias)
    return np.exp(scores) / np.exp(scores).sum(1, keepdims=True)


def test_dividing_by_the_mean() -> None:
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3]])  # mean 0.8, 0.2: the odds of a row are divided by 4
    np.testing.assert_allclose(even_bias(probabilities), [-log(2), log(2)], atol=1e-12)
    np.testing.assert_allclose(corrected(probabilities, even_bias(probabilities))[:, 0], [9 / 13, 7 / 19])


def test_matching_shares() -> None:
    probabilities, targets = np.array([[0.9, 0.1], [0.7, 0.3], [0.8, 0.2]]), np.array([0, 1, 1])
    after = corrected(probabilities, prior_bias(probabilities, targets))
    np.testing.assert_allclose(after.mean(0), [2 / 5, 3 / 5], atol=1e-6)  # 1 and 2 rows, each and one more
    # Rows that are all alike: the odds 4 become the shares' 2 : 3, so both sides are divided by the root of 6.
    alike = np.array([[0.8, 0.2]] * 3)
    np.testing.assert_allclose(prior_bias(alike, targets), [-log(6) / 2, log(6) / 2], atol=1e-6)
    # Where classes count alike the shares are taken out again, which leaves the odds divided by 4.
    np.testing.assert_allclose(prior_bias(alike, targets, alike=True), [-log(2), log(2)], atol=1e-6)
    assert np.isfinite(prior_bias(np.array([[0.2, 0.3, 0.5]]), np.array([0]))).all()


def test_batch_and_prior_read_the_validation_rows(lm: FrozenLM, task: Task) -> None:
    plain = cf.fit(cf.ZeroShot(), lm, task).predict_proba([row.text for row in task.validation])
    batch = cf.fit(cf.ZeroShot(), lm, task, calibrate="batch")
    means = np.log(plain.mean(0))
    np.testing.assert_allclose(batch.method.label_bias, means.mean() - means, atol=1e-6)
    prior = cf.fit(cf.ZeroShot(), lm, task, calibrate="prior")
    after = prior.predict_proba([row.text for row in task.validation])
    np.testing.assert_allclose(after.mean(0), np.array([21, 11, 11]) / 43, atol=1e-5)
    assert batch.trained_keys == prior.trained_keys == {row.key for row in task.validation}


def test_batch_does_not_look_at_labels(lm: FrozenLM, task: Task) -> None:
    others = dataclasses.replace(task, validation=rows("validation", 40, "So"))
    ways: tuple[tuple[Calibration, bool], ...] = (
        ("batch", True),
        ("contextual", True),
        ("prior", False),
        ("validation", False),
    )
    for way, same in ways:
        first, second = (
            cf.fit(cf.ZeroShot(), lm, rows_of, calibrate=way).method.label_bias for rows_of in (task, others)
        )
        assert (list(first) == list(second)) == same, way


def test_contextual_reads_inputs_that_say_nothing(lm: FrozenLM, task: Task) -> None:
    plain = cf.fit(cf.ZeroShot(), lm, task)
    pipeline = cf.fit(cf.ZeroShot(), lm, dataclasses.replace(task, validation=()), calibrate="contextual")
    prompts = [Prompt(text, end="\n") for text in ("N/A:", "[MASK]:", ":")]
    scores = lm.label_scores(prompts, SCHEMA.words, choices=True).double()
    means = np.log(scores.softmax(-1).mean(0).numpy())
    np.testing.assert_allclose(pipeline.method.label_bias, means.mean() - means, atol=1e-5)
    assert not pipeline.trained_keys and not plain.method.label_bias


def test_contextual_has_the_exemplars_of_rows(lm: FrozenLM, task: Task) -> None:
    one_row = dataclasses.replace(task, validation=task.validation[:1])
    pipeline = cf.fit(cf.RetrievedICL(k=2), lm, one_row, calibrate="contextual")
    retrieved = pipeline.retrieve(one_row.validation, exclude_same_key=True)
    (blocks,) = pipeline.method.contexts(["?"], retrieved) or ((),)
    prompts = [Prompt("".join(blocks) + text, end="\n") for text in ("N/A:", "[MASK]:", ":")]
    means = np.log(lm.label_scores(prompts, SCHEMA.words, choices=True).double().softmax(-1).mean(0).numpy())
    np.testing.assert_allclose(pipeline.method.label_bias, means.mean() - means, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["contextual", "batch", "prior"])
def test_every_port_is_corrected_alike_and_keeps_it(way: Calibration, lm: FrozenLM, task: Task, tmp_path: Path) -> None:
    for number, method in enumerate((cf.RetrievedICL(k=2), cf.FixedICL(k=2), cf.PromptTuning(tokens=2))):
        pipeline = cf.fit(method, lm, task, epochs=1, calibrate=way, out=tmp_path / str(number), quiet=True)
        assert len(pipeline.method.label_bias) == 3 and abs(sum(pipeline.method.label_bias)) < 1e-6
        assert list(cf.load(tmp_path / str(number), lm).method.label_bias) == list(pipeline.method.label_bias)
        if way == "prior":
            after = outcome_of(pipeline, task.validation).probabilities
            np.testing.assert_allclose(after.mean(0), np.array([21, 11, 11]) / 43, atol=1e-4)


def test_molecules_have_an_input_of_their_own(lm: FrozenLM) -> None:
    molecules = ("C" * (i + 1) for i in range(12))
    table = [{"smiles": text, "label": "ab"[i % 2]} for i, text in enumerate(molecules)]
    task = cf.load_task(table, text="smiles", domain="molecules", split="random", deduplicate=False)
    method = cf.IDPG(tokens=1)
    assert len(cf.fit(method, lm, task, epochs=1, calibrate="contextual", quiet=True).method.label_bias) == 2


def test_a_way_that_is_none_is_told(lm: FrozenLM, task: Task) -> None:
    with pytest.raises(ConfigError, match="batch"):
        cf.fit(cf.ZeroShot(), lm, task, calibrate="btach")  # type: ignore[arg-type]


def test_a_correction_is_taken_back(lm: FrozenLM, task: Task) -> None:
    pipeline = cf.fit(cf.ZeroShot(), lm, task, calibrate="batch")
    assert pipeline.calibrate(task.validation, "none") == [] and not pipeline.method.label_bias


@pytest.mark.slow
def test_a_comparison_corrects_each_method_as_its_settings_say(lm: FrozenLM, task: Task) -> None:
    runner = Runner(lm, task, {}, RetrievalConfig(), None, 0, None, True)
    plain = Job("a", "method", "zero-shot", {}, 0)
    batch = Job("a", "method", "zero-shot", {"calibrate": "batch"}, 0)
    assert runner.key(plain) != runner.key(batch)
    assert not runner.fit(plain).method.label_bias and runner.fit(batch).method.label_bias
    table = cf.compare(
        lm, task, ["zero-shot", "icl"], [0], controls=False, costs=False, quiet=True,
        method_settings={"icl": {"k": 2, "calibrate": "prior"}},
    )  # fmt: skip
    assert {row.name for row in table.data.rows} >= {"zero-shot", "icl"}
