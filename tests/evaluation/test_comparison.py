"""What a comparison changes, keeps and measures, beside what the command line's tests show of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from tests.contract.cases import TinyEncoder, corpus
from tests.tiny import tiny

import coldframe as cf
from coldframe.errors import ConfigError, DataError
from coldframe.evaluation.comparison import compare
from coldframe.evaluation.jobs import Job, controls_of, rows_of
from coldframe.evaluation.runs import Outcome, Runner, order_deviation
from coldframe.evaluation.trained_controls import shuffled_labels
from coldframe.frozen.model import FrozenLM
from coldframe.inference.predictions import Predictions
from coldframe.pipeline.pipeline import Pipeline
from coldframe.retrieval.encoders import load_encoder
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.retrieval.store import Store
from coldframe.tasks.task import Example, Schema, Task
from coldframe.training.config import TrainingConfig

LM = FrozenLM(*tiny("llama"))


@pytest.fixture(autouse=True)
def encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(spec: str) -> Any:
        return TinyEncoder(spec) if spec == "tiny" else load_encoder(spec)

    monkeypatch.setattr("coldframe.pipeline.setup.load_encoder", load)


SMILES = "CCO CCN CCC c1ccccc1 CC(=O)O CCOC CCCl c1ccncc1 CC#N CCS OCCO NCCN".split()
ROWS = tuple(Example(s, "Yes" if "O" in s else "No", f"row-{i:02d}", s) for i, s in enumerate(SMILES))
SCHEMA = Schema(
    "assay", domain="molecules", labels=("No", "Yes"), words=("No", "Yes"), positive="Yes", metric="log_loss"
)
TASK = Task(SCHEMA, ROWS[:6], ROWS[6:8], ROWS[8:])
QUICK = {"heads": 2, "k": 3, "adapter": 8, "encoder": "morgan"}


def run(n: int = 3, seed: int = 0) -> Predictions:
    shares = np.random.default_rng(seed).dirichlet([1.0, 1.0], n)
    return Predictions(
        method="m",
        seed=seed,
        task="t",
        ids=tuple(f"i{row}" for row in range(n)),
        texts=tuple(f"text {row}" for row in range(n)),
        labels=("No", "Yes"),
        targets=np.arange(n) % 2,
        probabilities=shares,
        neighbours=np.array([["a", "b"]] * n),
        similarities=np.ones((n, 2), np.float32),
        attention=np.full((n, 1, 2), 0.5, np.float32),
    )


def runner(out: Path | None = None) -> Runner:
    training = TrainingConfig(epochs=1, batch_size=4)
    return Runner(LM, TASK, training, RetrievalConfig(), out, shuffles=0, text_rows=None, quiet=True)


def test_shuffled_labels_keep_everything_but_who_has_which() -> None:
    store = Store.of(ROWS)
    found = shuffled_labels(store, seed=1)
    assert [e.id for e in found.examples] == [e.id for e in store.examples] and found.texts == store.texts
    assert sorted(e.target for e in found.examples) == sorted(e.target for e in store.examples)
    assert found.hash == shuffled_labels(store, seed=1).hash
    assert found.hash not in (store.hash, shuffled_labels(store, seed=2).hash)


def test_predictions_on_some_rows() -> None:
    outcome = Outcome(run(), [], 1.0, None, 0)
    assert outcome.on(run().ids) is outcome.predictions
    some = outcome.on(["i2", "i0"])
    assert some.ids == ("i2", "i0") and some.texts == ("text 2", "text 0") and some.targets.tolist() == [0, 0]
    np.testing.assert_array_equal(some.probabilities, run().probabilities[[2, 0]])


@pytest.mark.parametrize("value", np.random.default_rng(0).uniform(50, 100, 20))
def test_equal_scores_have_a_deviation_of_exactly_zero(value: float) -> None:
    # The mean of five equal floats is often another float.
    same = dataclasses.replace(run(), probabilities=np.array([[value, 100 - value]] * 3) / 100)
    pipeline = SimpleNamespace(schema=SCHEMA, predictions=lambda queries, shuffle: same)
    assert order_deviation(cast(Pipeline, pipeline), ROWS, 5) == 0.0
    runs = [run(seed=seed) for seed in range(5)]
    pipeline = SimpleNamespace(schema=SCHEMA, predictions=lambda queries, shuffle: runs[shuffle])
    assert order_deviation(cast(Pipeline, pipeline), ROWS, 5) > 0


def test_the_linear_head_is_trained_like_a_method_and_the_model_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("the language model was run")

    monkeypatch.setattr("coldframe.frozen.prefill.forward", never)
    job = next(job for job in controls_of(TASK, {"mha-esp": QUICK}, (0,)) if job.title == "encoder + linear head")
    outcome = runner().run([job])[job.title][0]
    assert outcome.predictions.method == job.title and len(outcome.history) == 1


def test_controls_are_jobs_of_methods_that_anyone_can_run() -> None:
    settings = {"mha-esp": QUICK, "random-forest": {"trees": 5}}
    jobs = controls_of(TASK, settings, (0, 1))
    by_title = {job.title: job for job in jobs}
    assert {job.role for job in jobs} == {"no-lm"} and not any(job.build().reads_model for job in jobs)
    assert [job.title for job in jobs if job.seed == 1] == ["random forest", "encoder + linear head"]
    assert by_title["random forest"].settings == {"encoder": "morgan", "trees": 5}
    assert by_title["5-NN vote (weighted)"].settings == {"k": 5, "weights": "similarity"}
    assert "logistic regression, TF-IDF" not in by_title, "of molecules no words are counted"
    # A method that is compared anyway has its row, and the votes are not its only settings.
    fewer = controls_of(TASK, settings, (0,), ["knn", "random-forest"])
    assert [job.method for job in fewer] == ["logistic-regression", "mha-esp-head", "knn", "knn", "knn"]
    small = dataclasses.replace(TASK, train=ROWS[:2], validation=())
    assert [job.title for job in controls_of(small, {}, (0,)) if job.method == "knn"] == [
        "1-NN vote",
        "2-NN vote",
        "2-NN vote (weighted)",
    ]


def test_a_control_is_stored_whatever_the_model_is(tmp_path: Path) -> None:
    job = next(job for job in controls_of(TASK, {}, (0,)) if job.title == "1-NN vote")
    other = dataclasses.replace(runner(tmp_path), lm=FrozenLM(*tiny("gpt2")))
    assert runner(tmp_path).key(job) == other.key(job)


def test_a_method_without_a_model_is_compared_like_any_other(cache: Path) -> None:
    settings = {"logistic-regression": {"encoder": "morgan", "c": 1.0}}
    methods = ["zero-shot", "logistic-regression"]
    comparison = compare(LM, TASK, methods, (0, 1), method_settings=settings, controls=False, quiet=True)
    row = next(row for row in comparison.data.rows if row.name == "logistic-regression")
    assert row.role == "no-lm" and comparison.data.main == row.name and len(comparison.runs[row.name]) == 1
    assert row.cost is not None and row.cost.context_tokens == 0 and row.cost.prefill_flops is None
    assert row.cost.trainable_parameters == 2 * 2048 + 2 and row.cost.latency_ms is not None


@pytest.mark.slow
def test_a_kept_run_is_found_and_another_setting_is_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job("mha-esp", "method", "mha-esp", QUICK, seed=0, keep=True)
    first = runner(tmp_path).run([job])["mha-esp"][0]
    weights = (tmp_path / "artifact" / "model.safetensors").read_bytes()
    again = runner(tmp_path).run([job])["mha-esp"][0]
    np.testing.assert_array_equal(again.predictions.probabilities, first.predictions.probabilities)
    assert again.history == first.history and again.seconds == first.seconds

    other = dataclasses.replace(job, settings={**QUICK, "training": {"learning_rate": 0.01}})
    changed = runner(tmp_path).run([other])["mha-esp"][0]
    assert not np.array_equal(changed.predictions.probabilities, first.predictions.probabilities)
    assert (tmp_path / "artifact" / "model.safetensors").read_bytes() != weights
    # The first run is on disk, but the artifact is no longer its own: it is made again.
    runner(tmp_path).run([job])
    assert (tmp_path / "artifact" / "model.safetensors").read_bytes() == weights

    record = next((tmp_path / "runs").glob("mha-esp-seed0-*.json"))
    record.write_text("{")
    monkeypatch.setattr(Runner, "_artifact_is_of", lambda *_: True)
    with pytest.raises(DataError, match="Delete it to make this run again"):
        runner(tmp_path).run([job, other])


@pytest.mark.slow
def test_generation_tasks_are_compared_without_controls(cache: Path) -> None:
    schema = Schema("say", "generation", metric="token_f1")
    rows = [Example(f"say {i}", f"number {i}", f"r{i:02d}", str(i)) for i in range(12)]
    task = Task(schema, tuple(rows[:6]), tuple(rows[6:8]), tuple(rows[8:]))
    found = cf.compare(
        LM,
        task,
        ("zero-shot", "prompt-tuning"),
        seeds=(0,),
        training=TrainingConfig(epochs=1),
        method_settings={"prompt-tuning": {"tokens": 2}},
        costs=False,
        quiet=True,
    )
    assert [row["name"] for row in found.to_dict()["rows"]] and found.data.main == "prompt-tuning"
    assert {row.name for row in found.data.rows} == {"zero-shot", "prompt-tuning"}
    assert all((row.fit_memory_mb or 0) > 50 for row in found.data.rows)


@pytest.mark.slow
def test_one_table_over_all_four_ports(cache: Path, tmp_path: Path) -> None:
    pear = {"heads": 2, "fixed": 0.5, "repetitions": [[3, 6]], "length": 6, "held_out": 2}
    esp = {"encoder": "tiny", "adapter": 8, "heads": 2, "k": 2}
    methods = ("zero-shot", "icl", "prag", "poly-prag", "dyprag", "mha-esp", "pear", "lora", "icl+prag")
    settings = {"icl": {"k": 2}, "pear": pear, "mha-esp": esp, "icl+prag": {"icl": {"k": 2}}}
    comparison = cf.compare(
        LM,
        corpus(),
        methods,
        (0,),
        training={"epochs": 1},
        method_settings=settings,
        main="prag",
        out=tmp_path,
        quiet=True,
    )
    rows = {row.name: row for row in comparison.data.rows}
    retrieving = ("icl", "prag", "poly-prag", "dyprag", "mha-esp", "icl+prag")
    assert {*rows} == {*methods, *(f"{name}, swapped store" for name in retrieving)}
    assert {score.metric for score in rows["prag"].scores} >= {"token_f1", "exact_match", "contains", "loss"}
    assert rows["prag"].score("loss").low < rows["prag"].score("loss").value
    assert rows["prag"].cost is not None and rows["prag"].cost.trainable_parameters > 0
    assert rows["prag, swapped store"].role == "control" and rows["icl"].difference is not None
    assert (tmp_path / "report.html").is_file()
    again = cf.compare(
        LM,
        corpus(),
        methods,
        (0,),
        training={"epochs": 1},
        method_settings=settings,
        main="prag",
        out=tmp_path,
        quiet=True,
    )
    assert again.to_dict()["rows"] == comparison.to_dict()["rows"]


def test_a_recipe_is_narrowed_by_its_methods_alone_and_a_mistyped_one_is_told() -> None:
    settings = {"mha-esp": QUICK, "lora": {"training": {"epochs": 1}}}
    found = compare(LM, TASK, ["zero-shot"], [0], method_settings=settings, controls=False, costs=False, quiet=True)
    assert list(found.runs) == ["zero-shot"]
    with pytest.raises(ConfigError, match=r"no method 'mha-epsb'.*\s*.*mha-esp"):
        compare(LM, TASK, ["zero-shot"], [0], method_settings={"mha-epsb": {}}, quiet=True)


def test_a_method_in_two_rows_has_settings_of_each_and_controls_of_its_own(cache: Path) -> None:
    settings = {"mha-esp": QUICK, "averaging": {**QUICK, "scores": "dot", "slope": 1.0}}
    comparison = cf.compare(
        LM,
        TASK,
        ("mha-esp", "averaging=mha-esp"),
        (0,),
        training={"epochs": 1},
        method_settings=settings,
        main="averaging",
        controls=False,
        ablations=("shuffled-labels",),
        costs=False,
        quiet=True,
    )
    assert {row.name for row in comparison.data.rows} == {"mha-esp", "averaging", "averaging, shuffled labels"}
    by_row = comparison.data.settings["methods"]
    assert (by_row["mha-esp"]["scores"], by_row["averaging"]["scores"]) == ("cosine", "dot")
    assert by_row["averaging, shuffled labels"] == by_row["averaging"]
    (mha,) = comparison.runs["mha-esp"]
    (averaging,) = comparison.runs["averaging"]
    assert (mha.probabilities != averaging.probabilities).any()


@pytest.mark.parametrize("methods", [("icl", "icl"), ("icl=mha-esp",), ("=icl",), ("a.b=icl",), ("a=icl", "a=lora")])
def test_rows_have_names_of_their_own(methods: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError):
        rows_of(methods)
