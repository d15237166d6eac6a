"""Tuning: equal budgets, on validation rows alone, the same however often it was interrupted."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contract.cases import TinyEncoder
from tests.tiny import tiny

from coldframe.errors import ConfigError, MissingExtraError, TrainingError
from coldframe.evaluation import trials, tune
from coldframe.evaluation.comparison import Comparison, compare
from coldframe.evaluation.jobs import Job, controls_of, planned
from coldframe.evaluation.report import scores
from coldframe.evaluation.trials import TrialSetup, corrected, fit_and_score, validation_splits
from coldframe.evaluation.tune import Tuner, with_settings
from coldframe.evaluation.tune import tuned as apply
from coldframe.frozen.model import FrozenLM
from coldframe.methods.registry import method_class
from coldframe.methods.search_space import Choices, Floats, Integers
from coldframe.methods.soft_tokens.mha_esp import MHAESP
from coldframe.methods.soft_tokens.prompt_tuning import PromptTuning
from coldframe.methods.text.icl import RetrievedICL
from coldframe.methods.text.zero_shot import ZeroShot
from coldframe.methods.without_model.logistic_regression import LogisticRegression
from coldframe.pipeline.label_bias import fit_label_bias
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.tasks.task import Example, Passage, Schema, Task

from .support import make_predictions

LM = FrozenLM(*tiny("llama"))
SCHEMA = Schema("mood", labels=("No", "Yes"), words=("No", "Yes"), positive="Yes", metric="accuracy")


def rows(count: int, start: int = 0) -> tuple[Example, ...]:
    return tuple(
        Example(f"the answer is {'yes' if i % 3 else 'no'} {i}", "Yes" if i % 3 else "No", f"row-{i:03d}", f"key-{i}")
        for i in range(start, start + count)
    )


TASK = Task(SCHEMA, rows(12), rows(6, 12), rows(6, 18))


@pytest.fixture(autouse=True, scope="module")
def spaces() -> Iterator[None]:
    """Small search spaces, and one split: what is tested is the same."""
    space = {"tokens": Integers(4, 12), "training.learning_rate": Floats(1e-3, 1e-1)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PromptTuning, "search_space", space)
        patch.setattr(ZeroShot, "search_space", {})
        patch.setattr(RetrievedICL, "search_space", {"k": Choices((1, 2, 5))})
        patch.setattr(trials, "ENOUGH", 6)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tuned")


@pytest.fixture(scope="module")
def whole(folder: Path, spaces: None) -> Comparison:
    return tuned(folder, ablations=("swapped-store",))


def tuned(out: Path | None, count: int = 4, task: Task = TASK, **options: Any) -> Comparison:
    words: dict[str, Any] = {
        "methods": ("zero-shot", "icl", "prompt-tuning"),
        "seeds": (0, 1),
        "training": {"epochs": 2, "batch_size": 8},
        "retrieval": RetrievalConfig(similarity="bm25"),
        "main": "prompt-tuning",
        "controls": False,
        "costs": False,
        "quiet": True,
        "tune": count,
    }
    return compare(LM, task, out=out, **{**words, **options})


def choices(comparison: Comparison) -> dict[str, Any]:
    """All trials without what they took."""
    return {
        title: (search.settings, [{**trial, "seconds": 0} for trial in search.trials])
        for title, search in comparison.searches.items()
    }


@pytest.mark.slow
def test_every_method_gets_its_trials_and_the_first_is_the_settings_as_they_are(whole: Comparison) -> None:
    searches = whole.searches
    assert {title: search.tuning.trials for title, search in searches.items()} == {
        "zero-shot": 1,  # whether to correct the labels' scores
        "icl": 3,  # all there are
        "prompt-tuning": 4,
    }
    first = searches["prompt-tuning"].trials[0]["settings"]
    assert first["tokens"] == PromptTuning().config.tokens
    assert first["training.learning_rate"] == PromptTuning.learning_rate
    for search in searches.values():
        scores = [trial["score"] for trial in search.trials if trial["state"] == "complete"]
        assert search.tuning.score == max(scores) and search.tuning.first_score <= scores[0]
        assert search.tuning.first_score == search.trials[0]["by_calibration"]["none"]
        assert search.tuning.score >= search.tuning.first_score
        assert len({json.dumps(trial["settings"]) for trial in search.trials}) == len(search.trials)
    chosen = searches["prompt-tuning"].settings
    used = whole.data.settings["methods"]["prompt-tuning"]
    assert used["tokens"] == chosen["tokens"] and {"learning_rate"} <= chosen["training"].keys()


@pytest.mark.slow
def test_files_and_rows_say_what_was_tried(whole: Comparison, folder: Path) -> None:
    records = json.loads((folder / "tuning.json").read_text())
    assert [record["title"] for record in records] == ["zero-shot", "icl", "prompt-tuning"]
    trial = records[1]["trials"][1]
    assert trial.keys() >= {"number", "settings", "score", "scores", "seconds", "state"}
    results = json.loads((folder / "results.json").read_text())
    tunings = {row["name"]: row["tuning"] for row in results["rows"]}
    assert tunings["icl"]["trials"] == 3 and tunings["icl"]["settings"]["k"] in (1, 2, 5)
    assert tunings["icl, swapped store"]["shared"] == "icl"
    assert "6 validation rows, fitted on 12 training rows" in results["tuning"]
    markdown = (folder / "results.md").read_text()
    assert "| trials tuning |" in markdown and "as icl" in markdown and "training.learning_rate = " in markdown
    assert "chosen settings" in (folder / "report.html").read_text()


@pytest.mark.slow
def test_what_was_not_tuned_is_marked_only_beside_what_was(whole: Comparison) -> None:
    data = whole.data
    stripped = dataclasses.replace(data.rows[0], tuning=None)
    cells = [
        cell.text for row in scores(dataclasses.replace(data, rows=(stripped, *data.rows[1:]))).rows for cell in row
    ]
    assert "not tuned" in cells
    untuned = dataclasses.replace(data, tuning="", rows=(stripped, *data.rows[1:]))
    assert "not tuned" not in [cell.text for row in scores(untuned).rows for cell in row]


@pytest.mark.slow
def test_test_rows_are_never_read_while_tuning(whole: Comparison) -> None:
    poison = tuple(
        dataclasses.replace(row, text=f"poison {row.text[::-1]}", target="No" if row.target == "Yes" else "Yes")
        for row in TASK.test
    )
    poisoned = tuned(None, task=dataclasses.replace(TASK, test=poison))
    assert choices(whole) == choices(poisoned)
    assert whole.data.main_row.seed_values != poisoned.data.main_row.seed_values, "the test rows do differ"


@pytest.mark.slow
def test_a_trial_has_no_test_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Task] = []
    fit = trials.fit

    def watched(method: Any, lm: Any, task: Task, **options: Any) -> Any:
        seen.append(task)
        store = options["store"]
        assert {row.id for row in store.examples} == {row.id for row in task.train}, "validation rows stay outside"
        return fit(method, lm, task, **options)

    monkeypatch.setattr(trials, "fit", watched)
    tuned(None, count=2)
    assert seen and all(task.test == () for task in seen)


@pytest.mark.slow
def test_a_killed_search_chooses_what_an_uninterrupted_one_does(
    whole: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = [0]
    score = tune.fit_and_score

    def dies(*arguments: Any) -> Any:
        done[0] += 1
        if done[0] % 3 == 0:
            raise KeyboardInterrupt
        return score(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(tune, "fit_and_score", dies)
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                tuned(tmp_path / "killed")
    with (tmp_path / "killed/runs/tuning.jsonl").open("a") as journal:
        journal.write('{"op_code": 4, "worker_id"')  # as a kill in the middle of a line leaves it
    assert choices(tuned(tmp_path / "killed")) == choices(whole)
    # Nothing is tried again, and more trials go on from those that there are.
    monkeypatch.setattr(tune, "fit_and_score", dies)
    done[0] = 2
    assert choices(tuned(tmp_path / "killed")) == choices(whole)
    monkeypatch.setattr(tune, "fit_and_score", score)
    more = tuned(tmp_path / "killed", count=5).searches["prompt-tuning"].trials
    assert [trial["settings"] for trial in more[:4]] == [
        trial["settings"] for trial in whole.searches["prompt-tuning"].trials
    ]


@pytest.mark.slow
def test_what_is_set_is_not_searched() -> None:
    settings = {"prompt-tuning": {"tokens": 2}, "icl": {"k": 2, "calibrate": "none"}}
    searches = tuned(None, training={"epochs": 1, "learning_rate": 0.02}, method_settings=settings).searches
    assert searches["icl"].tuning.trials == 0 and searches["icl"].settings == settings["icl"]
    assert searches["prompt-tuning"].tuning.trials == 1
    assert searches["prompt-tuning"].tuning.settings.keys() == {"calibrate"}


@pytest.mark.slow
def test_settings_that_do_not_work_are_failed_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    score = tune.fit_and_score

    def brittle(setting: TrialSetup, job: Job, *rest: Any) -> Any:
        if job.method == "icl" and job.build().config.k == broken[0]:
            raise TrainingError("it broke")
        return score(setting, job, *rest)

    monkeypatch.setattr(tune, "fit_and_score", brittle)
    broken = [2]
    search = tuned(None).searches["icl"]
    assert search.tuning.failed == 1 and search.tuning.settings["k"] != 2
    assert next(t for t in search.trials if t["state"] == "failed")["problem"].startswith("it broke")
    broken = [RetrievedICL().config.k]
    with pytest.raises(TrainingError, match="it broke"):  # as it is without tuning
        tuned(None)


def test_bad_trials_are_stopped_early_and_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    epochs: list[int] = []

    def scored(setup: TrialSetup, job: Job, number: int, on_record: Any) -> dict[str, float]:
        rate = job.settings["training"]["learning_rate"]
        for epoch in range(1, 6):
            on_record({"epoch": epoch, "validation_loss": 1.0, "validation_metric": 100 * rate})
        epochs.append(epoch)
        return {"none": 100 * rate}

    monkeypatch.setattr(tune, "fit_and_score", scored)
    setup = TrialSetup(LM, (dataclasses.replace(TASK, test=()),), {"epochs": 5}, RetrievalConfig())
    search = Tuner(setup, 20, quiet=True).search([Job("m", "method", "prompt-tuning", {}, 0)])["m"]
    states = [trial["state"] for trial in search.trials]
    assert len(states) == 20 and search.tuning.pruned == states.count("pruned") == 20 - len(epochs) > 0
    assert "pruned" not in states[:4]
    assert search.tuning.score == max(trial["score"] for trial in search.trials if trial["state"] == "complete")


def test_a_metric_that_should_be_low_is_searched_downwards(monkeypatch: pytest.MonkeyPatch) -> None:
    task = dataclasses.replace(TASK, schema=dataclasses.replace(SCHEMA, metric="log_loss"), test=())
    setup = TrialSetup(LM, (task,), {"epochs": 1}, RetrievalConfig())
    search = Tuner(setup, 4, quiet=True).search([Job("m", "method", "prompt-tuning", {}, 0)])["m"]
    scores = [trial["score"] for trial in search.trials]
    assert search.tuning.score == min(scores) > 0 and len(set(scores)) > 1


def test_small_validation_sets_are_cut_anew_until_enough_rows_are_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "ENOUGH", 20)
    splits = validation_splits(TASK)
    assert [len(split.validation) for split in splits] == [6, 6, 6, 6]
    assert splits[0].validation == TASK.validation
    pool = {row.id for row in (*TASK.train, *TASK.validation)}
    for split in splits:
        assert {row.id for row in (*split.train, *split.validation)} == pool and split.test == ()
        assert not {row.id for row in split.train} & {row.id for row in split.validation}
    assert len({split.validation for split in splits}) == 4
    bare = validation_splits(dataclasses.replace(TASK, train=rows(20), validation=()))
    assert [len(split.validation) for split in bare] == [3] * 5
    few = validation_splits(TASK, train_rows=4)
    assert [len(split.train) for split in few] == [4] * 4 and {row.target for row in few[0].train} == {"No", "Yes"}
    with pytest.raises(ConfigError, match="no rows to choose settings by"):
        validation_splits(dataclasses.replace(TASK, train=(), validation=()))


def test_the_mean_over_splits_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {1: (60.0, 90.0), 2: (80.0, 76.0), 5: (79.0, 70.0)}
    monkeypatch.setattr(
        tune, "fit_and_score", lambda setting, job, number, _: {"none": table[job.build().config.k][number]}
    )
    split = dataclasses.replace(TASK, test=())
    setup = TrialSetup(LM, (split, split), {}, RetrievalConfig())
    search = Tuner(setup, 9, quiet=True).search([Job("icl", "method", "icl", {}, 0)])["icl"]
    assert search.tuning.settings["k"] == 2 and search.tuning.score == 78.0
    assert search.tuning.trials == 3


def test_passages_keep_a_question_in_every_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "ENOUGH", 6)
    store = tuple(Passage.of(f"fact {i}", id=f"p{i}") for i in range(4))
    questions = tuple(Example(f"what is {i}", str(i), f"q{i:02d}", f"k{i}", gold=(f"p{i % 4}",)) for i in range(12))
    schema = Schema("facts", "generation", metric="token_f1")
    for split in validation_splits(Task(schema, questions[:10], questions[10:], (), store=store)):
        assert {row.gold[0] for row in split.train} == {"p0", "p1", "p2", "p3"} and len(split.validation) == 2


def test_corrected_scores_are_fitted_and_scored_on_different_halves() -> None:
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, 40)
    shares = np.clip(0.8 + 0.1 * (targets - 0.5) + 0.02 * rng.normal(size=40), 0.01, 0.99)
    run = make_predictions(targets, np.stack([1 - shares, shares], axis=1))
    ways = corrected(run)
    for answers in ways.values():
        assert (run.predicted == targets).mean() < 0.7 < 0.8 < (answers.predicted == targets).mean()
    order = np.argsort(targets, kind="stable")
    own, other = order[::2], order[1::2]
    scores = np.log(run.probabilities[own]) + fit_label_bias(run.probabilities[other], targets[other])
    expected = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(ways["validation"].probabilities[own], expected)


def test_noise_is_no_reason_to_correct() -> None:
    """Where there is nothing to correct, fitting and scoring on the same rows would always seem to help."""
    rng = np.random.default_rng(1)
    better = 0
    for _ in range(20):
        targets = rng.integers(0, 2, 30)
        run = make_predictions(targets, np.full((30, 2), 0.5) + rng.normal(size=(30, 1)) * [[0.01, -0.01]])
        hits = [(r.predicted == targets).mean() for r in (run, corrected(run)["validation"])]
        better += hits[1] > hits[0]
    assert better < 15


def test_a_chosen_correction_is_fitted(tmp_path: Path) -> None:
    comparison = tuned(tmp_path, count=1, methods=("zero-shot",), main="zero-shot", seeds=(0,))
    by_choice = comparison.searches["zero-shot"].tuning.settings["calibrate"]
    settings = {"zero-shot": {"calibrate": by_choice}}
    forced, bare = (
        compare(LM, TASK, ("zero-shot",), (0,), method_settings=s, controls=False, costs=False, quiet=True)
        for s in (settings, {})
    )
    shares = [c.runs["zero-shot"][0].probabilities for c in (forced, bare, comparison)]
    assert np.array_equal(shares[0], shares[1]) == (by_choice == "none")
    np.testing.assert_array_equal(shares[2], shares[0])


@pytest.mark.slow
def test_generation_without_a_search_space_has_nothing_to_tune() -> None:
    schema = Schema("say", "generation", metric="token_f1", max_new_tokens=4)
    questions = [Example(f"say {i}", f"number {i}", f"r{i:02d}", str(i)) for i in range(12)]
    task = Task(schema, tuple(questions[:6]), tuple(questions[6:9]), tuple(questions[9:]))
    comparison = tuned(None, count=3, task=task, methods=("zero-shot", "icl"), main="icl", seeds=(0,))
    assert comparison.searches["zero-shot"].tuning.trials == 0
    table = comparison.data
    cells = [cell.text for row in scores(table).rows for cell in row]
    assert "nothing to tune" in cells and "3" in cells


@pytest.mark.slow
def test_compositions_are_searched_by_the_settings_of_their_parts() -> None:
    job = Job("both", "method", "icl+prompt-tuning", {"icl": {"k": 2}}, 0)
    space = job.build().search_space
    assert space.keys() == {"icl.k", "prompt-tuning.tokens", "training.learning_rate"}
    changed = dataclasses.replace(job, settings=with_settings(job.settings, {"prompt-tuning.tokens": 3}))
    assert "k=2" in repr(changed.build()) and "tokens=3" in repr(changed.build())
    search = tuned(None, methods=("icl+prompt-tuning",), main="icl+prompt-tuning", seeds=(0,)).searches
    assert search["icl+prompt-tuning"].tuning.trials == 4


def test_a_score_on_a_split_is_that_of_its_own_validation_rows() -> None:
    setup = TrialSetup(LM, (dataclasses.replace(TASK, test=()),), {"epochs": 1}, RetrievalConfig())
    setup = dataclasses.replace(setup, can_calibrate=True)
    scores = fit_and_score(setup, Job("z", "method", "zero-shot", {}, 0), 0)
    own = compare(
        LM, dataclasses.replace(TASK, test=TASK.validation, validation=()), ("zero-shot",), (0,), controls=False,
        costs=False, quiet=True, ablations=(),
    )  # fmt: skip
    assert [*scores] == ["none", "batch", "prior", "validation"] and scores["none"] == pytest.approx(
        own.data.main_row.seed_values[0], abs=0.01
    )


def test_optuna_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"coldframe\[tune\]"):
        tuned(None)


@pytest.mark.slow
def test_the_control_that_is_trained_is_tuned_on_its_own() -> None:
    """Its settings come from its own trials and not from those of the method that it takes the model away from."""
    settings = {"mha-esp": {"heads": 2, "k": 3, "adapter": 8, "encoder": "tiny"}}

    def head_alone(*words: Any, **options: Any) -> list[Job]:
        return [job for job in controls_of(*words, **options) if job.title == "encoder + linear head"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coldframe.pipeline.setup.load_encoder", lambda spec: TinyEncoder(spec))
        patch.setattr("coldframe.evaluation.comparison.controls_of", head_alone)
        patch.setattr(MHAESP, "search_space", {"training.learning_rate": Floats(1e-4, 1e-1)})
        comparison = tuned(
            None, methods=("mha-esp",), main="mha-esp", seeds=(0,), method_settings=settings, controls=True, count=3,
            ablations=("shuffled-labels",),
        )  # fmt: skip
    tunings = {row.name: row.tuning for row in comparison.data.rows}
    head, own, shuffled = tunings["encoder + linear head"], tunings["mha-esp"], tunings["mha-esp, shuffled labels"]
    assert head and own and shuffled and head.trials == own.trials == 3 and shuffled.shared == "mha-esp"
    assert shuffled.settings == own.settings
    first = comparison.searches["encoder + linear head"].trials[1]["settings"]["training.learning_rate"]
    assert first == comparison.searches["mha-esp"].trials[1]["settings"]["training.learning_rate"], "the same draws"
    used = comparison.data.settings["methods"]
    assert used.keys() == {"mha-esp", "encoder + linear head", "mha-esp, shuffled labels"}
    jobs = planned(TASK, {"mha-esp": "mha-esp"}, settings, (0,), "mha-esp", ("shuffled-labels",), {"k": (1,)})
    jobs += head_alone(TASK, settings, (0,))
    changed = {job.title: job.settings for job in apply(jobs, comparison.searches)}
    for title, search in comparison.searches.items():
        rate = search.tuning.settings["training.learning_rate"]
        assert changed[title]["training"] == {"learning_rate": rate}
    assert changed["mha-esp, k = 1"]["k"] == 1 and changed["mha-esp, shuffled labels"] == changed["mha-esp"]


def test_a_correction_that_is_set_is_the_one_that_is_scored() -> None:
    setup = TrialSetup(LM, (dataclasses.replace(TASK, test=()),), {}, RetrievalConfig(), can_calibrate=True)
    free = fit_and_score(setup, Job("z", "method", "zero-shot", {}, 0), 0)
    for way in ("none", "batch", "prior", "validation"):
        assert fit_and_score(setup, Job("z", "method", "zero-shot", {"calibrate": way}, 0), 0) == {way: free[way]}
    contextual = fit_and_score(setup, Job("z", "method", "zero-shot", {"calibrate": "contextual"}, 0), 0)
    assert [*contextual] == ["contextual"] and contextual["contextual"] not in free.values()


def test_controls_are_tuned_like_methods_on_rows_that_they_do_not_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row of votes whose voters are found; classifiers are fitted to the training rows alone in a trial."""
    jobs = controls_of(TASK, {}, (0,), tuned=True)
    assert [job.title for job in jobs if job.method == "knn"] == ["k-NN vote"]
    assert [job.title for job in controls_of(TASK, {}, (0,), ["knn"], tuned=True) if job.method == "knn"] == []
    seen: list[tuple[str, ...]] = []
    own = LogisticRegression.learn

    def spying(self: LogisticRegression, rows: Any) -> None:
        seen.append(tuple(map(str, rows.targets)))
        own(self, rows)

    monkeypatch.setattr(LogisticRegression, "learn", spying)
    setup = TrialSetup(LM, (dataclasses.replace(TASK, test=()),), {}, RetrievalConfig())
    words = next(job for job in jobs if job.title == "logistic regression, TF-IDF")
    tuner = Tuner(setup, 3, quiet=True)
    search = tuner.search([words])[words.title]
    assert search.tuning.trials == 3 and search.settings["features"] == "tfidf"
    assert all(trial["settings"]["c"] > 0 for trial in search.trials[1:]) and search.trials[0]["settings"] == {}
    assert [len(rows) for rows in seen] == [len(TASK.train)] * 3


def test_an_encoder_that_cannot_be_tuned_is_not_tried_tuned() -> None:
    """Half of the trials would fail: fingerprints have no weights, MiniLM has."""
    setup = TrialSetup(LM, (dataclasses.replace(TASK, test=()),), {}, RetrievalConfig())
    tuner = Tuner(setup, 2, quiet=True)
    for method in ("mha-esp", "encoder-head"):
        searched = {
            encoder: tuner._distributions(Job(method, "method", method, {"encoder": encoder}, 0)).keys()
            for encoder in ("morgan", "minilm")
        }
        assert searched["minilm"] - searched["morgan"] == {"encoder_rank"}


def test_encoders_are_tuned_alike_with_and_without_a_language_model() -> None:
    """A setting of the encoder that only one side may search is care that the other did not get."""
    of_encoder = {"training.learning_rate", "training.epochs", "encoder_rank", "adapter", "dropout"}
    for method in ("mha-esp", "idpg", "u-esp", "p-esp", "encoder-head"):
        assert of_encoder <= method_class(method).search_space.keys()
