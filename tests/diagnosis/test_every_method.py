"""Every method can be diagnosed, on labels, on a corpus and on labels with passages; what makes no sense says why."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch
from tests.contract.cases import FOUND, METHODS, QUERIES, SCHEMA, TWO, Case, built, corpus, lm_of, task

import coldframe as cf
from coldframe.diagnosis.evidence import Diagnosis
from coldframe.diagnosis.perturbations import shuffled_contents
from coldframe.diagnosis.pipeline_subject import PipelineSubject
from coldframe.diagnosis.soft_token_subject import subject_of
from coldframe.diagnosis.store_ablation import retrain_under
from coldframe.diagnosis.subject import CONDITIONS
from coldframe.frozen.model import FrozenLM
from coldframe.methods.base import prompts
from coldframe.pipeline.fit import fit
from coldframe.pipeline.pipeline import Pipeline
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.retrieval.store import Store
from coldframe.tasks.task import Passage, Task
from coldframe.training.config import TrainingConfig

RETRIEVAL = RetrievalConfig(encoder="tiny")
TASKS = {"labels": task(TWO), "corpus": corpus(), "labels with passages": corpus(TWO)}
CASES = [case for case in METHODS if "/" not in case.id]
ADAPTERS = ("prag", "poly-prag", "dyprag", "icl+prag")
ALL = set(CONDITIONS) - {"full", "empty"}


@functools.cache
def lm() -> FrozenLM:
    return lm_of("llama")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_method_says_whether_it_looks_at_the_query(case: Case) -> None:
    method, sets = built(case, lm(), SCHEMA), FOUND.rows([0])
    with torch.no_grad():
        first, second = (method.condition([text], sets) for text in (QUERIES[0], QUERIES[2]))
    same = first.contexts == second.contexts
    for one, other in ((first.soft_tokens, second.soft_tokens), (first.head_gains, second.head_gains)):
        same = same and (one is None or other is None or torch.equal(one, other))
    same = same and all(torch.equal(delta.a, second.deltas[name].a) for name, delta in first.deltas.items())
    assert same != method.uses_query


def pipeline_of(case: Case, on: Task) -> Pipeline:
    """Fitted in a moment: weights as they come."""
    training = {"epochs": 1, "batch_size": 8, "patience": 0}
    return fit(case.method(), lm(), on, retrieval=RETRIEVAL, training=training, quiet=True)


def diagnosed(case: Case, kind: str) -> tuple[Pipeline, Diagnosis]:
    on = TASKS[kind]
    pipeline = pipeline_of(case, on)
    rows = [dataclasses.replace(row, id=f"{row.id}/{i}") for i, row in enumerate((*on.test, *on.train, *on.validation))]
    return pipeline, cf.diagnose(pipeline, rows[:12], resamples=100, quiet=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_every_method_is_diagnosed_on_every_kind_of_task(case: Case, kind: str) -> None:
    if case.id in ADAPTERS and kind == "labels":
        pytest.skip("turns passages into weights, and there are none")
    pipeline, diagnosis = diagnosed(case, kind)
    method, missing = pipeline.method, dict(diagnosis.store_ablation.missing)
    conditions = {ablation.condition for ablation in diagnosis.store_ablation.ablations}
    assert conditions | set(missing) == ALL and not conditions & set(missing)
    assert all(np.isfinite(ablation.loss.value) for ablation in diagnosis.store_ablation.ablations)
    assert {"swapped", "random", "fixed"} <= conditions
    assert (diagnosis.subject, diagnosis.unit, diagnosis.n) == (method.name, "nats", 12)
    assert (diagnosis.store_health is not None) == method.uses_retrieval
    if not method.uses_retrieval:
        assert not missing
    elif method.reads_text:
        assert "as text" in missing["gaussian"] and "as text" in missing["mean"]
    elif method.needs_passages:
        assert "no vectors" in missing["mean"]
    assert ("shuffled" in missing) == method.needs_passages
    assert ("oracle" in missing) == (kind == "labels with passages" and method.uses_retrieval)
    assert ("swapped-conditioning" in missing) == (method.uses_retrieval and not method.uses_query)
    assert (diagnosis.token_variance is not None) == any(
        name in method.name for name in ("prompt", "idpg", "esp", "latent-memory", "black-box")
    )


@pytest.mark.parametrize("name", ["prag", "icl", "icl+prag"])
def test_swapped_passages_come_by_retrieval(name: str) -> None:
    case = next(case for case in METHODS if case.id == name)
    pipeline = pipeline_of(case, TASKS["corpus"])
    for parameter in pipeline.method.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    rows = TASKS["corpus"].train
    subject = subject_of(pipeline, rows)
    partners = subject._partners(0)
    own, swapped = subject.losses("full"), subject.losses("swapped")
    assert np.abs(own - swapped).max() > 1e-4
    conditioner = subject.conditioner(retrieved=subject.retrieved.rows(partners))
    np.testing.assert_allclose(subject.run(conditioner, "").losses, swapped, atol=1e-6)
    moved = {row.text: subject.retrieved.rows([partners[i]]) for i, row in enumerate(rows)}
    with torch.no_grad():
        for i, row in enumerate(rows[:3]):
            conditioning = pipeline.method.condition([row.text], moved[row.text])
            answer, end = f" {row.target}", pipeline.schema.template.end
            loss = lm().loss(prompts(pipeline.schema, [row.text]), [answer], conditioning)
            assert float(loss) / len(lm().answer_tokens(answer, end)) == pytest.approx(swapped[i], abs=1e-4)


def test_the_oracle_of_a_corpus_knows_the_gold_passages() -> None:
    case = Case("icl", "icl", {"k": 1})
    subject = PipelineSubject(pipeline_of(case, TASKS["corpus"]), TASKS["corpus"].train)
    chosen = subject._retrieved_under("oracle", 0)
    assert [chosen.examples(i)[0].id for i in range(len(subject))] == [row.gold[0] for row in subject.examples]


def test_words_of_passages_are_dealt_and_labels_of_exemplars_permuted() -> None:
    store = Store.of(TASKS["corpus"].exemplars)
    dealt = shuffled_contents(store, 0)
    assert [entry.id for entry in dealt.examples] == [entry.id for entry in store.examples]
    assert sorted(" ".join(dealt.texts).split()) == sorted(" ".join(store.texts).split())
    assert all(isinstance(entry, Passage) for entry in dealt.examples) and dealt.texts != store.texts
    labelled = Store.of(TASKS["labels"].exemplars)
    assert shuffled_contents(labelled, 0).texts == labelled.texts


def test_adapters_are_not_trained_again_for_what_is_retrieved(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = subject_of(pipeline_of(Case("prag", "prag", {"k": 1}), TASKS["corpus"]), TASKS["corpus"].test)
    monkeypatch.setattr("coldframe.diagnosis.store_ablation.fit", None)
    np.testing.assert_array_equal(retrain_under("random", subject, TASKS["corpus"]), subject.losses("random"))


@pytest.mark.slow
def test_a_change_of_the_model_for_all_queries_is_said_to_be_one() -> None:
    on = TASKS["labels"]
    rows = [dataclasses.replace(on.train[i % 8], id=f"row {i}", key=f"key {i}") for i in range(40)]
    training = TrainingConfig(epochs=6, batch_size=8, patience=0, learning_rate=0.01)
    pipeline = fit(Case("lora", "lora", {"rank": 2}).method(), lm(), on, training=training, quiet=True)
    diagnosis = cf.diagnose(pipeline, rows, resamples=200, quiet=True)
    assert diagnosis.verdict.outcome == "prompt-tuning-like", diagnosis.verdict
    assert diagnosis.verdict.advice[0].startswith("Nothing is to be replaced: it retrieves nothing")


@pytest.mark.slow
def test_a_composition_is_trained_again_and_has_no_ladder() -> None:
    on = TASKS["labels"]
    case = next(case for case in METHODS if case.id == "mha-esp+pear")
    pipeline = pipeline_of(case, on)
    subject = subject_of(pipeline, on.test)
    for condition in ("random", "mean"):
        assert np.isfinite(retrain_under(condition, subject, on)).all()  # type: ignore[arg-type]
    with pytest.raises(cf.errors.ConfigError, match="or other things too"):
        cf.diagnose(pipeline, on.test, task=on, ladder=True, resamples=100, quiet=True)
