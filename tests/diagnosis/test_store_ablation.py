"""The ablation of a store: shares of planted subjects, nothing lost where nothing is retrieved, training again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.contract.cases import STORE, TWO, Case, built, example, lm_of, task

from coldframe.diagnosis.pipeline_subject import PipelineSubject
from coldframe.diagnosis.store_ablation import DRAWS, RETRAINABLE, retrain_under, store_ablation
from coldframe.diagnosis.subject import CONDITIONS, Condition
from coldframe.errors import ConfigError, DataError
from coldframe.evaluation.trained_controls import shuffled_labels
from coldframe.pipeline.fit import fit
from coldframe.pipeline.pipeline import Pipeline
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.retrieval.store import Retrieved
from coldframe.tasks.task import Task
from coldframe.training.config import TrainingConfig

MHA = {"encoder": "tiny", "adapter": 8, "heads": 2, "k": 3}
RETRIEVAL = RetrievalConfig(encoder="tiny")
SHORT = TrainingConfig(epochs=2, batch_size=4, warmup=0.0, seed=3, learning_rate=0.01)


class Planted:
    """Loss 1 alone, 0 whole; the spoiled conditions lose so much of that, each draw a little differently."""

    name, task, model, unit, groups = "planted", "made up", "none", "nats", None

    def __init__(self, lost: dict[str, float], n: int = 200, shift: float = 0.0) -> None:
        self._lost, self._n, self._shift, self.asked = lost, n, shift, []
        self._base = np.random.default_rng(0).normal(2, 0.3, n)

    def __len__(self) -> int:
        return self._n

    def missing(self) -> dict[Any, str]:
        return {c: "not planted" for c in CONDITIONS if c not in ("full", "empty", *self._lost)}

    def losses(self, condition: str, seed: int = 0) -> np.ndarray:
        self.asked.append((condition, seed))
        lost = {"full": 0.0, "empty": 1.0, **self._lost}[condition]
        drawn = np.random.default_rng([1, seed]).normal(0, 0.1, self._n) if condition == "swapped" else 0.0
        return self._base + lost + drawn + (self._shift if condition != "empty" else 0.0)


def found_in(ablation: Any, condition: str, retrained: bool = False) -> Any:
    (one,) = [a for a in ablation.ablations if (a.condition, a.retrained) == (condition, retrained)]
    return one


def test_shares_are_those_planted() -> None:
    subject = Planted({"swapped": 0.8, "random": 0.6, "mean": 1.1})
    found = store_ablation([subject], resamples=500)
    assert found.gain.value == pytest.approx(1)
    drawn = np.mean([np.random.default_rng([1, draw]).normal(0, 0.1, 200) for draw in range(3)])
    assert found_in(found, "swapped").share.value == pytest.approx(0.8 + drawn)
    assert found_in(found, "random").rise.value == pytest.approx(0.6)
    assert found_in(found, "mean").loss.value == pytest.approx(subject._base.mean() + 1.1)
    assert found.outcome == "retrieval-driven" and "80%" in found.reason
    assert dict(found.missing)["gaussian"] == "not planted" and len(found.ablations) + len(found.missing) == 8


def test_only_what_is_random_is_drawn_several_times() -> None:
    subject = Planted({"swapped": 0.1, "mean": 0.1, "oracle": -0.1})
    store_ablation([subject], draws=2, resamples=200)
    assert sorted(subject.asked) == [
        ("empty", 0),
        ("full", 0),
        ("mean", 0),
        ("oracle", 0),
        ("swapped", 0),
        ("swapped", 1),
    ]


def test_many_queries_need_no_second_draw_but_of_what_stands_for_all() -> None:
    subject = Planted({"swapped": 0.1, "fixed": 0.1}, n=600)
    store_ablation([subject], resamples=200)
    drawn = [condition for condition, _ in subject.asked]
    assert drawn.count("swapped") == 1 and drawn.count("fixed") == DRAWS
    subject = Planted({"swapped": 0.1}, n=599)
    store_ablation([subject], resamples=200)
    assert [condition for condition, _ in subject.asked].count("swapped") == 2


def test_seeds_are_the_outer_level() -> None:
    """Two trainings whose gains are 1 and 0.5: the interval is as wide as their difference says."""
    one = store_ablation([Planted({"random": 0.5})], resamples=500)
    both = store_ablation([Planted({"random": 0.5}), Planted({"random": 0.5}, shift=0.5)], resamples=500)
    assert both.gain.value == pytest.approx(0.75)
    assert both.gain.high - both.gain.low > 0.4 > 0.01 > one.gain.high - one.gain.low
    assert found_in(both, "random").share.value == pytest.approx(0.5 / 0.75)


def test_a_retrained_store_has_to_agree() -> None:
    subject = Planted({"swapped": 0.02, "swapped-conditioning": 0.01})
    assert store_ablation([subject], resamples=500).outcome == "prompt-tuning-like"
    losses = subject.losses("full") + 0.9
    found = store_ablation([subject], {"random": np.stack([losses, losses])}, resamples=500)
    assert found_in(found, "random", retrained=True).share.value == pytest.approx(0.9)
    assert found.outcome == "mixed"


def test_no_gain_means_no_shares() -> None:
    subject = PipelineSubject(pipeline_of("zero-shot"), queries())
    found = store_ablation([subject], resamples=200)
    assert found.gain.value == 0 and found.outcome == "cannot-tell"
    assert all(np.isnan(one.share.value) and one.rise.value == 0 for one in found.ablations)


def test_bad_subjects_are_told() -> None:
    with pytest.raises(DataError, match="same queries"):
        store_ablation([Planted({}), Planted({}, n=50)])
    with pytest.raises(DataError, match="not finite"):
        store_ablation([Planted({"random": float("nan")})], resamples=200)


# ---- of pipelines -------------------------------------------------------------------------------------------


def pipeline_of(name: str, **settings: Any) -> Pipeline:
    method = built(Case(name, name, settings), lm_of("llama"), TWO)
    store = type(STORE).of([e for e in STORE.examples if e.target != "C"])
    return Pipeline(method, lm_of("llama"), TWO, store, RETRIEVAL, SHORT)


def queries(count: int = 30) -> list[Any]:
    return [example(100 + i, "AB"[i % 2], f"{'yes' if i % 2 else 'the no'} asked {i}") for i in range(count)]


def trained(name: str, on: Task | None = None, training: TrainingConfig = SHORT, **settings: Any) -> Pipeline:
    method = Case(name, name, settings).method()
    return fit(method, lm_of("llama"), on or task(), retrieval=RETRIEVAL, training=training, quiet=True)


@pytest.mark.slow
def test_prompt_tuning_loses_exactly_nothing() -> None:
    """Nearly all rows have one label, which one prompt for all can say."""
    rows = [example(i, "B" if i % 9 == 0 else "A", f"asked {i}") for i in range(70)]
    lopsided = Task(TWO, tuple(rows[:30]), tuple(rows[30:40]), tuple(rows[40:]))
    longer = SHORT.replace(epochs=6, learning_rate=0.1)
    subject = PipelineSubject(trained("prompt-tuning", lopsided, longer, tokens=3), lopsided.test)
    found = store_ablation([subject], resamples=200)
    assert {one.condition for one in found.ablations} == set(CONDITIONS) - {"full", "empty"}
    assert all(one.rise.value == one.rise.low == one.rise.high == 0 for one in found.ablations)
    assert found.gain.low > 0 and found.outcome == "prompt-tuning-like"
    assert all(one.share.value == 0 for one in found.ablations)


@pytest.mark.slow
@pytest.mark.parametrize("condition", RETRAINABLE)
def test_training_again_sees_the_condition_only(condition: Condition, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = PipelineSubject(trained("mha-esp", **MHA), queries(6))
    full = subject.losses("full")
    cls, seen = type(subject.pipeline.method), []
    own = cls._keys

    def spying(self: Any, retrieved: Retrieved) -> Any:
        found = own(self, retrieved)
        seen.append((self.training, retrieved, found[0].detach()))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(cls, "_keys", spying)
        losses = retrain_under(condition, subject, task())
    assert losses.shape == (6,) and np.isfinite(losses).all()
    assert np.abs(losses - full).max() > 1e-4
    np.testing.assert_array_equal(losses, retrain_under(condition, subject, task()))
    assert {training for training, *_ in seen} == {True, False}
    stored = {e.id: e.target for e in subject.pipeline.store.examples}
    moved = {e.id: e.target for e in shuffled_labels(subject.pipeline.store, SHORT.seed).examples}
    assert stored != moved
    for training, retrieved, vectors in seen:
        targets = {e.id: e.target for e in retrieved.store.examples}
        assert targets.items() <= (moved if condition == "shuffled" else stored).items()
        if condition == "mean":
            assert (vectors - vectors[0, 0]).abs().max() == 0
        if condition == "gaussian":
            assert len({tuple(row) for row in vectors.flatten(0, 1).tolist()}) == vectors.shape[0] * vectors.shape[1]
        if condition == "fixed" and not training and len(retrieved) == 6:
            assert (retrieved.indices == retrieved.indices[0]).all()
    if condition == "random":
        alike = fit(
            cls(subject.pipeline.method.config),
            lm_of("llama"),
            task(),
            retrieval=RETRIEVAL.replace(strategy="random", seed=SHORT.seed),
            training=SHORT,
            quiet=True,
        )
        np.testing.assert_array_equal(losses, PipelineSubject(alike, queries(6)).losses("full"))


@pytest.mark.slow
def test_it_says_beforehand_what_it_will_cost(capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = trained("mha-esp", **MHA)
    pipeline.seconds = 300.0
    retrain_under("random", PipelineSubject(pipeline, queries(6), quiet=False), task())
    assert "training mha-esp again with random entries of the store: about 5 min" in capsys.readouterr().err
    retrain_under("random", PipelineSubject(pipeline, queries(6)), task())
    assert capsys.readouterr().err == ""


def test_what_retrieves_nothing_is_not_trained_again(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = PipelineSubject(trained("idpg", encoder="tiny", adapter=8, tokens=2), queries(6))
    monkeypatch.setattr("coldframe.diagnosis.store_ablation.fit", None)
    np.testing.assert_array_equal(retrain_under("random", subject, task()), subject.losses("full"))


@pytest.mark.parametrize(
    ("name", "settings", "condition", "reason"),
    [
        ("mha-esp", MHA, "swapped", "Nothing is trained"),
        ("mha-esp", {**MHA, "windows": 2}, "mean", "single entries"),
        ("icl", {"k": 2}, "random", "nothing to train"),
    ],
)
def test_what_cannot_be_trained_is_told(name: str, settings: dict[str, Any], condition: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        retrain_under(condition, PipelineSubject(pipeline_of(name, **settings), queries(6)), task())
