"""Bad input is told, never eaten: exit status 2, one line with what was got, what was expected, what to do."""

from __future__ import annotations

import errno
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.conftest import QUICK, Ran
from tests.tiny import tiny

from coldframe.storage.folders import MARKER
from coldframe.tasks import molecules as reading

Run = Callable[..., Ran]
ROWS = [f"item {i} {word},{label}" for i, (word, label) in enumerate([("rose", "red"), ("leaf", "green")] * 12)]


def told(found: Ran, *parts: str) -> None:
    """The one line, and nothing that looks like a result or a crash."""
    assert found.status == 2, (found.out, found.err)
    assert found.out == "" and "Traceback" not in found.err
    line = found.err.splitlines()[-1]
    assert line.startswith("coldframe: error: ")
    for part in parts:
        assert part in line, (part, line)


FILES = {
    "empty text": ("a.csv", [*ROWS, " ,red"], (), ["row 26", "text is empty"]),
    "NaN text": ("a.csv", [*ROWS, "nan,red"], (), ["row 26", "text is empty"]),
    "empty label": ("a.csv", [*ROWS, "item,"], (), ["row 26", "label is empty"]),
    "one class only": (
        "a.csv",
        [row for row in ROWS if "red" in row],
        ("--kind", "classification"),
        ["one label", "red"],
    ),
    "fewer rows than K": ("a.csv", ROWS, ("--set", "k=500"), ["fewer rows than k", "k = 500", "Pass k ="]),
    "opposite labels": (
        "a.csv",
        [*ROWS, "item 0 rose,green"],
        (),
        ["different labels", "2 (red)", "26 (green)", "skip"],
    ),
    "too long": ("a.csv", [*ROWS, "rose " * 300 + ",red"], (), ["longer than the model's context", "256", "Shorten"]),
    "wrong number of fields": ("a.csv", [*ROWS, "a,b,c"], (), ["line 26", "Got: 3", "Expected: 2"]),
    "malformed CSV": ("a.csv", [*ROWS, '"a" b,red'], (), ["line 26", "malformed"]),
    "no such label column": ("a.csv", ROWS, ("--label", "colour"), ["no column 'colour'", "text, label"]),
    "no such text column": ("a.csv", ROWS, ("--text", "sentence"), ["no column 'sentence'", "text, label"]),
    "not molecules": ("a.csv", ROWS, ("--domain", "molecules"), ["row 2", "SMILES"]),
    "unknown positive": ("a.csv", ROWS, ("--positive", "rde"), ["rde", "red"]),
    "unknown metric": ("a.csv", ROWS, ("--metric", "acuracy"), ["acuracy", "Did you mean 'accuracy'?"]),
    "unknown setting": ("a.csv", ROWS, ("--set", "head=2"), ["head", "Did you mean 'heads'?"]),
    "setting without value": ("a.csv", ROWS, ("--set", "heads"), ["KEY=VALUE", "heads"]),
    "setting out of range": ("a.csv", ROWS, ("--set", "heads=0"), ["heads must be at least 1", "Got: 0"]),
    "unknown method": ("a.csv", ROWS, ("--method", "mha"), ["no method 'mha'", "Did you mean 'mha-esp'?"]),
    "training out of range": ("a.csv", ROWS, ("--epochs", "0"), ["epochs", "Got: 0"]),
    "unknown encoder": ("a.csv", ROWS, ("--set", "encoder=morgn"), ["morgn", "morgan"]),
    "loss not finite": (
        "a.csv",
        ROWS,
        ("--learning-rate", "1e30", "--batch-size", "4"),
        ["not finite", "a-00000", "lower"],
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_rows_and_settings(case: str, run: Run, lm: str, tmp_path: Path) -> None:
    name, rows, words, parts = FILES[case]
    path = tmp_path / name
    path.write_text("\n".join(["text,label", *rows]) + "\n")
    told(run("fit", path, "--model", lm, "--out", tmp_path / "out", *QUICK, *words), *parts)
    assert not (tmp_path / "out" / "coldframe_config.json").exists(), "no artifact of a fit that failed"


def test_bytes_that_are_not_utf8_are_named_by_their_line(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "latin.csv"
    path.write_bytes(b"text,label\nok,red\ncaf\xe9,green\n")
    told(run("fit", path), "line 3", "not UTF-8", "0xe9", "Save the file as UTF-8")


def test_malformed_json_is_named_by_its_line(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "label": "b"}\n{"text": \n')
    told(run("fit", path), "line 2", "malformed JSON")


def test_a_file_that_is_not_there(run: Run, tmp_path: Path) -> None:
    told(run("fit", tmp_path / "absent.csv"), "Cannot read", "absent.csv", "Check the path")
    told(run("fit", "b3bd"), "b3bd", "Did you mean 'b3db'?")


def test_smiles_that_no_one_can_read_can_be_skipped(run: Run, molecules: Path, lm: str, tmp_path: Path) -> None:
    molecules.write_text(molecules.read_text() + "C1CC,active\n")
    words = (
        "--split",
        "stratified",
        "--domain",
        "molecules",
        "--method",
        "zero-shot",
        "--model",
        lm,
        "--out",
        tmp_path / "out",
    )
    told(run("fit", molecules, *words), "row 18", "SMILES", "C1CC")
    skipped = run("fit", molecules, *words, "--on-error", "skip")
    assert skipped.status == 0 and "Skipped 1 unusable row" in skipped.err


@pytest.mark.slow
def test_a_label_that_training_did_not_have(run: Run, fitted: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.csv"
    new.write_text("sentence,colour\na rose,red\na lemon,yellow\n")
    told(run("evaluate", fitted, new), "Row 3", "yellow", "blue, green, red", "--on-error skip")
    found = run("evaluate", fitted, new, "--on-error", "skip", "--no-cost", "--json")
    assert found.json["metrics"]["accuracy"]["n"] == 1 and "Skipped 1" in found.json["notes"][0]


@pytest.mark.slow
def test_rows_to_score_that_are_exemplars(run: Run, fitted: Path, table: Path) -> None:
    told(run("evaluate", fitted, table), "72 of 90 rows are among the artifact's exemplars", "--allow-leaks")
    found = run("evaluate", fitted, table, "--allow-leaks", "--no-cost", "--json", "--quiet")
    assert found.json["metrics"]["accuracy"]["n"] == 90 and found.json["notes"][0].startswith("LEAK: 72 of 90")


@pytest.mark.slow
def test_evaluate_refuses_rows_that_have_changed_since(run: Run, fitted: Path, table: Path) -> None:
    table.write_text(table.read_text() + "one more rose,red\n")
    told(run("evaluate", fitted), "not the data that the artifact was fitted to", "Name the rows")
    table.unlink()
    told(run("evaluate", fitted), "cannot be loaded", "name the rows")


@pytest.mark.slow
def test_inputs_to_predict(run: Run, fitted: Path, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("comment,author\na rose,me\n")
    told(run("predict", fitted, tmp_path / "other.csv"), "no column 'sentence'", "comment, author")
    (tmp_path / "empty.csv").write_text("sentence,n\na rose,1\n,2\n")
    told(run("predict", fitted, tmp_path / "empty.csv"), "row 3", "text is empty")
    told(run("predict", fitted, tmp_path / "absent.txt"), "Cannot read", "absent.txt")
    (tmp_path / "latin.txt").write_bytes(b"a rose\ncaf\xe9\n")
    told(run("predict", fitted, tmp_path / "latin.txt"), "line 2", "not UTF-8")
    (tmp_path / "long.txt").write_text("rose " * 300)
    told(run("predict", fitted, tmp_path / "long.txt"), "longer than the model's context")


# ---- places ---------------------------------------------------------------------------------------------


def test_output_that_cannot_be_written_is_found_before_the_work(run: Run, table: Path, lm: str) -> None:
    for out in (table, table / "deeper"):
        told(run("fit", table, "--model", "no-such-model", "--out", out, "--quiet"), f"Cannot write {table}", "hoose")
        told(run("compare", table, "--model", "no-such-model", "--out", out, "--quiet"), "Cannot write")


def test_a_full_disk_leaves_no_half_artifact(
    run: Run, table: Path, lm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("coldframe.storage.tensors.save_file", full)
    out = tmp_path / "out"
    told(run("fit", table, "--model", lm, "--method", "zero-shot", "--out", out, "--quiet"), "disk is full", "free")
    assert [path.name for path in out.iterdir()] == [MARKER]  # without a manifest it is no artifact


# ---- artifacts ------------------------------------------------------------------------------------------


def test_what_is_no_artifact(run: Run, tmp_path: Path) -> None:
    for command in ("inspect", "evaluate", "predict"):
        told(run(command, tmp_path), "not a coldframe artifact", "coldframe_config.json")
        told(run(command, tmp_path / "absent"), "not a coldframe artifact")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.safetensors", "exemplars.jsonl", "coldframe_config.json"])
def test_truncated_and_tampered_artifacts(name: str, run: Run, fitted: Path) -> None:
    path = fitted / name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    told(run("inspect", fitted), name, "damaged" if name.endswith("config.json") else "truncated or changed")
    # One digit or letter, at the same length.
    path.write_bytes(whole.replace(b"green", b"greem") if name != "model.safetensors" else whole[:-1] + b"\x7f")
    told(run("evaluate", fitted), name, "changed")
    path.unlink()
    told(run("predict", fitted, "-"), name)


@pytest.mark.slow
def test_an_artifact_of_a_newer_version(run: Run, fitted: Path) -> None:
    path = fitted / "coldframe_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "format": config["format"] + 1, "new_key": 1}))
    told(run("inspect", fitted), "newer coldframe", "Got: 3", "Expected: format 2", "Upgrade")


@pytest.mark.slow
def test_an_artifact_of_another_base_model(run: Run, table: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    for seed in (0, 1):
        model, tokenizer = tiny("llama", seed)
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if seed == 0:
            out = tmp_path / "out"
            assert run("fit", table, "--model", folder, "--method", "zero-shot", "--out", out).status == 0
    told(run("evaluate", out), "another base model", "Got:", "Expected:")


# ---- what is not there ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "command", "extra"),
    [
        ("sklearn", ("compare", "TABLE", "--methods", "zero-shot", "--main", "zero-shot", "--ablations"), "train"),
        ("rdkit", ("fit", "MOLECULES"), "chem"),
        ("bm25s", ("fit", "TABLE", "--similarity", "bm25"), "text"),
        ("usearch", ("fit", "TABLE", "--index", "usearch"), "ann"),
        ("optuna", ("compare", "TABLE", "--methods", "zero-shot", "--main", "zero-shot", "--tune", "2"), "tune"),
    ],
)
def test_a_missing_extra_is_named(
    package: str,
    command: tuple[str, ...],
    extra: str,
    run: Run,
    table: Path,
    molecules: Path,
    lm: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    for remembers in vars(reading).values():
        if hasattr(remembers, "cache_clear"):
            remembers.cache_clear()
    words = [{"TABLE": table, "MOLECULES": molecules}.get(word, word) for word in command]
    found = run(*words, "--model", lm, "--out", tmp_path / "out", "--quiet")
    told(found, f"pip install 'coldframe[{extra}]'", f"'{'scikit-learn' if package == 'sklearn' else package}'")


def test_the_home_folder_in_flags(run: Run, lm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("\n".join(["text,label", *ROWS]) + "\n")
    assert run("fit", "~/a.csv", "--model", lm, "--method", "zero-shot", "--out", "~/out", "--quiet").status == 0
    answers = run("evaluate", "~/out", "--no-cost", "--quiet", "--predictions", "~/answers.jsonl")
    assert answers.status == 0 and (tmp_path / "answers.jsonl").exists() and run("inspect", "~/out").status == 0
    (tmp_path / "new.txt").write_text("a rose\n")
    assert len(run("predict", "~/out", "~/new.txt").lines) == 1
    assert not (tmp_path / "~").exists()


def test_hub_ids_without_a_network(run: Run, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    told(run("fit", table, "--model", "owner/model", "--out", tmp_path / "out", "--quiet"), "owner/model", "smollm2")
    told(run("evaluate", "owner/artifact"), "owner/artifact", "network")
    told(run("fit", "owner/data"), "owner/data")


def test_recipes(run: Run, tmp_path: Path) -> None:
    told(run("fit", "--recipe", "mha-esp-papr"), "mha-esp-papr", "Did you mean 'mha-esp-paper'?")
    path = tmp_path / "mine.yaml"
    for text, parts in {
        "trainin: {}": ["Unknown key 'trainin'", "Did you mean 'training'?"],
        "training: {epoch: 1}": ["Unknown key 'epoch'", "Did you mean 'epochs'?"],
        "training: [1]": ["must be a mapping"],
        "methods: [a]": ["Unknown key 'methods'"],
        "- 1": ["does not hold a mapping"],
        "a: [": ["not valid"],
        "model: !!python/object/apply:os.system [true]": ["not valid"],
    }.items():
        path.write_text(text)
        told(run("fit", "--recipe", path), *parts)


def test_recipes_of_compare(run: Run, table: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for text, problem in {
        "method_settings: {mha-esp: 5}": "method_settings.mha-esp must be a mapping",
        "sweeps: {k: 5}": "sweeps.k must be a list",
    }.items():
        path.write_text(text)
        told(run("compare", table, "--recipe", path, "--out", tmp_path / "out"), problem)
    told(run("compare", table, "--set", "icl=5", "--set", "icl.k=5"), "'icl' both a value and settings")


@pytest.mark.slow
def test_compare_says_what_it_does_not_know(run: Run, table: Path, lm: str, tmp_path: Path) -> None:
    words = ("compare", table, "--model", lm, "--out", tmp_path / "out", "--quiet")
    told(run(*words, "--methods", "zero-shots"), "zero-shots", "Did you mean 'zero-shot'?")
    told(run(*words, "--ablations", "shuffled"), "shuffled", "shuffled-labels")
    told(run(*words, "--set", "heads=2"), "METHOD.KEY=VALUE")
    told(run(*words, "--set", "mha-sep.heads=2"), "mha-sep", "Did you mean 'mha-esp'?")
    told(run(*words, "--main", "idgp"), "idgp", "Did you mean 'idpg'?")


def test_debugging_shows_where_it_came_from(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLDFRAME_DEBUG", "1")
    with pytest.raises(Exception, match="no command"):
        run("evaluat")
