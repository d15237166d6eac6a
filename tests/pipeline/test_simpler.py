"""What a fit says of simple classifiers beside it."""

from __future__ import annotations

import dataclasses

import pytest
from tests.contract.cases import WRITE, task
from tests.contract.conftest import tiny_encoders as tiny_encoders
from tests.methods.without_model.support import noisy_task

from coldframe.inference.intervals import score_interval
from coldframe.pipeline.auto import Candidate
from coldframe.pipeline.fit import fit
from coldframe.pipeline.simpler import simpler_than
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.retrieval.store import Store

TASK = noisy_task()
TASK = dataclasses.replace(TASK, schema=TASK.schema.replace(metric="accuracy"))
RETRIEVAL = RetrievalConfig(encoder="tiny")
CANDIDATES = (Candidate("knn", {"k": 3}), Candidate("logistic-regression", {"encoder": "tiny"}))


def test_the_best_of_them_is_named_with_its_validation_score() -> None:
    best = simpler_than(TASK, 0.0, candidates=CANDIDATES, retrieval=RETRIEVAL)
    assert best is not None
    scores = []
    for candidate in CANDIDATES:
        pipeline = fit(
            candidate.build(),
            None,
            dataclasses.replace(TASK, validation=(), test=()),
            retrieval=RETRIEVAL,
            store=Store.of(TASK.train),
            quiet=True,
        )
        run = pipeline.predictions(TASK.validation)
        scores.append(score_interval([run], "accuracy", TASK.schema.positive_index).value)
    assert best.score.value == max(scores) and best.candidate is CANDIDATES[scores.index(max(scores))]


@pytest.mark.parametrize(("ahead", "words"), [(-1.0, "does better"), (0.0, "does as well"), (1.0, "no simple classif")])
def test_what_is_said_depends_on_who_is_ahead(ahead: float, words: str) -> None:
    first = simpler_than(TASK, 0.0, candidates=CANDIDATES, retrieval=RETRIEVAL)
    assert first is not None
    simpler = simpler_than(TASK, first.score.value + ahead, candidates=CANDIDATES, retrieval=RETRIEVAL)
    assert simpler is not None and simpler.does_as_well == (ahead <= 0) and words in simpler.line()
    assert ("--method" in simpler.line()) == (ahead <= 0)


def test_test_rows_and_validation_labels_of_the_method_decide_nothing() -> None:
    poisoned = dataclasses.replace(TASK, test=tuple(dataclasses.replace(row, text="x") for row in TASK.test))
    before, after = (simpler_than(t, 50.0, candidates=CANDIDATES, retrieval=RETRIEVAL) for t in (TASK, poisoned))
    assert before == after


def test_there_is_nothing_to_compare_with() -> None:
    write = task(WRITE)
    assert simpler_than(write, 1.0) is None
    assert simpler_than(dataclasses.replace(TASK, validation=()), 1.0) is None
