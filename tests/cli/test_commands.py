"""The command line end to end, on a tiny random model and a user's own table, with nothing but flags."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cli.conftest import QUICK, Ran

import coldframe
from coldframe.tasks import builtin_names

Run = Callable[..., Ran]


@pytest.mark.slow
def test_a_user_s_table_goes_through(run: Run, table: Path, lm: str, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "things"
    fit = run("fit", table, "--text", "sentence", "--label", "colour", "--model", lm, "--out", out, "--json", *QUICK)
    assert fit.status == 0, fit.err
    assert fit.json["task"] == "things" and fit.json["trainable_parameters"] > 0 and len(fit.json["history"]) == 1
    assert {"coldframe_config.json", "model.safetensors", "exemplars.jsonl", "README.md"} <= {
        path.name for path in out.iterdir()
    }

    evaluated = run("evaluate", out, "--shuffle-exemplars", 2, "--json", "--quiet")
    assert evaluated.status == 0, evaluated.err
    accuracy = evaluated.json["metrics"]["accuracy"]
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"] and accuracy["n"] == 18
    assert evaluated.json["primary"] == "accuracy"
    assert evaluated.json["shuffle_std"] == 0.0
    assert evaluated.json["cost"]["context_tokens"] > 0 and evaluated.json["cost"]["peak_memory_mb"] > 0

    predicted = run("predict", out, table)
    assert predicted.status == 0, predicted.err
    first = predicted.lines[0]
    assert first["row"] == 1 and first["label"] in ("red", "green", "blue") and len(first["neighbours"]) == 3
    assert sum(first["probabilities"].values()) == pytest.approx(1)

    inspected = run("inspect", out, "--json")
    assert inspected.json["method"] == "mha-esp" and inspected.json["store"]["size"] == 72
    assert inspected.json["files"] == json.loads((out / "coldframe_config.json").read_text())["files"]
    assert "72 exemplars" in run("inspect", out).out


def test_everything_but_the_data_is_inferred_and_said(
    run: Run, table: Path, lm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = run("fit", table, "--model", lm, "--method", "zero-shot")
    assert found.status == 0
    assert "Took column 'sentence' as the input." in found.err and "Took column 'colour' as the label." in found.err
    assert found.out.endswith("wrote runs/things-zero-shot\n")


@pytest.mark.slow
def test_python_and_command_line_answer_alike(run: Run, fitted: Path, table: Path) -> None:
    rows = [row["sentence"] for row in csv.DictReader(table.open())]
    pipeline = coldframe.load(fitted)
    ours = pipeline.predict_proba(rows)
    theirs = run("predict", fitted, table).lines
    np.testing.assert_array_equal([list(record["probabilities"].values()) for record in theirs], ours)
    assert [record["label"] for record in theirs] == pipeline.predict(rows)


@pytest.mark.slow
def test_a_fit_says_first_what_simple_classifiers_reach(run: Run, table: Path, lm: str, tmp_path: Path) -> None:
    ran = run("fit", table, "--model", lm, "--out", tmp_path / "a", *QUICK)
    assert ran.status == 0 and ran.out.count("--method ") + ran.out.count("no simple classifier") == 1, ran.out
    if "--method " in ran.out:
        assert "which needs no language model" in ran.out.splitlines()[0]
    ran = run("fit", table, "--model", lm, "--out", tmp_path / "a", *QUICK, "--json")
    simpler = ran.json["simpler"]
    assert simpler["does_as_well"] == (simpler["score"]["value"] >= simpler["own"])
    ran = run("fit", table, "--model", lm, "--out", tmp_path / "a", *QUICK, "--no-controls", "--json")
    assert ran.json["simpler"] is None


@pytest.mark.slow
def test_the_same_fit_writes_the_same_answers(run: Run, fitted: Path, table: Path, lm: str, tmp_path: Path) -> None:
    again = tmp_path / "again"
    assert run("fit", table, "--model", lm, "--out", again, *QUICK).status == 0
    assert run("predict", again, table).out == run("predict", fitted, table).out
    # A finished run is found, not made again.
    assert run("fit", table, "--model", lm, "--out", again, *QUICK).status == 0
    assert run("predict", again, table).out == run("predict", fitted, table).out


@pytest.mark.slow
def test_predict_reads_lines_csv_and_jsonl_and_writes_both(
    run: Run, fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["a rose", "the sea"]
    (tmp_path / "a.txt").write_text("\ufeffa rose\n\nthe sea\n", encoding="utf-8")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"sentence": text}) + "\n" for text in texts))
    (tmp_path / "a.csv").write_text("comment\n" + "\n".join(texts) + "\n")
    outs = [
        run("predict", fitted, tmp_path / "a.txt"),
        run("predict", fitted, tmp_path / "a.jsonl"),
        run("predict", fitted, tmp_path / "a.csv", "--text", "comment"),
    ]

    class Stdin:
        def __init__(self, data: bytes) -> None:
            self.buffer = io.BytesIO(data)

    monkeypatch.setattr(sys, "stdin", Stdin(b"a rose\nthe sea\n"))
    outs.append(run("predict", fitted, "-"))
    monkeypatch.setattr(sys, "stdin", Stdin(b"sentence\na rose\nthe sea\n"))
    outs.append(run("predict", fitted, "--from", "csv"))
    for found in outs:
        assert [record["text"] for record in found.lines] == texts, found.err
        assert [record["probabilities"] for record in found.lines] == [
            record["probabilities"] for record in outs[0].lines
        ]
        assert [record["row"] for record in found.lines] == [1, 2], "rows are counted alike in every format"
    flat = list(csv.DictReader(io.StringIO(run("predict", fitted, tmp_path / "a.txt", "--to", "csv").out)))
    assert [row["label"] for row in flat] == [record["label"] for record in outs[0].lines]
    assert float(flat[0]["p(red)"]) == outs[0].lines[0]["probabilities"]["red"]


@pytest.mark.slow
def test_predict_keeps_the_ids_of_rows(run: Run, fitted: Path, tmp_path: Path) -> None:
    rows = [{"id": "q-7", "sentence": "a rose"}, {"id": None, "sentence": "nan"}, {"id": 9, "sentence": "the sea"}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    records = run("predict", fitted, tmp_path / "a.json", "--on-error", "skip").lines
    assert [(record["row"], record["id"]) for record in records] == [(1, "q-7"), (3, "9")]
    flat = run("predict", fitted, tmp_path / "a.json", "--to", "csv", "--on-error", "skip").out
    assert [row["id"] for row in csv.DictReader(io.StringIO(flat))] == ["q-7", "9"]
    named = run("predict", fitted, tmp_path / "a.json", "--text", "id", "--on-error", "skip").lines
    assert [(record["text"], "id" in record) for record in named] == [("q-7", False), ("9", False)]


@pytest.mark.slow
def test_what_is_missing_in_a_file_is_missing_in_a_line(
    run: Run, fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.csv").write_text("sentence\na rose\nNaN\nNA\n")
    (tmp_path / "a.txt").write_text("a rose\nNaN\nNA\n")
    for name, line in (("a.csv", 3), ("a.txt", 2)):
        stopped = run("predict", fitted, tmp_path / name)
        assert stopped.status == 2 and f"{name}, row {line}: the text is empty" in stopped.err
        lines = run("predict", fitted, tmp_path / name, "--on-error", "skip").lines
        assert [(record["row"], record["text"]) for record in lines] == [(1, "a rose"), (3, "NA")]


@pytest.mark.slow
def test_predict_reads_what_it_is_told_to_read(run: Run, fitted: Path, tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("sentence\na rose\n")
    assert [record["text"] for record in run("predict", fitted, tmp_path / "a.log", "--from", "csv").lines] == [
        "a rose"
    ]
    assert len(run("predict", fitted, tmp_path / "a.log").lines) == 2


def test_predict_skips_and_counts_when_asked(run: Run, molecules: Path, lm: str, tmp_path: Path) -> None:
    out = tmp_path / "molecules"
    # No heavier than it must be: a method that trains nothing, three exemplars in the prompt.
    words = ("--method", "icl", "--set", "k=3", "--split", "stratified", "--positive", "active")
    assert run("fit", molecules, "--model", lm, "--out", out, *words).status == 0
    (tmp_path / "new.txt").write_text("CCO\nnot a molecule\nOCC\n")
    stopped = run("predict", out, tmp_path / "new.txt")
    assert stopped.status == 2 and "new.txt, row 2" in stopped.err and stopped.out == ""
    skipped = run("predict", out, tmp_path / "new.txt", "--on-error", "skip")
    assert skipped.status == 0 and [record["row"] for record in skipped.lines] == [1, 3]
    assert "Skipped 1 unusable row" in skipped.err
    assert skipped.lines[0]["probabilities"] == skipped.lines[1]["probabilities"], "two spellings of one molecule"


@pytest.mark.slow
def test_methods_that_heed_the_order_show_it(run: Run, table: Path, lm: str, tmp_path: Path) -> None:
    out = tmp_path / "icl"
    words = ("--method", "icl", "--set", "k=4", "--metric", "log_loss")  # a metric that any change shows in
    assert run("fit", table, "--model", lm, "--out", out, *words).status == 0
    found = run("evaluate", out, "--shuffle-exemplars", 4, "--no-cost", "--json", "--quiet").json
    assert found["order_invariant"] is False and found["shuffle_std"] > 0 and found["cost"] is None


@pytest.mark.slow
def test_evaluate_scores_other_rows_too(run: Run, fitted: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.csv"
    new.write_text("sentence,colour\nwhat a ruby,red\nold jeans,blue\nanother frog,green\n")
    records = tmp_path / "records.jsonl"
    found = run("evaluate", fitted, new, "--predictions", records, "--no-cost", "--json", "--quiet")
    assert found.status == 0, found.err
    assert found.json["metrics"]["accuracy"]["n"] == 3 and found.json["shuffle_std"] is None
    written = [json.loads(line) for line in records.read_text().splitlines()]
    assert [record["target"] for record in written] == ["red", "blue", "green"]
    shown = run("evaluate", fitted, new, "--quiet").out
    assert "Accuracy" in shown and "latency" in shown


@pytest.mark.slow
def test_compare_writes_a_report_and_goes_on_where_it_stopped(
    run: Run, table: Path, lm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "compare"
    words = ["compare", table, "--methods", "icl", "prompt-tuning", "mha-esp", "--seeds", 0, 1, "--model", lm, "--out"]
    words += [out, "--epochs", 1, "--text-rows", 9, "--shuffles", 2, "--set", "mha-esp.heads=2", "--json"]
    words += ["--set", "random-forest.trees=20"]
    stopped_after = 4
    from coldframe.evaluation.runs import Runner

    make, made = Runner._make, []

    def interrupted(self: Runner, job: Any) -> Any:
        if len(made) == stopped_after:
            raise KeyboardInterrupt
        made.append(job.title)
        return make(self, job)

    monkeypatch.setattr(Runner, "_make", interrupted)
    halted = run(*words)
    assert halted.status == 130 and "goes on where" in halted.err
    stopped_after = 100
    found = run(*words)
    assert found.status == 0, found.err
    assert len(made) == 18 and len(set(made)) == 12, "each title and seed once, one seed of what no seed changes"
    assert "stored before" in found.err and "left" in found.err

    rows = {row["name"]: row for row in found.json["rows"]}
    assert set(rows) == {
        "icl",
        "prompt-tuning",
        "mha-esp",
        "encoder + linear head",
        "mha-esp, shuffled labels",
        "mha-esp, random exemplars",
        "1-NN vote",
        "5-NN vote",
        "5-NN vote (weighted)",
        "logistic regression",
        "logistic regression, TF-IDF",
        "random forest",
    }
    assert rows["mha-esp"]["order_std"] == 0.0 and rows["mha-esp"]["difference"] is None
    assert rows["mha-esp"]["metrics"]["accuracy"]["seeds"] == 2 and rows["icl"]["metrics"]["accuracy"]["seeds"] == 1
    assert rows["icl"]["metrics"]["accuracy"]["n"] == 9 and "random sample of 9 of the 18" in rows["icl"]["note"]
    assert rows["icl"]["difference"]["n"] == 9 and rows["1-NN vote"]["role"] == "no-lm"
    assert rows["icl"]["cost"]["prefill_flops"] > rows["mha-esp"]["cost"]["prefill_flops"]
    assert found.json == json.loads((out / "results.json").read_text())
    assert "<html" in (out / "report.html").read_text() and (out / "artifact" / "coldframe_config.json").exists()

    made.clear()
    once_more = run(*words).json
    assert made == [] and once_more["rows"] == found.json["rows"]


@pytest.mark.slow
def test_compare_tunes_by_flag_and_by_recipe(run: Run, table: Path, lm: str, tmp_path: Path) -> None:
    out, recipe = tmp_path / "tuned", tmp_path / "recipe.yaml"
    words = ["--methods", "zero-shot", "prompt-tuning", "--seeds", 0, "--no-controls", "--ablations", "--no-costs"]
    words += ["--epochs", 1, "--model", lm, "--out", out]
    comparison_run = run("compare", table, *words, "--tune", 1, "--tune-rows", 20)
    assert comparison_run.status == 0, comparison_run.err
    assert "tuning 2 rows of the table: 2 trials at most" in comparison_run.err and "trials" in comparison_run.out
    assert "fitted on 20 training rows" in json.loads((out / "results.json").read_text())["tuning"]
    assert [record["title"] for record in json.loads((out / "tuning.json").read_text())] == [
        "zero-shot",
        "prompt-tuning",
    ]
    recipe.write_text(f"task: {table}\ntune: 1\ntune_rows: 20\n")
    again = run("compare", "--recipe", recipe, *words, "--json")
    assert again.status == 0, again.err
    assert again.json["rows"] == json.loads((out / "results.json").read_text())["rows"]
    assert run("compare", table, *words, "--tune", -1).status == 2


@pytest.mark.slow
def test_a_recipe_gives_defaults_and_flags_override_it(run: Run, table: Path, lm: str, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        f"task: {table}\nmodel: {lm}\nmethod: idpg\nmethod_settings: {{tokens: 3, adapter: 8}}\n"
        "training: {epochs: 1, learning_rate: 1e-3}\n"
    )
    found = run("fit", "--recipe", recipe, "--set", "tokens=2", "--out", tmp_path / "out", "--json", "--quiet")
    assert found.status == 0, found.err
    assert found.json["method"] == "idpg" and found.json["method_settings"]["tokens"] == 2
    assert found.json["method_settings"]["adapter"] == 8 and len(found.json["history"]) == 1


@pytest.mark.slow
def test_lists(run: Run) -> None:
    assert [task["name"] for task in run("tasks", "--json").json] == builtin_names()
    methods = {method["name"]: method for method in run("methods", "--json").json}
    assert methods["mha-esp"]["settings"]["heads"] == 8 and methods["mha-esp"]["order_invariant"]
    assert all(method["description"] for method in methods.values())
    for name in methods:
        assert name in run("methods").out
    for name in builtin_names():
        assert name in run("tasks").out


def test_version_help_and_unknown_commands(run: Run) -> None:
    assert run("--version").out == f"coldframe {coldframe.__version__}\n"
    assert run().out == run("--help").out and "coldframe fit" in run().out
    wrong = run("evaluat")
    assert wrong.status == 2 and "Did you mean 'evaluate'?" in wrong.err
    misspelt = run("fit", "--epoch", 2)
    assert misspelt.status == 2 and "--epochs" in misspelt.err


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--help"], ["fit", "--help"], ["compare", "--help"], ["predict", "--help"]])
def test_help_does_not_wait_for_torch(words: list[str]) -> None:
    code = (
        "import sys\nfrom coldframe.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'sklearn', 'rdkit'} & set(sys.modules)\nassert not heavy, heavy"
    )
    ran = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "coldframe" in ran.stdout


@pytest.mark.slow
def test_a_closed_pipe_is_no_error(fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from coldframe import cli
    from coldframe.cli import inspect

    closed = []

    def broken(argv: list[str]) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(inspect, "run", broken)
    monkeypatch.setattr(cli.os, "dup2", lambda *_: closed.append(True))
    monkeypatch.setattr(cli.sys, "stdout", dataclasses.make_dataclass("Out", [])())
    monkeypatch.setattr(cli.sys.stdout, "fileno", lambda: 1, raising=False)
    assert cli.main(["inspect", str(fitted)]) == 0 and closed == [True]


@pytest.mark.slow
def test_auto_says_what_it_picks_and_why_and_writes_that_method(
    run: Run, table: Path, lm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coldframe.pipeline.auto import Candidate

    few = [Candidate("knn"), Candidate("logistic-regression"), Candidate("prompt-tuning", {"tokens": 2})]
    monkeypatch.setattr("coldframe.pipeline.auto.candidates_for", lambda task: few)
    words = ("fit", table, "--method", "auto", "--model", lm, "--epochs", 1, "--quiet")
    first_run = run(*words, "--out", tmp_path / "first")
    assert first_run.status == 0, first_run.err
    first, why, *_ = first_run.out.splitlines()
    name = first.removeprefix("picked ").split(":")[0]
    assert name in ("knn", "logistic-regression") and why.startswith("why: ")
    assert "  prompt-tuning (tokens=2): " in first_run.out
    written = run(*words, "--json", "--out", tmp_path / "second")
    assert written.json["method"] == name and len(written.json["chosen_among"]) == 3
    assert run("inspect", tmp_path / "second", "--json").json["method"] == name
    refused = run(*words, "--set", "k=3")
    assert refused.status == 2 and "--method auto chooses the settings too" in refused.err


@pytest.mark.slow
def test_a_method_without_a_model_is_fitted_predicts_and_is_evaluated_without_one(
    run: Run, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a language model was loaded")

    monkeypatch.setattr("coldframe.frozen.model.load_checkpoint", never)
    out = tmp_path / "artifact"
    fit_run = run("fit", table, "--method", "logistic-regression", "--out", out, "--json", "--quiet")
    assert fit_run.status == 0, fit_run.err
    assert fit_run.json["method_settings"]["c"] in (0.01, 0.1, 1.0, 10.0) and fit_run.json["history"] == []
    scored = run("evaluate", out, "--json", "--quiet").json
    assert scored["metrics"]["accuracy"]["value"] > 40 and scored["cost"]["context_tokens"] == 0
    lines = tmp_path / "new.txt"
    lines.write_text("a rose\n" + "long " * 5000 + "sky\n")  # no context is too short, where there is none
    answers = run("predict", out, lines, "--quiet").lines
    assert [answer["label"] for answer in answers][0] == "red" and len(answers) == 2
    assert "knn" in run("methods").out and "Voters" in run("methods", "knn").out
