"""The one entry point: what it takes, what it makes of it, what it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.diagnosis.test_diagnosis_report import full as made_up

import coldframe as cf
from coldframe.diagnosis.contexts import ContextSubject, Query
from coldframe.diagnosis.evidence import Diagnosis
from coldframe.diagnosis.subject import CONDITIONS, Condition
from coldframe.errors import ColdframeError, ConfigError, DataError
from coldframe.frozen.model import FrozenLM
from coldframe.methods.soft_tokens.idpg import IDPG
from coldframe.methods.soft_tokens.mha_esp import MHAESP
from coldframe.methods.soft_tokens.prompt_tuning import PromptTuning
from coldframe.methods.text.icl import RetrievedICL
from coldframe.pipeline.fit import fit
from coldframe.pipeline.pipeline import Pipeline
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.tasks.task import Example, Schema, Task
from coldframe.training.config import TrainingConfig

from ..tiny import tiny

FAST = {"resamples": 400, "quiet": True}


class Made:
    """A subject of which is known what share of its gain is lost without what it retrieves."""

    name, task, model, unit = "made", "numbers", "none", "nats"
    groups: NDArray[np.int64] | None = None

    def __init__(self, share: float, n: int = 200, gain: float = 1.0, noise: float = 0.0, seed: int = 0) -> None:
        self.share, self.n, self.gain, self.noise = share, n, gain, noise
        self.rng = np.random.default_rng(seed)
        self.alone = np.random.default_rng(7).exponential(2.0, n)
        self.asked: list[str] = []

    def __len__(self) -> int:
        return self.n

    def missing(self) -> Mapping[Condition, str]:
        return {name: "not made" for name in CONDITIONS if name not in ("full", "empty", "swapped", "random")}

    def losses(self, condition: Condition, seed: int = 0) -> NDArray[np.float64]:
        self.asked.append(condition)
        rest = {"full": 0.0, "empty": 1.0, "swapped": self.share, "random": self.share}[condition]
        spread = np.random.default_rng([len(condition), seed]).normal(0, 0.05, self.n)
        return self.alone + self.gain * (rest - 1) + spread + self.rng.normal(0, 1, self.n) * self.noise


@pytest.mark.parametrize(
    ("share", "outcome"), [(0.9, "retrieval-driven"), (0.0, "prompt-tuning-like"), (0.3, "mixed"), (0.1, "cannot-tell")]
)
def test_a_planted_share_is_found(share: float, outcome: str) -> None:
    found = cf.diagnose(Made(share), **FAST)
    assert found.verdict.outcome == outcome
    swapped = found.store_ablation.ablations[0]
    assert swapped.condition == "swapped" and swapped.share.low < share + 0.02 and swapped.share.high > share - 0.02
    assert (found.subject, found.task, found.model, found.n, found.seeds) == ("made", "numbers", "none", 200, 1)
    assert found.token_variance is None and found.ladder is None and found.store_health is None
    assert ("mean", "not made") in found.store_ablation.missing


def test_no_gain_and_too_few_queries_get_no_verdict() -> None:
    nothing = cf.diagnose(Made(0.5, gain=0.0), **FAST)
    assert nothing.verdict.outcome == "cannot-tell" and "no gain" in nothing.verdict.headline
    assert np.isnan(nothing.store_ablation.ablations[0].share.value)
    few = cf.diagnose(Made(0.9, n=29), **FAST)
    assert few.verdict.outcome == "cannot-tell" and few.verdict.queries_needed == 30
    assert cf.diagnose(Made(0.9, n=30), **FAST).verdict.outcome == "retrieval-driven"


def test_noise_is_found_by_asking_twice_and_said() -> None:
    still = cf.diagnose(Made(0.9), **FAST)
    noisy = cf.diagnose(Made(0.9, noise=0.3), **FAST)
    assert not any("Not deterministic" in note for note in still.notes)
    assert any("Not deterministic" in note for note in noisy.notes)
    widths = [one.store_ablation.gain.high - one.store_ablation.gain.low for one in (still, noisy)]
    assert widths[1] > 2 * widths[0]


def test_several_trainings_are_one_diagnosis() -> None:
    found = cf.diagnose([Made(0.9, seed=1), Made(0.8, seed=2)], **FAST)
    assert found.seeds == 2 and found.store_ablation.ablations[0].share.value == pytest.approx(0.85, abs=0.02)


def test_a_ladder_that_was_trained_before_is_taken() -> None:
    ladder = made_up().ladder
    assert ladder is not None
    found = cf.diagnose(Made(0.9), ladder=ladder, **FAST)
    assert found.ladder is ladder and found.verdict.outcome == "retrieval-driven"
    assert any(reason.startswith("Ladder: retrieval-driven") for reason in found.verdict.reasons)


def test_what_cannot_be_used_is_refused() -> None:
    class Broken(Made):
        def losses(self, condition: Condition, seed: int = 0) -> NDArray[np.float64]:
            found = super().losses(condition, seed)
            if condition == "swapped":
                found[3] = np.nan
            return found

    class Short(Made):
        def losses(self, condition: Condition, seed: int = 0) -> NDArray[np.float64]:
            return super().losses(condition, seed)[:-1]

    with pytest.raises(DataError, match="not finite; the first is of query 3"):
        cf.diagnose(Broken(0.5), **FAST)
    with pytest.raises(DataError, match="not one loss per query.*199.*200"):
        cf.diagnose(Short(0.5), **FAST)
    with pytest.raises(DataError, match="nothing to diagnose"):
        cf.diagnose([], **FAST)
    with pytest.raises(ConfigError, match="cannot be diagnosed.*object.*ContextSubject"):
        cf.diagnose(object(), **FAST)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="this subject has its own"):
        cf.diagnose(Made(0.5), [Example("a", "b", "1", "1")], **FAST)
    for options in ({"retrain": ["random"]}, {"ladder": True}):
        with pytest.raises(ConfigError, match="can be trained again"):
            cf.diagnose(Made(0.5), **options, **FAST)  # type: ignore[arg-type]


def test_the_store_of_anybody_s_pipeline_is_looked_at() -> None:
    towns = ["Rome", "Oslo", "Lima", "Bern"]
    store = [f"p{i} lives in {towns[i % 4]}." for i in range(40)]
    queries = [Query(f"Where does p{i} live?", towns[i % 4]) for i in range(40)]

    def retrieve(text: str) -> list[str]:
        return [store[int(text.split()[2][1:])], store[0]]  # the second one is a hub

    def loss(text: str, passages: Any, answer: str) -> float:
        name = text.split()[2]
        return 0.1 if any(p.startswith(f"{name} ") and answer in p for p in passages) else 2.0 + len(text) % 3

    subject = ContextSubject(queries, retrieve, loss, store=store)
    found = cf.diagnose(subject, **FAST)
    assert found.verdict.outcome == "retrieval-driven", found.verdict
    health = found.store_health
    assert health is not None and health.entries == 40 and health.curve[0] == (1, 40) and health.leaks == 0
    assert np.isnan(health.score_gap)  # a retriever that does not say how near an entry is
    unknown = cf.diagnose(ContextSubject(queries, retrieve, loss), **FAST)
    assert unknown.store_health is None and any("No store was given" in note for note in unknown.notes)


# ---- coldframe's own pipelines --------------------------------------------------------------------------

SCHEMA = Schema("made-up", labels=("no", "yes"), words=("No", "Yes"), metric="accuracy")
TRAINING = TrainingConfig(epochs=2, batch_size=8, patience=0)


def examples(name: str, count: int, seed: int) -> tuple[Example, ...]:
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        label = int(rng.random() < 0.85)
        found.append(
            Example(f"{'green' if label else 'red'} {name} {i}", SCHEMA.labels[label], f"{name}{i}", f"{name}{i}")
        )
    return tuple(found)


@pytest.fixture(scope="module")
def lm() -> FrozenLM:
    return FrozenLM(*tiny())


@pytest.fixture(scope="module")
def task() -> Task:
    return Task(SCHEMA, examples("train", 40, 0), examples("held", 10, 1), examples("test", 36, 2))


def trained(method: Any, lm: FrozenLM, task: Task, seed: int = 0) -> Pipeline:
    retrieval = RetrievalConfig(encoder="tiny", similarity="cosine")
    return fit(method, lm, task, retrieval=retrieval, training=TRAINING.replace(seed=seed), quiet=True)


@pytest.mark.slow
def test_a_static_prompt_is_called_so(lm: FrozenLM, task: Task) -> None:
    method = fit(PromptTuning(tokens=2), lm, task, training=TRAINING.replace(epochs=6, learning_rate=0.1), quiet=True)
    found = cf.diagnose(method, task=task, **FAST)
    assert found.verdict.outcome == "prompt-tuning-like"
    assert found.token_variance is not None and found.token_variance.mean_share.value == 0
    assert found.store_health is None  # it retrieves nothing
    assert any("One training seed" in note for note in found.notes)
    # What it says: the prompt is static already, and nothing would be saved.
    assert found.verdict.advice[0].startswith("Nothing is to be replaced")


@pytest.mark.slow
def test_a_retrieving_pipeline_goes_through_with_all_conditions(lm: FrozenLM, task: Task) -> None:
    method = MHAESP(heads=2, k=2, encoder="tiny", adapter=8)
    found = cf.diagnose(trained(method, lm, task), task.test, task=task, retrain=["random"], **FAST)
    assert found.n == 36 and found.unit == "nats"
    conditions = {(one.condition, one.retrained) for one in found.store_ablation.ablations}
    assert conditions == {(name, False) for name in CONDITIONS if name not in ("full", "empty")} | {("random", True)}
    assert found.token_variance is not None and len(found.token_variance.cosines) == 2
    assert found.store_health is not None and found.store_health.entries == 50
    assert any("before training" in note for note in found.notes)


@pytest.mark.slow
def test_exemplars_in_the_prompt_have_no_tokens_and_no_ladder(lm: FrozenLM, task: Task) -> None:
    pipeline = trained(RetrievedICL(k=2), lm, task)
    found = cf.diagnose(pipeline, task.test, **FAST)
    assert found.token_variance is None
    assert {"gaussian", "mean", "swapped-conditioning"} <= {name for name, _ in found.store_ablation.missing}
    with pytest.raises(ConfigError, match="no soft tokens"):
        cf.diagnose(pipeline, task.test, task=task, ladder=True, **FAST)


@pytest.mark.slow
def test_pipelines_of_different_settings_are_not_put_together(lm: FrozenLM, task: Task) -> None:
    first, second = (trained(IDPG(tokens=tokens, encoder="tiny"), lm, task) for tokens in (1, 2))
    with pytest.raises(ConfigError, match="Only the training seed may differ"):
        cf.diagnose([first, second], task.test, **FAST)
    with pytest.raises(ConfigError, match="need different seeds"):
        cf.diagnose([first, first], task.test, **FAST)
    with pytest.raises(ConfigError, match="cannot be diagnosed together"):
        cf.diagnose([first, Made(0.5)], task.test, **FAST)
    with pytest.raises(ColdframeError, match="does not say where its task came from"):
        cf.diagnose(first, **FAST)
    other = trained(IDPG(tokens=1, encoder="tiny"), lm, task, seed=1)
    found = cf.diagnose([first, other], task.test, **FAST)
    assert found.seeds == 2 and not any("One training seed" in note for note in found.notes)


def test_it_travels_to_json_and_back() -> None:
    found = cf.diagnose(Made(0.9), notes=["a note"], command="made by hand", **FAST)
    assert Diagnosis.from_dict(found.to_dict()).verdict == found.verdict
    assert found.notes == ("a note",) and found.command == "made by hand"
