"""Logs of pipelines as frameworks write them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coldframe.diagnosis.retrieval_quality import retrieval_quality
from coldframe.errors import DataError
from coldframe.tasks.contexts import decoded
from coldframe.tasks.rag_log import LogColumns, read_log

PASSAGES = ("Ada lives in Rome.", "Bo lives in Oslo.")
TEXTS = list(PASSAGES)
LANGCHAIN = [{"page_content": text, "metadata": {"source": "a.txt"}, "type": "Document"} for text in PASSAGES]
SERIALISED = [
    {
        "lc": 1,
        "type": "constructor",
        "id": ["langchain", "schema", "document", "Document"],
        "kwargs": {"page_content": t},
    }
    for t in PASSAGES
]
NODES = [{"node": {"id_": f"n{i}", "text": t, "class_name": "TextNode"}, "score": 0.5} for i, t in enumerate(PASSAGES)]
NEW_NODES = [{"node": {"id_": "n", "text_resource": {"text": t}, "class_name": "Node"}, "score": 0.5} for t in PASSAGES]
OBJECTS = [SimpleNamespace(page_content=text, id=None) for text in PASSAGES]

KINDS: dict[str, dict[str, Any]] = {
    "ragas": {"user_input": "Q", "retrieved_contexts": TEXTS, "response": "In Rome.", "reference": "Rome"},
    "older ragas": {"question": "Q", "contexts": TEXTS, "answer": "In Rome.", "ground_truth": "Rome"},
    "oldest ragas": {"question": "Q", "contexts": TEXTS, "answer": "In Rome.", "ground_truths": ["Rome"]},
    "deepeval": {"input": "Q", "retrieval_context": TEXTS, "actual_output": "In Rome.", "expected_output": "Rome"},
    "langchain": {"query": "Q", "source_documents": LANGCHAIN, "result": "In Rome.", "reference": "Rome"},
    "langchain chain": {"input": "Q", "context": SERIALISED, "answer": "In Rome.", "reference": "Rome"},
    "langchain objects": {"input": "Q", "context": OBJECTS, "answer": "In Rome.", "reference": "Rome"},
    "llama-index": {"query": "Q", "source_nodes": NODES, "response": "In Rome.", "reference_answer": "Rome"},
    "new llama-index": {"query": "Q", "source_nodes": NEW_NODES, "response": "In Rome.", "reference": "Rome"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_framework_is_understood(kind: str, tmp_path: Path) -> None:
    row = KINDS[kind]
    log = read_log([row])
    assert (log.rows[0].question, log.rows[0].passages) == ("Q", PASSAGES)
    assert log.rows[0].answers == ("Rome",) and log.rows[0].written == "In Rome." and log.is_gold
    assert log.notes[0].startswith("Took '") and "as the right answer" in log.notes[0]
    if kind != "langchain objects":
        path = tmp_path / "log.jsonl"
        path.write_text(json.dumps(row) + "\n")
        assert read_log(path).rows == log.rows


def test_what_the_pipeline_wrote_is_no_right_answer() -> None:
    log = read_log([{"question": "Q", "contexts": TEXTS, "answer": "In Rome."}])
    assert not log.is_gold and log.rows[0].answers == ("In Rome.",)
    assert "not whether the answers are correct" in log.notes[-1]
    named = read_log([{"question": "Q", "contexts": TEXTS, "answer": "Rome"}], LogColumns(gold="answer"))
    assert named.is_gold and named.rows[0].answers == ("Rome",)


def test_gold_passages_of_deepeval_are_not_what_was_retrieved() -> None:
    row = {**KINDS["deepeval"], "context": ["Ada lives in Rome."]}
    log = read_log([row])
    assert log.rows[0].passages == PASSAGES and log.rows[0].gold == ("Ada lives in Rome.",)


def test_rows_without_a_right_answer_are_counted() -> None:
    rows = [KINDS["ragas"], {**KINDS["ragas"], "reference": None}, {**KINDS["ragas"], "reference": ["Roma", "Rome"]}]
    log = read_log(rows)
    assert [row.answers for row in log.rows] == [("Rome",), ("Roma", "Rome")]
    assert "1 rows have no right answer and are left out." in log.notes


def test_passages_in_the_cells_of_a_csv(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(
        "question,contexts,reference\n"
        '"Where is Ada?","[""Ada lives in Rome."", ""Bo lives in Oslo.""]",Rome\n'
        "\"Where is Bo?\",\"['Ada lives in Rome.', 'Bo lives in Oslo.']\",Oslo\n"
        '"Where is Cleo?",Cleo lives in Lima.,Lima\n'
        '"Where is Dan?",,Bern\n'
    )
    log = read_log(path)
    assert [row.passages for row in log.rows] == [PASSAGES, PASSAGES, ("Cleo lives in Lima.",), ()]


@pytest.mark.parametrize("text", ["['a' 'b']", "['a'\n 'b']", "[__import__('os')]", "[" * 5000, "{'a': 1", "['a', *b]"])
def test_what_is_no_list_stays_a_text(text: str) -> None:
    assert decoded(text) == text


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"contexts": TEXTS, "reference": "Rome"}, "which column holds the question"),
        ({"question": "Q", "reference": "Rome"}, "which column holds what was retrieved"),
        ({"question": "Q", "contexts": TEXTS}, "holds no answers"),
        ({"question": "", "contexts": TEXTS, "reference": "Rome"}, "row 1: the question is empty"),
        ({"user_input": [{"content": "Q", "type": "human"}], "contexts": TEXTS, "reference": "R"}, "a conversation"),
        ({"question": "Q", "contexts": [{"score": 1}], "reference": "Rome"}, "row 1: a passage is empty"),
        ({"question": "Q", "contexts": TEXTS, "reference": None}, "no usable row"),
    ],
)
def test_what_cannot_be_used_is_named(row: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        read_log([row])


def test_bad_rows_may_be_skipped() -> None:
    log = read_log([KINDS["ragas"], {**KINDS["ragas"], "user_input": ""}], on_error="skip")
    assert len(log.rows) == 1 and any("Skipped 1 unusable row" in note for note in log.notes)


@pytest.mark.parametrize("cell", ["['a b' 'c d']", "[Document(page_content='a')]", "['a b', 'c"])
def test_lists_that_cannot_be_read_back_are_named(cell: str) -> None:
    with pytest.raises(DataError, match="row 1: a list was written in a way that cannot be read back"):
        read_log([{"question": "Q", "contexts": cell, "reference": "R"}])
    assert read_log([{"question": "Q", "contexts": "[1] a note", "reference": "R"}]).rows[0].passages == ("[1] a note",)


def test_an_empty_column_gives_way_to_a_full_one_and_absent_passages_are_left_out() -> None:
    rows = [{"question": "Q", "contexts": ["a", None, float("nan"), ""], "ground_truth": None, "reference": "R"}]
    log = read_log(rows)
    assert log.columns["gold"] == "reference" and log.rows[0].passages == ("a",)
    with pytest.raises(DataError, match="A column cannot be two things"):
        read_log(rows, {"question": "question", "gold": "question"})


@pytest.mark.parametrize("source", ["report.pdf", "docs/report", "https://a.example/b", "C:\\data\\a.txt"])
def test_where_a_passage_was_read_from_is_no_title(source: str) -> None:
    """Then a passage equals its gold passage, however short they are."""
    row = {"question": "Q", "contexts": [{"source": source, "text": "It is Rome."}], "reference": "Rome"}
    log = read_log([{**row, "reference_contexts": ["It is Rome."]}] * 2)
    assert log.rows[0].passages == ("It is Rome.",)
    hit = retrieval_quality(log.rows).hit
    assert hit is not None and hit.value == 1.0
    named = read_log([{**row, "contexts": [{"source": "Ada", "text": "It is Rome."}]}])
    assert named.rows[0].passages == ("Ada: It is Rome.",)
    titled = read_log([{**row, "contexts": [{"title": "Node.js", "source": source, "text": "It is Rome."}]}])
    assert titled.rows[0].passages == ("Node.js: It is Rome.",)


@pytest.mark.parametrize("text", ['{"price": 3}', "[1, 2]", '{"a": {"b": "c"}}', "{'a': 1}"])
def test_a_passage_may_be_json_of_something_else(text: str, tmp_path: Path) -> None:
    row = {"question": "Q", "contexts": [text, "Ada is in Rome."], "reference": "Rome"}
    assert read_log([row]).rows[0].passages == (text, "Ada is in Rome.")
    if text.startswith("{"):  # a cell that holds nothing else; a list is a list of passages
        assert read_log([{**row, "contexts": text}]).rows[0].passages == (text,)
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(row) + "\n")
    assert read_log(path).rows[0].passages == (text, "Ada is in Rome.")
    inside = json.dumps({"page_content": "Ada is in Rome."})
    assert read_log([{**row, "contexts": [inside]}]).rows[0].passages == ("Ada is in Rome.",)
