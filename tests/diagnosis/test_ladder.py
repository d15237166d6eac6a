"""The prompt-tuning ladder: what each rung may look at, how its rate is chosen, and that finished runs are found."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.contract.cases import FOUND, METHODS, QUERIES, SCHEMA, TWO, WRITE, TinyEncoder, example, lm_of

from coldframe.diagnosis.evidence import Rung
from coldframe.diagnosis.ladder import RungRun, RungRuns, choose, climb, ladder
from coldframe.diagnosis.ladder_plan import RUNGS, Step, control_settings, count_tokens, plan
from coldframe.diagnosis.pipeline_subject import PipelineSubject
from coldframe.diagnosis.soft_token_subject import SoftTokenSubject, subject_of
from coldframe.errors import ConfigError, DataError, TrainingError
from coldframe.evaluation.jobs import Job
from coldframe.evaluation.runs import Runner
from coldframe.evaluation.trained_controls import ConstantInput
from coldframe.methods.base import Method
from coldframe.methods.config import MethodContext
from coldframe.methods.registry import create, method_class
from coldframe.pipeline.fit import fit
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.tasks.task import Schema, Task
from coldframe.training.config import TrainingConfig

LM = lm_of("llama")
MHA = {"encoder": "tiny", "adapter": 8, "heads": 2, "k": 2}
RETRIEVAL = RetrievalConfig(encoder="tiny")
TRAINING = TrainingConfig(epochs=1, batch_size=8, warmup=0.0, select="loss", patience=0)
ONE_RATE = {"prompt-tuning": [0.1], "reparameterised": [0.01], "constant": [0.01], "query-only": [0.01], "full": [0.01]}


@pytest.fixture(autouse=True)
def small_controls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coldframe.methods.without_model.random_forest.RandomForest.tried", (1,))


def method_of(name: str = "mha-esp", **settings: Any) -> Method:
    return create(name, settings or MHA)


def told(train: int = 8, rest: int = 6, schema: Schema = TWO) -> Task:
    """Random letters, and a label that the encoder's vector of the query says and nothing else does."""
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abcdefgh"), 9)) for _ in range(4 * (train + 2 * rest))]
    vectors = TinyEncoder().encode(texts)
    says = vectors[:, 0] - vectors[:, 5]
    clear = np.flatnonzero(np.abs(says - np.median(says)) > np.quantile(np.abs(says - np.median(says)), 0.75))
    rows = [example(i, "AB"[int(says[i] > np.median(says))], texts[i]) for i in clear]
    return Task(schema, tuple(rows[:train]), tuple(rows[train : train + rest]), tuple(rows[train + rest :]))


def runner(out: Path | None = None, task: Task | None = None, training: TrainingConfig = TRAINING) -> Runner:
    return Runner(LM, task or told(), training, RETRIEVAL, out, shuffles=0, text_rows=None, quiet=True)


# ---- the constant rung --------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", ["mha-esp", "mha-esp/text", "p-esp", "u-esp/vectors", "idpg"])
def test_a_constant_input_gives_what_the_method_makes_of_it(id: str) -> None:
    case = next(case for case in METHODS if case.id == id)
    setting = MethodContext(LM, SCHEMA, TinyEncoder(case.settings["encoder"]))
    method = case.method().setup(setting, seed=4)
    constant = ConstantInput(case.method(), QUERIES[0], FOUND.rows([0])).setup(setting, seed=4).eval()
    own, held = dict(method.named_parameters()), dict(constant.named_parameters())
    assert list(held) == [f"inner.{name}" for name in own]
    assert all(torch.equal(held[f"inner.{name}"], weight) for name, weight in own.items())
    groups = [[(len(g["params"]), g["lr"]) for g in one.parameter_groups(0.5)] for one in (constant, method)]
    assert groups[0] == groups[1]
    with torch.no_grad():
        wanted = method.eval().condition(QUERIES, FOUND.rows([0, 0, 0, 0]))
        others = method.condition(QUERIES, FOUND)
        made = constant.condition(QUERIES, FOUND)
    first = method.condition(QUERIES[:1], FOUND.rows([0]))
    assert made.soft_tokens is not None and wanted.soft_tokens is not None and others.soft_tokens is not None
    assert first.soft_tokens is not None
    torch.testing.assert_close(made.soft_tokens, first.soft_tokens[0].detach())
    assert not torch.allclose(others.soft_tokens[1], made.soft_tokens, atol=1e-3)
    assert made.placement == wanted.placement and made.attention is None
    if others.contexts is not None:
        assert made.contexts == others.contexts[:1] * len(QUERIES) != others.contexts


def test_dropout_of_a_constant_input_differs_between_rows_as_it_does_without() -> None:
    constant = ConstantInput(method_of(**MHA, dropout=0.5), QUERIES[0], FOUND.rows([0]))
    constant.setup(MethodContext(LM, SCHEMA, TinyEncoder())).train()
    tokens = constant.condition(QUERIES, FOUND).soft_tokens
    assert tokens is not None and len(tokens) == len(QUERIES) and not torch.equal(tokens[0], tokens[1])


def test_the_constant_rung_has_the_full_parameters_and_the_same_tokens_for_all() -> None:
    task = told()
    steps = {step.name: step for step in plan(method_of(), 2, TRAINING, ONE_RATE)}
    full, constant = (runner(task=task).fit(steps[name].job(0.01, 0)) for name in ("full", "constant"))
    assert [p.shape for p in constant.method.parameters()] == [p.shape for p in full.method.parameters()]
    subjects = [subject_of(pipeline, task.test) for pipeline in (full, constant)]
    assert all(isinstance(subject, SoftTokenSubject) for subject in subjects)
    spread = [float(np.ptp(subject.tokens(), axis=0).max()) for subject in subjects]  # type: ignore[attr-defined]
    assert spread[0] > 0.01 and spread[1] == 0
    assert len(np.unique(subjects[1].losses("full"))) > 1, "the model still reads the query"


def test_a_constant_input_comes_out_of_the_store_of_a_task_that_has_one() -> None:
    rows = told()
    task = dataclasses.replace(rows, store=tuple(example(100 + i, "AB"[i % 2], f"entry {i}") for i in range(5)))
    settings = {"encoder": "tiny", "tokens": 2, "k": 2, "heads": 2}
    method = runner(task=task).fit(Job("constant", None, "latent-memory", settings, 0, "constant-input")).method
    assert isinstance(method, ConstantInput) and method.text == task.train[0].text
    assert {e.text for e in method.retrieved.examples(0)} < {e.text for e in task.exemplars}


def test_runs_of_before_keep_their_names() -> None:
    job = Job("full", None, "mha-esp", MHA, 0)
    constant = dataclasses.replace(job, change="constant-input")
    assert runner().key(job) != runner().key(constant)
    assert runner().key(dataclasses.replace(job, title="another")) == runner().key(job)


# ---- the plan -----------------------------------------------------------------------------------------------


def test_rungs_share_the_inputs_of_the_full_method() -> None:
    method = method_of(encoder="tiny", adapter=8, heads=2, k=2, dropout=0.1, placement="prefix", encoder_rank=0)
    steps = {step.name: step for step in plan(method, 2, TRAINING.replace(learning_rate=0.2), {"constant": [0.5]})}
    assert tuple(steps) == RUNGS
    assert dict(steps["prompt-tuning"].settings) == {"tokens": 2, "placement": "prefix"}
    assert steps["reparameterised"].settings == steps["prompt-tuning"].settings
    query = method_class("idpg").config_class.from_dict(steps["query-only"].settings).to_dict()
    own = method.config.to_dict()
    assert query.pop("tokens") == 2 and query.pop("k") == 0
    assert query == {name: own[name] for name in query}
    assert dict(steps["full"].settings) == dict(steps["constant"].settings) == own
    assert [step.job(1.0, 0).change for step in steps.values()] == [None, None, "constant-input", None, None]
    # Around the natural rate of each method, which only the full one's is set for.
    assert steps["prompt-tuning"].rates == (0.01, 0.03, 0.09)
    assert steps["query-only"].rates == (1e-4, 3e-4, 9e-4)
    assert steps["full"].rates == (0.0667, 0.2, 0.6) and steps["constant"].rates == (0.5,)


@pytest.mark.parametrize(
    ("name", "settings", "tokens"),
    [
        ("mha-esp", MHA, 2),
        ("p-esp", {"encoder": "tiny", "k": 3}, 3),
        ("u-esp", {"encoder": "tiny"}, 1),
        ("prompt-tuning", {"tokens": 5}, 5),
    ],
)
def test_tokens_are_counted_by_what_the_method_does(name: str, settings: dict[str, Any], tokens: int) -> None:
    method = method_of(name, **settings)
    assert count_tokens(method, LM, told().schema) == tokens
    assert control_settings(method, tokens)["mha-esp"]["heads"] == tokens


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("zero-shot", {"k": 0}),
        ("icl", {"k": 2}),
        ("lora", {"rank": 2}),
        ("prompt-tuning+lora", {"prompt-tuning": {"tokens": 2}, "lora": {"rank": 2}}),
    ],
)
def test_methods_without_soft_tokens_have_no_ladder(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{re.escape(name)} puts no soft tokens .* store ablation .* icl-fixed"):
        ladder(method_of(name, **settings), LM, told(), retrieval=RETRIEVAL, quiet=True)


def test_what_cannot_be_asked_for_is_told() -> None:
    with pytest.raises(ConfigError, match="no rung 'constants'.*Did you mean 'constant'"):
        ladder(method_of(), LM, told(), learning_rates={"constants": [0.1]}, retrieval=RETRIEVAL)
    with pytest.raises(ConfigError, match="must be positive"):
        ladder(method_of(), LM, told(), learning_rates={"constant": [0.1, 0.0]}, retrieval=RETRIEVAL)
    with pytest.raises(ConfigError, match="Seeds must differ"):
        ladder(method_of(), LM, told(), seeds=(1, 1), retrieval=RETRIEVAL)
    blind = dataclasses.replace(told(), validation=())
    with pytest.raises(ConfigError, match="no validation rows"):
        ladder(method_of(), LM, blind, retrieval=RETRIEVAL)


# ---- rates --------------------------------------------------------------------------------------------------


def test_the_sweep_takes_the_rate_that_is_best_on_the_validation_rows() -> None:
    """One rate is too small to move a float32, so training says that nothing was trained, and the sweep goes on."""
    task, rates = told(), (1e-30, 1e-4, 0.3)
    step = Step("prompt-tuning", "", "prompt-tuning", {"tokens": 2}, rates)
    training = TRAINING.replace(weight_decay=0.0)
    reached = climb(step, RungRuns(runner(task=task, training=training)), seeds=(0, 1))
    assert "as it was before" in reached.tried[0].failure and reached.tried[0].validation_loss is None
    wanted = []
    for rate in rates[1:]:
        method = method_of("prompt-tuning", tokens=2)
        history = fit(method, LM, task, training=training.replace(learning_rate=rate), quiet=True).history
        wanted.append(min(record["validation_loss"] for record in history))
    assert [run.validation_loss for run in reached.tried[1:]] == pytest.approx(wanted, rel=1e-4)
    assert reached.rate == rates[1 + int(np.argmin(wanted))] and reached.runs[0] in reached.tried
    assert reached.losses.shape == (2, len(task.test)) and not np.array_equal(*reached.losses)


def test_a_rung_that_cannot_be_trained_is_an_error() -> None:
    step = Step("prompt-tuning", "", "prompt-tuning", {"tokens": 2}, (1e-30,))
    with pytest.raises(TrainingError, match="'prompt-tuning' cannot be trained.*as it was before.*learning_rates"):
        climb(step, RungRuns(runner(training=TRAINING.replace(weight_decay=0.0))), seeds=(0,))


def test_a_rate_that_failed_is_never_chosen() -> None:
    step = Step("full", "", "mha-esp", {}, (0.1, 0.2, 0.3))
    runs = [RungRun((), None, 0, 1.0, "not finite"), RungRun((1.0,), 0.7, 3, 1.0), RungRun((1.0,), 0.6, 3, 1.0)]
    assert choose(step, runs) == 0.3 and choose(step, runs[::-1]) == 0.1


# ---- the whole ladder ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_interrupted_ladder_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Job] = []
    own = Runner.fit
    patience = 4

    def counting(self: Runner, job: Job) -> Any:
        if len(trained) == patience:
            raise KeyboardInterrupt
        trained.append(job)
        return own(self, job)

    monkeypatch.setattr(Runner, "fit", counting)
    rates = {**ONE_RATE, "prompt-tuning": [0.1, 0.01]}
    asked: dict[str, Any] = {"learning_rates": rates, "training": TRAINING, "retrieval": RETRIEVAL, "quiet": True}
    with pytest.raises(KeyboardInterrupt):
        ladder(method_of(), LM, told(), seeds=(0, 1), out=tmp_path, **asked)
    patience = 100
    found = ladder(method_of(), LM, told(), seeds=(0, 1), out=tmp_path, **asked)
    titles = [(job.title, job.seed) for job in trained]
    # Controls: three votes and two regressions, two heads and two forests. The model alone, five rungs with two seeds,
    # one rate more of the first: each once.
    assert len(titles) == len(set(titles)) == 5 + 4 + 1 + 5 * 2 + 1
    again = ladder(method_of(), LM, told(), seeds=(0, 1), out=tmp_path, **asked)
    assert len(trained) == len(titles) and repr(again) == repr(found)

    assert [rung.name for rung in found.rungs] == list(RUNGS) and found.seeds == 2
    by_name = {rung.name: rung for rung in found.rungs}
    assert by_name["constant"].parameters == by_name["full"].parameters > by_name["query-only"].parameters
    assert by_name["prompt-tuning"].parameters == 2 * LM.d_model
    assert dict(by_name["prompt-tuning"].sweep).keys() == {0.1, 0.01}
    assert {control.name for control in found.controls} >= {"1-NN vote", "logistic regression", "encoder + linear head"}
    assert all(0 <= control.accuracy <= 1 for control in found.controls)

    next((tmp_path / "runs").glob("ladder-idpg-seed1-*.json")).write_text('{"losses": ')
    with pytest.raises(DataError, match="Delete it to make this run again"):
        ladder(method_of(), LM, told(), seeds=(0, 1), out=tmp_path, **asked)


@pytest.mark.slow
def test_the_numbers_are_those_of_the_runs(tmp_path: Path) -> None:
    """Gains, shares and gap from the losses on disk, by the definition."""
    found = ladder(
        method_of(), LM, told(), seeds=(0, 1), learning_rates=ONE_RATE, training=TRAINING, retrieval=RETRIEVAL,
        out=tmp_path, quiet=True,
    )  # fmt: skip
    task, losses = told(), {}
    for step in plan(method_of(), 2, TRAINING, ONE_RATE):
        key = [runner(task=task).key(step.job(step.rates[0], seed)) for seed in (0, 1)]
        records = [json.loads(next((tmp_path / "runs").glob(f"ladder-*-{one}.json")).read_text()) for one in key]
        losses[step.name] = np.mean([record["losses"] for record in records])
    alone = json.loads(next((tmp_path / "runs").glob("ladder-zero-shot-*.json")).read_text())["losses"]
    gains = {name: np.mean(alone) - loss for name, loss in losses.items()}
    for rung in found.rungs:
        assert rung.loss.value == pytest.approx(losses[rung.name])
        assert rung.gain.value == pytest.approx(gains[rung.name])
        if not np.isnan(rung.share.value):
            assert rung.share.value == pytest.approx(gains[rung.name] / gains["full"])
    assert found.gap.value == pytest.approx(gains["full"] - max(gains[name] for name in RUNGS[:-1]))


@pytest.mark.slow
def test_where_the_query_decides_a_prompt_from_the_query_alone_gets_as_far_as_retrieval() -> None:
    found = ladder(
        method_of(), LM, told(80, 30), seeds=(0,), learning_rates=ONE_RATE, training=TRAINING.replace(epochs=10),
        retrieval=RETRIEVAL, quiet=True,
    )  # fmt: skip
    loss = {rung.name: rung.loss.value for rung in found.rungs}
    static = min(loss["prompt-tuning"], loss["reparameterised"], loss["constant"])
    assert loss["query-only"] < 0.5 * static
    assert loss["query-only"] == pytest.approx(loss["full"], abs=0.1 * static)


@pytest.mark.slow
def test_a_ladder_of_a_static_prompt_for_written_answers(capsys: pytest.CaptureFixture[str]) -> None:
    """The first rung is the full method and shares its runs; there are no controls for written answers."""
    full = fit(
        method_of("prompt-tuning", tokens=2), LM, told(schema=WRITE), training=TRAINING.replace(learning_rate=0.1),
        quiet=True,
    )  # fmt: skip
    rates = {**ONE_RATE, "prompt-tuning": [0.1], "full": [0.1], "constant": [0.1]}
    full.seconds = 60.0
    found = ladder(full, LM, told(schema=WRITE), seeds=(0,), learning_rates=rates, retrieval=RETRIEVAL)
    said = capsys.readouterr().err.splitlines()
    assert said[0].endswith("up to 4 runs to train, about 4 min if all take as long as the pipeline took")
    assert len(said) == 6 and "seed 0: validation loss" in said[2] and said[-1].count("left") == 0
    rungs: dict[str, Rung] = {rung.name: rung for rung in found.rungs}
    assert rungs["prompt-tuning"].loss == rungs["full"].loss and rungs["full"].share.value == 1
    assert rungs["prompt-tuning"].share == rungs["full"].share and found.controls == ()
    assert rungs["constant"].loss.value == pytest.approx(rungs["full"].loss.value), "it looked at nothing before"
    assert rungs["full"].loss.value == pytest.approx(
        float(PipelineSubject(full, told(schema=WRITE).test).losses("full").mean()), rel=1e-4
    )
    with pytest.raises(ConfigError, match="fitted to another task"):
        ladder(full, LM, told())
