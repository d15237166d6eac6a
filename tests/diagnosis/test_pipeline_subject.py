"""A pipeline as a subject: the right losses under every condition, each computed once, and nothing stays spoiled."""

from __future__ import annotations

import dataclasses
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from tests.contract.cases import QUERIES, SCHEMA, STORE, WRITE, Case, TinyEncoder, built, example, lm_of

from coldframe.diagnosis.perturbations import UninformativeVectors
from coldframe.diagnosis.pipeline_subject import PipelineSubject
from coldframe.diagnosis.soft_token_subject import SoftTokenSubject, subject_of
from coldframe.diagnosis.subject import CONDITIONS, Condition, Subject, TokenSubject
from coldframe.errors import ConfigError, DataError
from coldframe.methods.base import prompts
from coldframe.pipeline.pipeline import Pipeline
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.retrieval.store import Retrieved, Store
from coldframe.tasks.task import Schema
from coldframe.training.config import TrainingConfig

MHA = {"encoder": "tiny", "adapter": 8, "heads": 2, "k": 3}
SPOILED: tuple[Condition, ...] = ("swapped", "random", "fixed", "shuffled", "gaussian", "mean", "oracle")
LONGER = [*QUERIES, "no water", "CC(=O)O is the answer", "the the the"]


def pipeline_of(name: str, schema: Schema = SCHEMA, **settings: Any) -> Pipeline:
    """Weights moved from where they start, so that every part has an effect; nothing is trained."""
    lm = lm_of("llama")
    method = built(Case(name, name, settings), lm, schema)
    return Pipeline(method, lm, schema, STORE, RetrievalConfig(encoder="tiny"), TrainingConfig())


def examples(schema: Schema = SCHEMA, count: int = len(LONGER)) -> list[Any]:
    targets = schema.labels or ("A", "B", "a longer answer")
    return [
        dataclasses.replace(example(100 + i, targets[i % 3], text), key=f"query {i}")
        for i, text in enumerate(LONGER[:count])
    ]


def made(name: str, schema: Schema = SCHEMA, **settings: Any) -> Any:
    return subject_of(pipeline_of(name, schema, **settings), examples(schema))


def gold(schema: Schema = SCHEMA) -> list[int]:
    return [schema.index(e.target) for e in examples(schema)]


# ---- losses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mha-esp", MHA),
        ("p-esp", {"encoder": "tiny", "k": 3}),
        ("icl", {"k": 2}),
        ("prompt-tuning", {"tokens": 3}),
        ("lora", {"rank": 2}),
    ],
)
def test_full_is_the_pipeline_and_empty_is_the_model_alone(name: str, settings: dict[str, Any]) -> None:
    subject = made(name, **settings)
    own = subject.pipeline.predict_proba(LONGER)[np.arange(len(LONGER)), gold()]
    np.testing.assert_allclose(subject.losses("full"), -np.log(own), rtol=1e-12)
    alone = pipeline_of("zero-shot").predict_proba(LONGER)[np.arange(len(LONGER)), gold()]
    np.testing.assert_allclose(subject.losses("empty"), -np.log(alone), rtol=1e-12)
    assert np.abs(subject.losses("full") - subject.losses("empty")).min() > 1e-3


def test_without_any_adaptation_there_is_nothing_to_explain() -> None:
    subject = made("zero-shot")
    np.testing.assert_array_equal(subject.losses("full"), subject.losses("empty"))


def test_written_answers_cost_the_mean_over_their_own_tokens() -> None:
    subject = made("mha-esp", WRITE, **MHA)
    lm, method = lm_of("llama"), subject.pipeline.method
    for row, one in enumerate(subject.examples):
        found = subject.pipeline.retrieve([one])
        with torch.no_grad():
            total = lm.loss(prompts(WRITE, [one.text]), [one.target], method.condition([one.text], found))
        wanted = float(total) / len(lm.answer_tokens(" " + one.target, WRITE.template.end))
        assert subject.losses("full")[row] == pytest.approx(wanted, rel=1e-4)
    assert np.isnan(subject.divergence(subject.tokens())).all()


# ---- conditions ---------------------------------------------------------------------------------------------


def naive(subject: PipelineSubject, row: int, found: Retrieved, texts: list[str] | None = None) -> float:
    """The loss of one query, asked alone, with a set that stands where its own was."""
    schema, text = subject.pipeline.schema, subject.examples[row].text
    with torch.no_grad():
        conditioning = subject.pipeline.method.condition(texts or [text], found)
        scores = subject.pipeline.method.label_scores(
            subject.pipeline.lm, prompts(schema, [text]), schema.words, conditioning
        )
    return float(-scores.log_softmax(-1)[0, gold(schema)[row]])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "settings"), [("mha-esp", MHA), ("icl", {"k": 2})])
def test_conditions_are_what_they_say(name: str, settings: dict[str, Any]) -> None:
    subject = made(name, **settings)
    found, seed = subject.retrieved, subject._drawn(7)
    others = subject._partners(7)
    targets = [e.target for e in STORE.examples]
    moved = [targets[i] for i in np.random.default_rng(seed).permutation(len(STORE))]
    store = Store(tuple(dataclasses.replace(e, target=t) for e, t in zip(STORE.examples, moved, strict=True)))
    strategies = {
        strategy: dataclasses.replace(
            subject.pipeline, retrieval=RetrievalConfig(encoder="tiny", strategy=strategy, seed=seed)
        ).retrieve(subject.examples)
        for strategy in ("random", "fixed", "oracle")
    }
    assert all(len({targets[i] for i in row if i >= 0}) == 1 for row in strategies["oracle"].indices)
    for row in range(len(subject)):
        wanted = {
            "full": found.rows([row]),
            "swapped": found.rows([others[row]]),
            "shuffled": Retrieved(store, found.indices[[row]], found.scores[[row]]),
            **{strategy: sets.rows([row]) for strategy, sets in strategies.items()},
        }
        for condition, sets in wanted.items():
            assert subject.losses(condition, 7)[row] == pytest.approx(naive(subject, row, sets), abs=1e-3), condition
        if name == "mha-esp":
            other = subject.examples[others[row]].text
            whole = naive(subject, row, found.rows([others[row]]), [other])
            assert subject.losses("swapped-conditioning", 7)[row] == pytest.approx(whole, abs=1e-3)
    losses = [subject.losses(condition, 7) for condition in wanted]
    assert min(np.abs(a - b).max() for i, a in enumerate(losses) for b in losses[:i]) > 1e-3


@pytest.mark.slow
def test_seeds_decide_what_is_drawn_and_nothing_else() -> None:
    subject, again = (made("mha-esp", **MHA) for _ in range(2))
    elsewhere = PipelineSubject(subject.pipeline, subject.examples, seed=1)
    for condition in ("swapped", "random", "shuffled", "gaussian", "swapped-conditioning"):
        np.testing.assert_array_equal(subject.losses(condition, 3), again.losses(condition, 3))
        assert not np.array_equal(subject.losses(condition, 3), subject.losses(condition, 4))
        assert not np.array_equal(subject.losses(condition, 3), elsewhere.losses(condition, 3))
    for condition in ("full", "empty", "mean", "oracle"):
        np.testing.assert_array_equal(subject.losses(condition, 3), elsewhere.losses(condition, 4))


def test_every_condition_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, passes = made("mha-esp", **MHA), []
    run = subject.run
    monkeypatch.setattr(subject, "run", lambda *args: passes.append(1) or run(*args))
    for _ in range(2):
        for condition in CONDITIONS:
            subject.losses(condition, 0)
        subject.losses("mean", 5)
        subject.losses_with(subject.tokens().mean(0))
        subject.divergence(subject.tokens().mean(0))
    assert len(passes) == len(CONDITIONS) + 1


@pytest.mark.parametrize(("name", "settings"), [("prompt-tuning", {"tokens": 3}), ("lora", {"rank": 2})])
def test_a_method_that_retrieves_nothing_loses_nothing(name: str, settings: dict[str, Any]) -> None:
    subject = made(name, **settings)
    full = subject.losses("full")
    for condition in SPOILED:
        np.testing.assert_array_equal(subject.losses(condition, 1), full)
    np.testing.assert_array_equal(subject.losses("swapped-conditioning", 1), full)


def test_a_prompt_from_the_query_alone_minds_the_query_only() -> None:
    subject = made("idpg", tokens=2, encoder="tiny", adapter=8)
    np.testing.assert_array_equal(subject.losses("swapped"), subject.losses("full"))
    assert np.abs(subject.losses("swapped-conditioning") - subject.losses("full")).max() > 1e-3


@pytest.mark.parametrize(
    ("name", "settings", "missing"),
    [
        ("mha-esp", MHA, {}),
        ("mha-esp", {**MHA, "windows": 2}, {"gaussian": "single entries", "mean": "single entries"}),
        ("mha-esp", {**MHA, "text_exemplars": 1}, {"gaussian": "as text", "mean": "as text"}),
        ("u-esp", {"encoder": "tiny", "k": 3}, {"gaussian": "single entries", "mean": "single entries"}),
        ("p-esp", {"encoder": "tiny-print", "k": 3}, {}),
        ("u-esp", {"encoder": "tiny-print", "k": 3}, {}),
        ("latent-memory", {"encoder": "tiny", "tokens": 3, "k": 3}, {}),
        ("prompt-tuning", {"tokens": 2}, {}),
        ("lora", {"rank": 2}, {}),
        (
            "icl",
            {"k": 2},
            {"swapped-conditioning": "'swapped' swaps that", "gaussian": "as text", "mean": "as text"},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_run_is_told_and_what_can_be_runs(
    name: str, settings: dict[str, Any], missing: dict[str, str]
) -> None:
    subject = made(name, **settings)
    assert isinstance(subject, Subject) and isinstance(subject, TokenSubject) == (name not in ("icl", "lora"))
    assert set(subject.missing()) == set(missing)
    for condition in CONDITIONS:
        if condition in missing:
            assert missing[condition] in subject.missing()[condition]
            with pytest.raises(ConfigError, match="cannot be run here"):
                subject.losses(condition)
        else:
            assert np.isfinite(subject.losses(condition)).all()


def test_an_oracle_needs_the_answers_in_the_store() -> None:
    subject = made("mha-esp", WRITE, **MHA)
    assert "answer" in subject.missing()["oracle"]


def test_queries_of_one_key_are_one_group() -> None:
    pipeline, rows = pipeline_of("zero-shot"), examples()
    assert PipelineSubject(pipeline, rows).groups is None
    doubled = PipelineSubject(pipeline, [*rows, dataclasses.replace(rows[2], id="again")]).groups
    assert doubled is not None and doubled[-1] == doubled[2] and len(set(doubled)) == len(rows)


def test_one_query_is_too_few() -> None:
    with pytest.raises(DataError, match="two queries"):
        PipelineSubject(pipeline_of("zero-shot"), examples()[:1])


# ---- stand-ins for exemplar vectors --------------------------------------------------------------------------


@functools.cache
def vectors() -> torch.Tensor:
    """Of the whole store, as MHA-ESP sees it."""
    everything = Retrieved(STORE, np.arange(len(STORE))[:, None], np.zeros((len(STORE), 1), np.float32))
    with torch.no_grad():
        return pipeline_of("mha-esp", **MHA).method.exemplar_vectors(everything)[0][:, 0]


def test_stand_ins_have_the_store_s_moments_and_leave_the_method_alone() -> None:
    method = pipeline_of("mha-esp", **MHA).method
    with torch.no_grad():
        many = Retrieved(STORE, np.tile([0, 3, -1], (20_000, 1)), np.zeros((20_000, 3), np.float32))
        before, present = method.exemplar_vectors(many)
        alike = method.with_entry_vectors(UninformativeVectors("mean"))
        found, there = alike.exemplar_vectors(many)
        assert torch.equal(there, present) and (found[:, 2] == 0).all()
        torch.testing.assert_close(found[0, :2], vectors().mean(0).expand(2, -1))
        noisy = method.with_entry_vectors(UninformativeVectors("gaussian", seed=1))
        found, there = noisy.exemplar_vectors(many)
        assert torch.equal(there, present) and (found[:, 2] == 0).all()
        drawn = found[:, :2].reshape(-1, found.shape[-1])
        torch.testing.assert_close(drawn.mean(0), vectors().mean(0), atol=0.02, rtol=0)
        torch.testing.assert_close(drawn.T.cov(), vectors().T.cov(), atol=0.02, rtol=0)
        assert not torch.equal(noisy.exemplar_vectors(many)[0], found)
        torch.testing.assert_close(method.exemplar_vectors(many)[0], before)


def test_a_thread_that_spoils_vectors_does_not_disturb_another() -> None:
    subject, quiet = made("mha-esp", **MHA), made("mha-esp", **MHA)
    alone = {condition: subject.losses(condition) for condition in ("full", "gaussian", "mean")}
    pair = [PipelineSubject(quiet.pipeline, quiet.examples) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        together = dict(zip(alone, pool.map(lambda s, c: s.losses(c), pair, alone), strict=True))
    for condition, losses in alone.items():
        np.testing.assert_allclose(together[condition], losses, atol=1e-6)


@pytest.mark.parametrize("condition", ["gaussian", "mean"])
def test_stand_ins_change_the_losses(condition: Condition) -> None:
    subject = made("mha-esp", **MHA)
    assert np.abs(subject.losses(condition) - subject.losses("full")).min() > 1e-4


def test_a_method_without_vectors_of_entries_says_so() -> None:
    with pytest.raises(ConfigError, match="icl makes no vectors of single entries"):
        pipeline_of("icl", k=2).method.with_entry_vectors(UninformativeVectors("mean"))


# ---- tokens -------------------------------------------------------------------------------------------------


def test_tokens_are_the_conditioning_s_and_give_its_losses_back() -> None:
    subject = made("mha-esp", **MHA)
    tokens = subject.tokens()
    with torch.no_grad():
        for row, one in enumerate(subject.examples):
            alone = subject.pipeline.method.condition([one.text], subject.pipeline.retrieve([one])).soft_tokens
            np.testing.assert_allclose(tokens[row], alone[0].numpy(), atol=1e-4)
    np.testing.assert_allclose(subject.losses_with(tokens), subject.losses("full"), atol=1e-9)
    np.testing.assert_allclose(subject.divergence(tokens), 0, atol=1e-9)
    np.testing.assert_allclose(
        subject.losses_with(tokens[0]), subject.losses_with(np.tile(tokens[0], (len(subject), 1, 1))), atol=1e-9
    )


def test_divergence_is_that_of_the_label_distributions() -> None:
    subject = made("mha-esp", **MHA)
    mean = subject.tokens().mean(0)
    method, schema = subject.pipeline.method, SCHEMA
    with torch.no_grad():
        asked = prompts(schema, LONGER)
        conditioning = method.condition(LONGER, subject.retrieved)
        p, q = (
            method.label_scores(subject.pipeline.lm, asked, schema.words, one).double().softmax(-1).numpy()
            for one in (conditioning, dataclasses.replace(conditioning, soft_tokens=torch.from_numpy(mean)))
        )
    wanted = [sum(a * np.log(a / b) for a, b in zip(*rows, strict=True)) for rows in zip(p, q, strict=True)]
    np.testing.assert_allclose(subject.divergence(mean), wanted, rtol=1e-3, atol=1e-6)
    assert min(wanted) > 1e-4


def test_static_tokens_are_equal_to_the_bit() -> None:
    tokens = made("prompt-tuning", tokens=3).tokens()
    assert tokens.shape == (len(LONGER), 3, 32) and (tokens == tokens[0]).all()


def test_vectors_of_queries_are_what_the_method_sees_of_them() -> None:
    subject = made("mha-esp", **MHA)
    tokens = made("idpg", tokens=1, encoder="tiny", adapter=None, static=False)
    raw = TinyEncoder().encode(LONGER)
    np.testing.assert_allclose(
        tokens.query_vectors(), raw / np.linalg.norm(raw, axis=1, keepdims=True).clip(1e-12), atol=1e-6
    )
    assert subject.query_vectors().shape == (len(LONGER), 8) and np.abs(subject.query_vectors()).max() <= 1
    np.testing.assert_array_equal(subject.store_vectors(), TinyEncoder().encode(STORE.texts))
    np.testing.assert_array_equal(made("prompt-tuning").query_vectors(), raw)


def test_retrieved_ids_are_the_pipeline_s() -> None:
    subject = made("mha-esp", **MHA)
    np.testing.assert_array_equal(subject.retrieved_ids(), subject.pipeline.retrieve(subject.examples).indices)
    assert made("prompt-tuning").retrieved_ids().shape == (len(LONGER), 0)
    assert isinstance(subject, SoftTokenSubject)
