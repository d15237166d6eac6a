"""Labels of all spellings: which are one, which are told, which are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coldframe.errors import DataError
from coldframe.tasks import Task, load_task
from coldframe.tasks.labels import by_value, folded, known_label, one_spelling
from coldframe.tasks.table import looks_wrong


def rows(*labels: object, start: int = 0) -> list[dict[str, Any]]:
    return [{"text": f"row {i}", "label": label} for i, label in enumerate(labels, start=start)]


def wrong(task: Task) -> list[str]:
    return [note for note in task.notes if looks_wrong(note)]


def test_numbers_are_compared_by_value() -> None:
    task = load_task(rows(*["0", "1", "0.0", "1.0"] * 10))
    assert task.schema.labels == ("0", "1") and task.schema.words == ("No", "Yes")
    assert any("compared by value: '0.0' is '0', '1.0' is '1'" in note for note in task.notes)


def test_train_and_test_may_spell_numbers_otherwise(tmp_path: Path) -> None:
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    train.write_text("text,label\n" + "".join(f"row {i},{i % 2}.0\n" for i in range(20)))
    test.write_text("text,label\nnew 1,0\nnew 2,1\n")
    task = load_task(train, test=test, positive="1.0", words={"0.0": "inert"})
    assert task.schema.labels == ("0", "1") and [row.target for row in task.test] == ["0", "1"]
    assert task.schema.positive == "1" and task.schema.word("0") == "inert"


def test_the_same_input_with_the_same_number_is_no_conflict() -> None:
    task = load_task([*rows(*["0", "1"] * 10), {"text": "row 0", "label": "0.0"}])
    assert any("1 row(s) repeat" in note for note in task.notes)


def test_codes_are_no_numbers() -> None:
    assert load_task(rows(*["01", "1", "02"] * 8)).schema.labels == ("01", "1", "02")
    assert [by_value(code) for code in ("007", "1e3", "٣", "-0.0", "10", "100.0")] == [
        "007",
        "1e3",
        "٣",
        "0",
        "10",
        "100",
    ]


SPELLINGS = {
    "case": ["True", "TRUE", "true"],
    "composed": ["\u00e9t\u00e9", "e\u0301te\u0301"],
    "not shown": ["good", "good\u200b"],
    "blanks": ["not good", "not\u00a0good", "not  good"],
    "width": ["yes", "\uff59\uff45\uff53"],
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_labels_that_are_the_same_in_other_letters(name: str) -> None:
    alike = SPELLINGS[name]
    table = rows(*[*alike, "other", alike[0]] * 8)
    task = load_task(table)
    assert len(task.schema.labels) == len(alike) + 1
    (note,) = wrong(task)
    assert "differ only in case" in note and "--merge-labels" in note
    assert all(ascii(label) in note for label in alike) and f"{ascii(alike[0])} (16)" in note
    merged = load_task(table, merge_labels=True)
    assert merged.schema.labels == tuple(sorted([alike[0], "other"])) and not wrong(merged)
    assert any(note.startswith("Merged labels") for note in merged.notes)


def test_a_test_label_in_other_letters_is_told_with_the_remedy() -> None:
    test = rows("YES", "no", start=100)
    with pytest.raises(DataError, match=r"Got: YES. .*--merge-labels\) reads it as 'yes'"):
        load_task(rows(*["yes", "no"] * 10), test=test)
    assert [row.target for row in load_task(rows(*["yes", "no"] * 10), test=test, merge_labels=True).test] == [
        "yes",
        "no",
    ]


def test_words_for_missing_values_are_text_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    labels = ["NA", "good", "null", "None", "good", "bad"] * 6
    path.write_text("text,label\n" + "".join(f"row {i},{label}\n" for i, label in enumerate(labels)) + "n/a,good\n")
    task = load_task(path)
    assert set(task.schema.labels) == {"NA", "None", "bad", "good", "null"}
    notes = [note for note in wrong(task) if "missing value" in note]
    assert "Column 'text'" in notes[0] and "'n/a' (1)" in notes[0]
    assert "Column 'label'" in notes[1] and "'NA' (6), 'None' (6), 'null' (6)" in notes[1]


@pytest.mark.parametrize("empty", [None, "", " ", "nan", "NaN", "Nan", float("nan")])
def test_what_is_missing_is_missing_everywhere(empty: object, tmp_path: Path) -> None:
    table = [*rows(*"ab" * 10), {"text": "last", "label": empty}]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in table))
    for data in (path, table):
        with pytest.raises(DataError, match="row 21: the label is empty"):
            load_task(data)


def test_a_class_without_a_row_to_test_with_is_told() -> None:
    task = load_task(rows("rare", *["a", "b"] * 30))
    assert all(row.target != "rare" for row in (*task.test, *task.validation))
    assert wrong(task) == [
        "WARNING: 1 of 3 classes have no test row: 'rare' (1 row(s) in all).",
        "WARNING: 1 of 3 classes have no validation row: 'rare' (1 row(s) in all).",
    ]
    assert not wrong(load_task(rows(*["a", "b"] * 30)))


def test_numbers_to_predict_are_refused() -> None:
    table = rows(*[f"{i * 0.37 - 4:.2f}" for i in range(60)])
    with pytest.raises(DataError, match="'label' looks like numbers to predict, and there is no regression here"):
        load_task(table)
    assert load_task(table, kind="generation").schema.kind == "generation"
    assert load_task(rows(*[i * 0.5 for i in range(10)] * 6)).schema.kind == "classification", "ratings in halves"
    assert load_task(rows(*range(60))).schema.kind == "generation", "whole numbers may be answers to be written"


def test_many_intents_are_classes() -> None:
    task = load_task(rows(*[f"intent {i % 250}" for i in range(1_000)]))
    assert task.schema.kind == "classification" and len(task.schema.labels) == 250
    assert load_task(rows(*[f"answer {i % 400}" for i in range(1_000)])).schema.kind == "generation"


def test_labels_that_join_others_are_told() -> None:
    (note,) = wrong(load_task(rows(*["a", "b", "a,b"] * 10)))
    assert "join others" in note and "'a,b'" in note
    assert not wrong(load_task(rows(*["a/c", "b", "n/a b"] * 10)))


def test_two_rows_are_too_few_and_it_is_said_plainly(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\none,a\ntwo,b\n")
    with pytest.raises(DataError, match=r"row\(s\) cannot give a held-out part .* Bring more rows"):
        load_task(path)


@given(st.text(max_size=12))
def test_folding_twice_is_folding_once(text: str) -> None:
    assert folded(folded(text)) == folded(text)


@pytest.mark.slow
@given(
    st.lists(st.text(max_size=5) | st.decimals(allow_nan=False, allow_infinity=False).map(str), min_size=1),
    st.booleans(),
)
def test_spelling_keeps_every_label_known(labels: list[str], merge: bool) -> None:
    spelling, _ = one_spelling(labels, merge)
    spelled = sorted(set(spelling.values()))
    assert {label: known_label(label, spelled, merge) for label in labels} == spelling
