"""Which columns are read, how several make one text, and rows that bring their own passages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coldframe.errors import ConfigError, DataError
from coldframe.tasks import TaskConfig, load_task
from coldframe.tasks.columns import whole_template
from coldframe.tasks.contexts import passages_of
from coldframe.tasks.task import Passage, Task


def csv(path: Path, header: str, rows: list[str]) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def two_columns(tmp_path: Path) -> Path:
    rows = [f"Is {i} even?,{i} ends in {i % 10}.,{'yes' if i % 2 == 0 else 'no'}" for i in range(20)]
    return csv(tmp_path / "two_columns.csv", "question,snippet,answer", rows)


def rows_of(task: Task) -> list[str]:
    return [row.text for row in (*task.train, *task.validation, *task.test)]


def test_a_column_that_is_left_out_is_said(two_columns: Path) -> None:
    task = load_task(two_columns)
    assert all("ends in" not in text for text in rows_of(task))
    (note,) = (note for note in task.notes if note.startswith("Left out column"))
    assert "'snippet'" in note and "text='question,snippet'" in note
    assert not any(note.startswith("Left out") for note in load_task(two_columns, text="question").notes)


def test_two_columns_make_one_text_that_says_nothing_twice(two_columns: Path) -> None:
    task = load_task(two_columns, text="question,snippet")
    row = task.train[0]
    assert row.text.partition("\n")[2].startswith("Snippet: ")
    assert task.schema.template.query(row.text).startswith("Question: Is ")
    assert "question:" not in task.schema.template.query(row.text)


def test_a_template_may_name_columns(two_columns: Path) -> None:
    template = "Q: {question}\\nHint ({{}}): {snippet}\\nA: {answer}"
    task = load_task(two_columns, template=template)
    prompt = task.schema.template.query(next(text for text in rows_of(task) if "Is 3 " in text))
    assert prompt == "Q: Is 3 even?\nHint ({}): 3 ends in 3.\nA:"
    again = load_task(TaskConfig.from_dict(json.loads(json.dumps(dict(task.options)))))
    assert again.train == task.train and again.schema == task.schema
    one = load_task(two_columns, template="Hint: {snippet}\nA:")
    assert one.schema.template.query(one.train[0].text).startswith("Hint: ") and "ends in" in one.train[0].text


def test_a_template_of_columns_alone_asks_for_the_label(two_columns: Path) -> None:
    task = load_task(two_columns, template="{question}\\n{snippet}")
    prompt = task.schema.template.query(next(text for text in rows_of(task) if "Is 3 " in text))
    assert prompt == "Is 3 even?\n3 ends in 3.\nAnswer:"
    assert not any(note.startswith("Left out") for note in task.notes)
    assert load_task(two_columns, template="{question}\n{snippet}\n").schema == task.schema


def test_a_template_that_names_no_such_column_is_told(two_columns: Path) -> None:
    with pytest.raises(DataError, match="no column 'snip'. Expected: one of question, snippet, answer"):
        load_task(two_columns, template="Q: {question}\nHint: {snip}\nA:")
    with pytest.raises(ConfigError, match="other columns than text"):
        load_task(two_columns, text="question", template="Q: {question}\nHint: {snippet}\nA:")
    with pytest.raises(ConfigError, match="malformed"):
        load_task(two_columns, template="Q: {question")
    assert whole_template("Q: {text}\nA: {label}", None) == "Q: {text}\nA:"


def test_a_list_column_is_taken_as_passages(tmp_path: Path) -> None:
    shared = "Even numbers end in 0, 2, 4, 6 or 8."
    rows = [
        {"question": f"Is {i} even?", "facts": [f"{i} is a number.", shared], "answer": i % 2 == 0} for i in range(20)
    ]
    path = jsonl(tmp_path / "list_column.jsonl", rows)
    task = load_task(path)
    assert any("lists in column 'facts'" in note for note in task.notes)
    assert task.schema.labels == ("false", "true") and task.store is not None and len(task.store) == 21
    texts = {entry.id: entry.text for entry in task.store}
    for row in (*task.train, *task.validation, *task.test):
        assert row.contexts is not None
        number = row.text.split()[1]
        assert [texts[identity] for identity in row.contexts] == [f"{number} is a number.", shared]
    assert load_task(TaskConfig.from_dict(json.loads(json.dumps(dict(task.options))))).test == task.test


def test_a_list_as_the_input_is_told_with_its_column(tmp_path: Path) -> None:
    rows = [{"facts": ["a", "b"], "label": "xy"[i % 2], "text": "t"} for i in range(8)]
    with pytest.raises(DataError, match=r"row 1: .*column 'facts'"):
        load_task(jsonl(tmp_path / "a.jsonl", rows), text="facts", contexts="facts")


def test_a_log_of_questions_is_a_task_with_its_own_store(tmp_path: Path) -> None:
    rows = [
        {"id": f"q{i}", "question": f"Where is {i}?", "answers": [f"in {i}", f"{i}"], "gold": 1, "group": f"g{i % 2}",
         "retrieved_contexts": ["Nothing.", {"title": f"T{i}", "text": f"It is in {i}."}]}
        for i in range(6)
    ]  # fmt: skip
    path = jsonl(tmp_path / "log.jsonl", rows)
    task = load_task(path, split="test")
    assert len(task.test) == 6 and not task.train and not task.validation and task.store is not None
    assert [type(entry) for entry in task.store] == [Passage] * 7
    first = task.test[0]
    nothing, place = task.store[:2]
    assert (first.id, first.target, first.references, first.group) == ("q0", "in 0", ("0",), "g0")
    assert first.contexts == (nothing.id, place.id) and first.gold == (place.id,) and place.text == "T0: It is in 0."
    assert task.schema.kind == "generation" and task.schema.template.query("x") == "Question: x\nAnswer:"
    assert len(load_task(path).train) == 3, "without a word it is split as any table"


def test_labels_are_learned_from_rows_to_train_on(two_columns: Path) -> None:
    with pytest.raises(ConfigError, match="from training rows"):
        load_task(two_columns, split="test")


def test_own_passages_of_the_cases(tmp_path: Path) -> None:
    row = {"question": "Where is it?", "answers": ["Rome"], "passages": [{"title": "It", "text": "It is in Rome."}]}
    task = load_task(jsonl(tmp_path / "own.jsonl", [row]), split="test")
    assert task.store is not None and task.test[0].contexts == (task.store[0].id,)
    with pytest.raises(DataError, match="row 1: there is no such passage. Got: 1"):
        load_task(jsonl(tmp_path / "bad.jsonl", [{**row, "gold": 1}]), split="test")


def test_a_table_beside_a_file_of_passages(tmp_path: Path) -> None:
    passages = [{"id": i, "title": f"T{i}", "text": f"It is {'red' if i % 2 else 'blue'}."} for i in range(4)]
    store = jsonl(tmp_path / "store.jsonl", passages)
    rows = [{"text": f"number {i}", "label": "ab"[i % 2], "passages": [f"T{i % 4}"]} for i in range(20)]
    task = load_task(jsonl(tmp_path / "rows.jsonl", rows), store=store)
    assert task.schema.labels == ("a", "b") and task.store is not None and len(task.store) == 4
    assert all(row.contexts is None and row.gold == (str(int(row.text.split()[1]) % 4),) for row in task.train)
    assert task.source["store_file"] == "store.jsonl"
    plain = jsonl(tmp_path / "plain.jsonl", [{k: v for k, v in row.items() if k != "passages"} for row in rows])
    assert len(load_task(plain, store="fact-corpus:5").store or ()) == 5
    with pytest.raises(ConfigError, match="facts has no passages"):
        load_task(plain, store="facts")


def test_a_store_of_solved_rows(tmp_path: Path) -> None:
    rows = csv(tmp_path / "rows.csv", "text,label", [f"number {i},{'ab'[i % 2]}" for i in range(20)])
    store = csv(tmp_path / "store.csv", "text,label", ["entry 1,a", "entry 2,b"])
    task = load_task(rows, store=store)
    assert task.store is not None and [entry.target for entry in task.store] == ["a", "b"]


@pytest.mark.parametrize(
    ("cell", "texts"),
    [
        (["one", " two "], ["one", "two"]),
        ('["one", {"title": "T", "text": "two"}]', ["one", "T: two"]),
        ([{"page_content": "one", "metadata": {}}, '{"title": "T", "text": "two"}'], ["one", "T: two"]),
        (["{no json}"], ["{no json}"]),
        ([], []),
    ],
)
def test_forms_of_passages(cell: object, texts: list[str]) -> None:
    assert [passage.text for passage in passages_of(cell)] == texts


@pytest.mark.parametrize("cell", ["a text", 3, {"text": "x"}, ["x", ""], [{"title": "x"}], [["x"]], ["x", None]])
def test_what_is_no_list_of_passages_is_told(cell: object) -> None:
    with pytest.raises(DataError):
        passages_of(cell)


def test_numbers_within_rows_name_no_passages_of_other_rows(tmp_path: Path) -> None:
    rows = [
        {
            "question": f"q{i}",
            "answer": f"a{i}",
            "gold": "1",
            "contexts": [{"id": n, "text": f"{i} {n}"} for n in (0, 1)],
        }
        for i in range(3)
    ]
    task = load_task(jsonl(tmp_path / "a.jsonl", rows), split="test")
    assert task.store is not None and len({entry.id for entry in task.store}) == 6
    texts = {entry.id: entry.text for entry in task.store}
    assert [texts[row.gold[0]] for row in task.test] == ["0 1", "1 1", "2 1"]


def test_several_list_columns_are_asked_about(tmp_path: Path) -> None:
    rows = [{"question": f"q{i}", "answer": f"a{i}", "a": ["x"], "b": ["y"]} for i in range(3)]
    path = jsonl(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError, match="which column holds the passages. Got: a, b"):
        load_task(path)
    task = load_task(path, contexts="b", split="test")
    assert task.store is not None and [entry.text for entry in task.store] == ["y"]
