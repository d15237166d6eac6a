"""``coldframe check``: what fit would do, and what looks wrong, without a model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.conftest import Ran

Run = Callable[..., Ran]


def wrong(run: Run, path: Path, *words: object) -> list[str]:
    ran = run("check", path, "--json", *words)
    assert ran.err == "" and ran.status == (1 if ran.json["wrong"] else 0)
    return list(ran.json["wrong"])


def table_of(path: Path, rows: list[str], header: str = "text,label") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


ROWS = [f"item {i},{('red', 'green')[i % 2]}" for i in range(40)]


def test_a_clean_table(run: Run, table: Path) -> None:
    ran = run("check", table)
    assert ran.status == 0 and ran.err == ""
    for part in ("classification of text, 61 train, 11 validation, 18 test rows", "Took column 'sentence'", "'blue'",
                 "  | Sentence: item", "  | -> ", "Nothing looks wrong."):  # fmt: skip
        assert part in ran.out, ran.out
    task = run("check", table, "--json").json["task"]
    assert (task["kind"], task["metric"], task["text"], task["label"]) == (
        "classification", "accuracy", "sentence", "colour"
    )  # fmt: skip
    assert task["rows"] == {"train": 61, "validation": 11, "test": 18}
    assert sum(facts["test"] for facts in task["labels"].values()) == 18


def test_it_does_what_fit_does(run: Run, table: Path, lm: str, tmp_path: Path) -> None:
    words = ("--split", "random", "--test-size", "20", "--split-seed", "3")
    checked = run("check", table, "--json", *words).json
    fitted = run("fit", table, "--model", lm, "--method", "zero-shot", "--out", tmp_path / "out", "--json", *words).json
    assert checked["notes"] == fitted["notes"] and checked["wrong"] == []


CASES = {
    "separator": (["text;label", *(row.replace(",", ";") for row in ROWS)], "separated by a semicolon", False),
    "quotes": (
        ["text\tlabel", '"so he said\tred', *(row.replace(",", "\t") for row in ROWS)], "begin with a quote", True),
    "missing words": (["text,label", *ROWS, "one,NA", "two,NA"], "'NA' (2)", True),
    "spellings": (["text,label", *ROWS, "one,Red", "two,RED"], "'red' (20), 'RED' (1), 'Red' (1)", True),
    "class sizes": (["text,label", *ROWS, "one,blue"], "no test row: 'blue' (1 row(s) in all)", True),
    "duplicates": (["text,label", *ROWS, "item 0,red"], "1 row(s) repeat another row's input", True),
    "conflicts": (["text,label", *ROWS, "item 0,green"], "different labels: rows 2 (red), 42 (green)", True),
    "fields": (["text,label", *ROWS, "a,b,c", "a"], "line 42: wrong number of fields. Got: 3", True),
    "empty": (["text,label", *ROWS, "a,"], "row 42: the label is empty", True),
    "joins": (["text,label", *ROWS, *["x,red/green"] * 1], "join others", True),
    "numbers": (["text,label", *(f"row {i},{i / 7:.3f}" for i in range(1, 60))], "no regression here", True),
    "one class": (["text,label", *(f"row {i},red" for i in range(20))], "have one label", True),
    "no label": (["text,one,two", "x,1,2", "y,3,4"], "does not say which column is the label", True),
    "open quote": (["text,label", *ROWS, '"a,red'], "line 42: malformed", True),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_looks_wrong(case: str, run: Run, tmp_path: Path) -> None:
    lines, sentence, is_wrong = CASES[case]
    path = tmp_path / "a.csv"
    path.write_text("\n".join(lines) + "\n")
    ran = run("check", path, "--json").json
    sentences = ran["wrong"] if is_wrong else ran["notes"]
    assert any(sentence in line for line in sentences), ran
    assert bool(ran["wrong"]) == is_wrong
    text = run("check", path)
    assert text.status == int(is_wrong) and sentence in text.out and "WARNING" not in text.out


def test_every_unusable_row_is_named_up_to_ten(run: Run, tmp_path: Path) -> None:
    path = table_of(tmp_path / "a.csv", [*ROWS, *[f"row {i}," for i in range(15)]])
    sentences = wrong(run, path)
    assert len(sentences) == 11 and "row 42" in sentences[0] and sentences[-1] == "5 further row(s) cannot be used."
    assert any("--on-error skip" in note for note in run("check", path, "--json").json["notes"])


def test_leaks_and_salts(run: Run, tmp_path: Path) -> None:
    train = table_of(tmp_path / "train.csv", ROWS)
    (sentence,) = wrong(run, train, "--test", table_of(tmp_path / "test.csv", ["item 3,green", "new,red"]))
    assert sentence.startswith("LEAK: 1 of 2 test rows are also in ")
    pytest.importorskip("rdkit")
    rows = [f"{'C' * (i // 2 + 1)}c1ccccc1,{i % 2}" for i in range(0, 40, 1) if i % 4 in (0, 3)] + ["CC(=O)O,1"]
    molecules = table_of(tmp_path / "m.csv", rows, "smiles,active")
    salts = table_of(tmp_path / "t.csv", ["CC(=O)[O-].[Na+],1", "CCCCO,0"], "smiles,active")
    assert any("salt or charge alone" in line for line in wrong(run, molecules, "--test", salts))


def test_a_corpus_is_checked_too(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    row = {"title": "It", "text": "It lies in Rome.", "qa": [{"question": "Where does it lie?", "answer": "Rome"}]}
    path.write_text(json.dumps(row) + "\n")
    questions = tmp_path / "qa.jsonl"
    questions.write_text(json.dumps({"question": "Where does it lie?", "answer": "Rome"}) + "\n")
    (sentence,) = wrong(run, path, "--questions", questions)
    assert "questions were trained on" in sentence


def test_what_cannot_be_checked(run: Run, tmp_path: Path) -> None:
    for words, part in (
        (("absent.csv",), "Cannot read absent.csv"),
        ((table_of(tmp_path / "a.csv", ROWS), "--metric", "acuracy"), "Did you mean 'accuracy'?"),
        ((tmp_path / "a.csv", "--test", tmp_path / "absent.csv"), "Cannot read"),
        (("b3bd",), "Did you mean 'b3db'?"),
    ):
        ran = run("check", *words)
        assert ran.status == 2 and ran.out == "" and part in ran.err.splitlines()[-1]


@pytest.mark.slow
def test_no_model_library_is_loaded(tmp_path: Path) -> None:
    path = table_of(tmp_path / "a.csv", ROWS)
    code = f"import sys; from coldframe.cli import main; main(['check', {str(path)!r}]); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "False"
