"""Questions: files in the published forms, round trips, prompts and what is done with long ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.qa.support import write_data, write_lines, write_list

from coldframe.errors import DataError
from coldframe.tasks.qa import READERS, Passage, QAPrompt, Question, answered_by, read_questions, write_questions
from coldframe.tasks.qa.prompt import _common_limit
from coldframe.tasks.qa.read import hotpot, numbered, oracle, popqa, read_rows
from coldframe.tasks.text_metrics import normalise

TEXT = st.text(min_size=1, max_size=30)
ANSWER = TEXT.filter(lambda text: bool(normalise(text)))
PASSAGE = st.builds(Passage, st.text(max_size=8), st.text(max_size=40))


@st.composite
def questions(draw: st.DrawFn) -> Question:
    passages = tuple(draw(st.lists(PASSAGE, min_size=1, max_size=4)))
    gold = draw(st.none() | st.integers(0, len(passages) - 1))
    answers = tuple(draw(st.lists(ANSWER, min_size=1, max_size=3)))
    return Question(draw(TEXT), draw(TEXT.filter(str.strip)), answers, passages, gold)


@given(st.lists(questions(), min_size=1, max_size=4, unique_by=lambda one: one.id))
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, rows: list[Question]) -> None:
    path = tmp_path_factory.mktemp("questions") / "some.jsonl"
    write_questions(rows, path)
    assert read_questions(path) == rows


@given(questions())
def test_the_target_is_an_accepted_answer_that_a_passage_has_if_one_has(question: Question) -> None:
    where = question.passages if question.gold is None else (question.passages[question.gold],)
    assert question.target in question.answers
    if any(answered_by(passage, question.answers) for passage in where):
        assert any(answered_by(passage, [question.target]) for passage in where)


def test_the_published_forms(tmp_path: Path) -> None:
    data = write_data(tmp_path)
    wiki, hot, pop = (READERS[name](data) for name in ("2wiki", "hotpot", "popqa"))
    assert [one.id for one in wiki] == ["q1", "q2", "q3", "q4", "t0"]  # q0 has no context
    assert wiki[0].passages == (Passage("Town", "It is a town. Its mayor is Ann 1."), Passage("Hill", "It is high."))
    assert wiki[0].gold is None and wiki[0].answers == ("Ann 1",)
    assert [one.id for one in hot] == ["q1", "q2", "q3", "q4", "hotpot-7"]  # 4 stands in both files
    assert hot[-1].passages == (Passage("", "Town. Ann 9."), Passage("", "Hill. High."))
    assert pop[1].answers == ("politician", "pol") and pop[1].target == "politician"
    assert pop[1].passages[0] == Passage("Other - Part", "nothing here")
    assert [one.gold for one in pop] == [None, 1, 1, 1]
    nq = oracle(data / "nq-open" / "oracle_2655.jsonl.gz")
    assert nq[0].id == "nq-0" and nq[0].gold == 0 and nq[0].target == "Ardenson"


def test_numbered_passages(tmp_path: Path) -> None:
    passages = ["Document 1 (Title: Hill (film)): It is high.", "Document 2 (Title: ): Ann: a mayor"]
    row = {"question": "who", "answers": ["Ann"], "passages": passages}
    first, second = numbered(write_lines(tmp_path / "mine.jsonl.gz", [row, {**row, "passages": passages[:1]}]))
    assert (first.id, first.gold, second.id, second.gold) == ("mine-0", 1, "mine-1", None)
    assert first.passages == (Passage("Hill (film)", "It is high."), Passage("", "Ann: a mayor"))
    with pytest.raises(DataError, match="no number and title"):
        numbered(write_lines(tmp_path / "bad.jsonl", [{**row, "passages": ["It is high."]}]))


def test_shared_data_has_what_its_manifest_says(shared_data: Path) -> None:
    wiki, hot, pop = (READERS[name](shared_data) for name in ("2wiki", "hotpot", "popqa"))
    assert len(wiki) == 164 + 500 and all(len(one.passages) == 10 for one in wiki[:164])
    assert 300 <= len(hot) <= 500 and len(pop) == 1000 and all(len(one.passages) == 5 for one in pop)
    assert sum(one.gold is not None for one in pop) / len(pop) == pytest.approx(0.873, abs=0.03)
    for name, answered in (("nq", 0.688), ("triviaqa", 0.730)):  # at word boundaries a few answers less are found
        found = READERS[name](shared_data)
        assert len(found) == 500 and all(len(one.passages) == 5 for one in found)
        assert sum(one.gold is not None for one in found) / 500 == pytest.approx(answered, abs=0.03)
    assert len(oracle(shared_data / "nq-open" / "oracle_2655.jsonl.gz")) == 2655


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"answers": []}, "no answer"),
        ({"answers": ["the", "*"]}, "no answer"),
        ({"answers": "Rome"}, "no question"),
        ({"passages": []}, "no passages"),
        ({"passages": [{"title": "x"}]}, "no question"),
        ({"gold": 3}, "gold passage of a does not exist"),
        ({"gold": "1"}, "no question"),
        ({"question": "  "}, "empty"),
        ({"id": None, "question": 3, "answers": None}, "no question"),
    ],
)
def test_a_bad_question_is_an_error_that_says_what(tmp_path: Path, change: dict[str, object], says: str) -> None:
    row = {"id": "a", "question": "where", "answers": ["Rome"], "passages": [{"title": "", "text": "Rome"}]}
    with pytest.raises(DataError, match=says):
        read_questions(write_lines(tmp_path / "bad.jsonl", [{**row, **change}]))


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Cannot read"):
        read_questions(tmp_path / "missing.jsonl")
    (tmp_path / "cut.jsonl.gz").write_bytes(write_lines(tmp_path / "whole.jsonl.gz", [{"a": 1}]).read_bytes()[:-6])
    with pytest.raises(DataError, match="Cannot read"):
        read_rows(tmp_path / "cut.jsonl.gz")
    (tmp_path / "list.json").write_text("[1, 2]")
    with pytest.raises(DataError, match="holds no questions"):
        read_rows(tmp_path / "list.json")
    row = {"id": "a", "question": "where", "answers": ["Rome"], "passages": [{"title": "", "text": "Rome"}]}
    with pytest.raises(DataError, match="the id 'a'"):
        read_questions(write_lines(tmp_path / "twice.jsonl", [row, row]))
    with pytest.raises(DataError, match="no question with passages"):
        hotpot(write_lines(tmp_path / "other.jsonl", [row]))
    with pytest.raises(DataError, match="not in the expected form: KeyError"):
        hotpot(write_lines(tmp_path / "form.jsonl", [{**row, "context": [["t", ["s"]]]}]))
    with pytest.raises(DataError, match="no gold passage"):
        bad = {"question": "who", "answers": ["x"], "ctxs": [{"title": "", "text": "x", "isgold": False}]}
        oracle(write_lines(tmp_path / "oracle.jsonl", [bad]))
    asked = write_list(tmp_path / "p.json.gz", [{"id": 0, "question": "a", "possible_answers": '["x"]'}])
    with pytest.raises(DataError, match="other questions"):
        popqa(asked, write_lines(tmp_path / "r.jsonl", [{"id": 0, "question": "b", "docs": ["t\nx"]}]))


LONG = Question(
    "q", "Where?", ("Rome",), (Passage("A", "a " * 60 + "z"), Passage("B", "short one"), Passage("C", "c " * 90))
)


def test_a_prompt_numbers_its_documents_and_keeps_their_order() -> None:
    told = QAPrompt(str.split, 10_000)(LONG)
    assert told.cut == 0 and told.tokens == len(told.text.split())
    places = [told.text.index(f"Document {i} ({title}): ") for i, title in enumerate("ABC", 1)]
    assert places == sorted(places) and told.text.endswith("\n\nQuestion: Where?\nAnswer:")


@given(st.integers(0, 260))
def test_a_long_prompt_is_cut_to_fit_and_every_document_stays(limit: int) -> None:
    prompt = QAPrompt(str.split, limit)
    whole = QAPrompt(str.split, 10_000)(LONG)
    try:
        told = prompt(LONG)
    except DataError as error:
        assert limit < whole.tokens and "fewer documents" in str(error)
        return
    assert told.tokens <= limit and told.text.count("Document ") == 3 and "short one" in told.text
    assert (told.cut == 0) == (limit >= whole.tokens)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.integers(0, 200))
def test_the_common_limit_is_the_greatest_that_fits(sizes: list[int], room: int) -> None:
    def total(limit: int) -> int:
        return sum(min(size, limit) for size in sizes)

    limit = _common_limit(sizes, room)
    assert total(limit) <= room and (limit >= max(sizes) or total(limit + 1) > room)
