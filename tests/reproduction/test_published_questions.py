"""Questions: files in the published forms, round trips, prompts and what is done with long ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reproduction.question_sets import READERS, QAPrompt
from reproduction.question_sets.prompt import _common_limit
from reproduction.question_sets.read import Row, hotpot, numbered, oracle, popqa, question_task, read_rows
from tests.reproduction.support import write_data, write_lines, write_list

from coldframe.errors import DataError
from coldframe.tasks import load_task
from coldframe.tasks.passages import answered_by
from coldframe.tasks.questions import write_questions
from coldframe.tasks.task import Example, Passage, Task
from coldframe.tasks.text_metrics import normalise


def passages_of(task: Task, row: Example) -> list[Passage]:
    """The passages that came with a row, in their order."""
    stored = {entry.id: entry for entry in task.store or () if isinstance(entry, Passage)}
    return [stored[identity] for identity in row.contexts or ()]


def shown(task: Task, row: Example) -> list[tuple[str, str]]:
    return [(passage.title, passage.body) for passage in passages_of(task, row)]


def place(row: Example) -> int | None:
    """Where the gold passage stands among those of the row."""
    return (row.contexts or ()).index(row.gold[0]) if row.gold else None


TEXT = st.text(min_size=1, max_size=30)
ANSWER = TEXT.filter(lambda text: bool(normalise(text)))
PASSAGE = st.builds(Passage.of, st.text(max_size=40).filter(str.strip), st.text(max_size=8))


@st.composite
def rows(draw: st.DrawFn) -> Row:
    passages = draw(st.lists(PASSAGE, min_size=1, max_size=4))
    gold = draw(st.none() | st.integers(0, len(passages) - 1))
    return Row(draw(TEXT), draw(TEXT.filter(str.strip)), draw(st.lists(ANSWER, min_size=1, max_size=3)), passages, gold)


@pytest.mark.slow
@given(st.lists(rows(), min_size=1, max_size=4, unique_by=lambda row: row.id))
def test_rows_keep_their_passages_in_order_and_the_store_has_each_once(listed: list[Row]) -> None:
    task = question_task("some", listed)
    assert [row.id for row in task.test] == [row.id for row in listed] and not task.train
    for row, example in zip(listed, task.test, strict=True):
        assert [passage.key for passage in passages_of(task, example)] == [passage.key for passage in row.passages]
        assert {example.target, *example.references} == set(row.answers)
    assert len({entry.key for entry in task.store or ()}) == len(task.store or ())


@pytest.mark.slow
@given(rows())
def test_the_target_is_an_accepted_answer_that_a_passage_has_if_one_has(row: Row) -> None:
    where = row.passages if row.gold is None else [row.passages[row.gold]]
    (example,) = question_task("one", [row]).test
    assert example.target in row.answers
    if any(answered_by(passage, row.answers) for passage in where):
        assert any(answered_by(passage, [example.target]) for passage in where)


def test_what_is_written_is_a_task_again(tmp_path: Path) -> None:
    data = write_data(tmp_path)
    task = READERS["popqa"](data)
    stored = {entry.id: entry for entry in task.store or () if isinstance(entry, Passage)}
    write_questions(tmp_path / "some.jsonl", task.test, stored)
    again = load_task(tmp_path / "some.jsonl", split="test")
    for row, other in zip(task.test, again.test, strict=True):
        assert (row.id, row.text, row.target, row.references) == (other.id, other.text, other.target, other.references)
        assert shown(task, row) == shown(again, other) and place(row) == place(other)


def test_the_published_forms(tmp_path: Path) -> None:
    data = write_data(tmp_path)
    wiki, hot, pop = (READERS[name](data) for name in ("2wiki", "hotpot", "popqa"))
    assert [row.id for row in wiki.test] == ["q1", "q2", "q3", "q4", "t0"]  # q0 has no context
    assert shown(wiki, wiki.test[0]) == [("Town", "It is a town. Its mayor is Ann 1."), ("Hill", "It is high.")]
    assert wiki.test[0].gold == () and wiki.test[0].target == "Ann 1"
    assert [row.id for row in hot.test] == ["q1", "q2", "q3", "q4", "hotpot-7"]  # 4 stands in both files
    assert shown(hot, hot.test[-1]) == [("", "Town. Ann 9."), ("", "Hill. High.")]
    assert (pop.test[1].target, pop.test[1].references) == ("politician", ("pol",))
    assert shown(pop, pop.test[1])[0] == ("Other - Part", "nothing here")
    assert [place(row) for row in pop.test] == [None, 1, 1, 1]
    nq = question_task("nq", oracle(data / "nq-open" / "oracle_2655.jsonl.gz"))
    assert nq.test[0].id == "nq-0" and place(nq.test[0]) == 0 and nq.test[0].target == "Ardenson"


def test_numbered_passages(tmp_path: Path) -> None:
    passages = ["Document 1 (Title: Hill (film)): It is high.", "Document 2 (Title: ): Ann: a mayor"]
    row = {"question": "who", "answers": ["Ann"], "passages": passages}
    first, second = numbered(write_lines(tmp_path / "mine.jsonl.gz", [row, {**row, "passages": passages[:1]}]))
    assert (first.id, first.gold, second.id, second.gold) == ("mine-0", 1, "mine-1", None)
    assert [(p.title, p.body) for p in first.passages] == [("Hill (film)", "It is high."), ("", "Ann: a mayor")]
    with pytest.raises(DataError, match="no number and title"):
        numbered(write_lines(tmp_path / "bad.jsonl", [{**row, "passages": ["It is high."]}]))


@pytest.mark.slow
def test_shared_data_has_what_its_manifest_says(shared_data: Path) -> None:
    wiki, hot, pop = (READERS[name](shared_data).test for name in ("2wiki", "hotpot", "popqa"))
    assert len(wiki) == 164 + 500 and all(len(row.contexts or ()) == 10 for row in wiki[:164])
    assert 300 <= len(hot) <= 500 and len(pop) == 1000 and all(len(row.contexts or ()) == 5 for row in pop)
    assert sum(bool(row.gold) for row in pop) / len(pop) == pytest.approx(0.873, abs=0.03)
    for name, answered in (("nq", 0.688), ("triviaqa", 0.730)):  # at word boundaries a few answers less are found
        questions = READERS[name](shared_data).test
        assert len(questions) == 500 and all(len(row.contexts or ()) == 5 for row in questions)
        assert sum(bool(row.gold) for row in questions) / 500 == pytest.approx(answered, abs=0.03)
    assert len(oracle(shared_data / "nq-open" / "oracle_2655.jsonl.gz")) == 2655


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"answers": []}, "no answer"),
        ({"answers": ["the", "*"]}, "no answer"),
        ({"passages": []}, "no passages"),
        ({"question": "  "}, "no text"),
    ],
)
def test_a_bad_question_is_an_error_that_says_what(change: dict[str, Any], problem: str) -> None:
    row = Row("a", "where", ["Rome"], [Passage.of("Rome")])
    with pytest.raises(DataError, match=f"question a has {problem}"):
        question_task("bad", [row._replace(**change)])
    with pytest.raises(DataError, match="Two questions of twice have the id 'a'"):
        question_task("twice", [row, row])


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Cannot read"):
        read_rows(tmp_path / "missing.jsonl")
    (tmp_path / "cut.jsonl.gz").write_bytes(write_lines(tmp_path / "whole.jsonl.gz", [{"a": 1}]).read_bytes()[:-6])
    with pytest.raises(DataError, match="Cannot read"):
        read_rows(tmp_path / "cut.jsonl.gz")
    (tmp_path / "list.json").write_text("[1, 2]")
    with pytest.raises(DataError, match="holds no questions"):
        read_rows(tmp_path / "list.json")
    row = {"id": "a", "question": "where", "answers": ["Rome"], "passages": [{"title": "", "text": "Rome"}]}
    with pytest.raises(DataError, match="no question with passages"):
        hotpot(write_lines(tmp_path / "other.jsonl", [row]))
    with pytest.raises(DataError, match="not in the expected form: KeyError"):
        hotpot(write_lines(tmp_path / "form.jsonl", [{**row, "context": [["t", ["s"]]]}]))
    with pytest.raises(DataError, match="no gold passage"):
        bad = {"question": "who", "answers": ["x"], "ctxs": [{"title": "", "text": "x", "isgold": False}]}
        oracle(write_lines(tmp_path / "oracle.jsonl", [bad]))
    people = write_list(tmp_path / "p.json.gz", [{"id": 0, "question": "a", "possible_answers": '["x"]'}])
    with pytest.raises(DataError, match="other questions"):
        popqa(people, write_lines(tmp_path / "r.jsonl", [{"id": 0, "question": "b", "docs": ["t\nx"]}]))


LONG = Example("Where?", "Rome", "q", "q")
DOCUMENTS = [Passage.of("a " * 60 + "z", "A"), Passage.of("short one", "B"), Passage.of("c " * 90, "C")]


def test_a_prompt_numbers_its_documents_and_keeps_their_order() -> None:
    prompt = QAPrompt(str.split, 10_000)(LONG, DOCUMENTS)
    assert prompt.cut == 0 and prompt.tokens == len(prompt.text.split())
    places = [prompt.text.index(f"Document {i} ({title}): ") for i, title in enumerate("ABC", 1)]
    assert places == sorted(places) and prompt.text.endswith("\n\nQuestion: Where?\nAnswer:")


@given(st.integers(0, 260))
def test_a_long_prompt_is_cut_to_fit_and_every_document_stays(limit: int) -> None:
    whole = QAPrompt(str.split, 10_000)(LONG, DOCUMENTS)
    try:
        prompt = QAPrompt(str.split, limit)(LONG, DOCUMENTS)
    except DataError as error:
        assert limit < whole.tokens and "fewer documents" in str(error)
        return
    assert prompt.tokens <= limit and prompt.text.count("Document ") == 3 and "short one" in prompt.text
    assert (prompt.cut == 0) == (limit >= whole.tokens)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.integers(0, 200))
def test_the_common_limit_is_the_greatest_that_fits(sizes: list[int], room: int) -> None:
    def total(limit: int) -> int:
        return sum(min(size, limit) for size in sizes)

    limit = _common_limit(sizes, room)
    assert total(limit) <= room and (limit >= max(sizes) or total(limit + 1) > room)
