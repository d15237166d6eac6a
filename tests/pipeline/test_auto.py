"""``auto`` picks the simplest method that does as well as the best, by the validation rows alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tests.contract.cases import WRITE, lm_of, task
from tests.contract.conftest import tiny_encoders as tiny_encoders
from tests.methods.without_model.support import noisy_task

from coldframe.errors import ConfigError
from coldframe.frozen.model import FrozenLM
from coldframe.pipeline import auto
from coldframe.pipeline.auto import Candidate, Choice, choose
from coldframe.pipeline.pipeline import Pipeline
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.tasks.task import Task

TASK = noisy_task()
VOTE = Candidate("knn", {"k": 3})
REGRESSION = Candidate("logistic-regression", {"encoder": "tiny"})
WORDS = Candidate("logistic-regression", {"features": "tfidf"})


def never() -> FrozenLM:
    raise AssertionError("the language model was loaded")


def chosen(candidates: Sequence[Candidate], on: Task = TASK, load_model: Any = never, **options: Any) -> Choice:
    retrieval = RetrievalConfig(encoder="tiny")
    return choose(on, load_model, candidates=candidates, retrieval=retrieval, quiet=True, **options)


def answered_with(monkeypatch: pytest.MonkeyPatch, right: dict[str, float]) -> None:
    """Predictions that are right on a share of the rows, by the name of the method."""
    own = Pipeline.predictions

    def predictions(self: Pipeline, examples: Sequence[Any], **options: Any) -> Any:
        run = own(self, examples, **options)
        count = round(right[self.method.name] * len(run))
        labels = np.where(np.arange(len(run)) < count, run.targets, (run.targets + 1) % len(run.labels))
        return dataclasses.replace(run, probabilities=np.eye(len(run.labels))[labels])

    monkeypatch.setattr(Pipeline, "predictions", predictions)


ACCURACY = dataclasses.replace(TASK, schema=TASK.schema.replace(metric="accuracy"))


def test_the_best_is_picked_where_it_is_clearly_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    answered_with(monkeypatch, {"knn": 0.5, "logistic-regression": 1.0})
    choice = chosen([VOTE, REGRESSION], ACCURACY)
    assert choice.picked is choice.best and choice.picked.candidate is REGRESSION
    assert [round(trial.score.value) for trial in choice.trials if trial.score] == [50, 100]
    first, why, *rest = choice.lines()
    assert first == 'picked logistic-regression (encoder="tiny"): accuracy 100.0 [100.0, 100.0] on 18 validation rows'
    assert why == "why: nothing that was tried is better, and what is as good is not simpler"
    assert [line.split(":")[0] for line in rest] == ["  knn (k=3)", '  logistic-regression (encoder="tiny")']


def test_a_simpler_one_is_picked_where_it_does_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    # One row of 18: a difference of 5.6 points, whose interval begins at 0.
    answered_with(monkeypatch, {"knn": 17 / 18, "logistic-regression": 1.0})
    choice = chosen([VOTE, REGRESSION], ACCURACY)
    assert choice.picked.candidate is VOTE and choice.best.candidate is REGRESSION
    assert choice.ahead.value == pytest.approx(100 / 18) and choice.ahead.low == 0
    assert "the simplest that does as well" in choice.lines()[1] and "is 5.6 [0.0, 16.7] ahead" in choice.lines()[1]


def test_of_equals_the_first_is_picked() -> None:
    choice = chosen([WORDS, dataclasses.replace(WORDS)])
    assert choice.picked is choice.best is choice.trials[0]


def test_test_rows_decide_nothing_and_validation_rows_only_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks: list[Task] = []
    own = auto.fit

    def spying(method: Any, lm: Any, on: Task, **options: Any) -> Pipeline:
        tasks.append(on)
        return own(method, lm, on, **options)

    monkeypatch.setattr(auto, "fit", spying)
    turned = tuple(dataclasses.replace(row, target="bca"["abc".index(row.target)]) for row in TASK.test)
    first, poisoned = (
        chosen([VOTE, REGRESSION], dataclasses.replace(TASK, test=rows)).trials for rows in (TASK.test, turned)
    )
    assert [trial.score for trial in first] == [trial.score for trial in poisoned]
    for on in tasks:
        used = {row.id for row in (*on.train, *on.validation)}
        assert used == {row.id for row in TASK.train} and on.test == () and on.validation


def test_the_model_is_loaded_once_and_only_for_a_candidate_that_needs_it() -> None:
    loads: list[int] = []

    def load() -> FrozenLM:
        loads.append(1)
        return lm_of("llama")

    assert chosen([VOTE]).picked.candidate is VOTE
    choice = chosen([VOTE, Candidate("zero-shot")], task(), load)
    assert loads == [1] and all(trial.score is not None for trial in choice.trials)


def test_a_generation_task_is_chosen_for_too() -> None:
    candidates = [Candidate("zero-shot"), Candidate("icl", {"k": 1})]
    choice = chosen(candidates, task(WRITE, rows=4, validation=2), lambda: lm_of("llama"))
    assert choice.metric == "token_f1" and choice.picked.candidate.method == "zero-shot"


def test_when_the_time_is_over_the_rest_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 100_000, 30))
    monkeypatch.setattr("coldframe.pipeline.auto.time.perf_counter", lambda: float(next(clock)))
    choice = chosen([VOTE, REGRESSION, WORDS], minutes=1)
    assert choice.trials[0].score is not None
    assert [trial.reason for trial in choice.trials][-1] == "not tried: the 1 minutes are over"
    assert choice.lines()[-1] == '  logistic-regression (features="tfidf"): not tried: the 1 minutes are over'


def test_what_cannot_be_fitted_is_said_and_passed_over() -> None:
    choice = chosen([Candidate("knn", {"k": 1000}), REGRESSION])
    assert choice.trials[0].reason == "cannot be fitted: The exemplar store has fewer rows than k"
    assert choice.picked.candidate is REGRESSION
    with pytest.raises(ConfigError, match="fewer rows than k"):
        chosen([Candidate("knn", {"k": 1000})])


def test_it_needs_validation_rows() -> None:
    with pytest.raises(ConfigError, match="no validation rows to choose a method by"):
        chosen([VOTE], dataclasses.replace(TASK, validation=()))
