"""Passages and questions from files, and the invented ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coldframe.errors import ConfigError, DataError
from coldframe.tasks.corpus import Corpus, Passage, read_corpus, read_questions, write_corpus, write_questions
from coldframe.tasks.fact_corpus import RELATIONS, as_asked, fact_corpus


def written(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_the_id_is_the_content(tmp_path: Path) -> None:
    one = read_corpus(written(tmp_path / "a.jsonl", {"text": "It is red.", "title": "Ball"}))
    (tmp_path / "b.csv").write_text("n,title,body\n7,Box,It is blue.\n8,Ball,It is red.\n")
    other = read_corpus(tmp_path / "b.csv", text="body")
    assert one.passages[0].id == other.passages[1].id == Passage.of("It is red.", "Ball").id
    assert one.passages[0].id != Passage.of("It is red.").id
    assert other.passages[1].row == 3 and other.passages[1].shown == "Ball: It is red."
    assert one.hash != other.hash
    assert other.hash == Corpus("other name", other.passages[::-1]).hash


def test_empty_passages_are_told_and_repeated_ones_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("text\tn\nred\t1\n \t2\nred\t3\nblue\t4\nblue\t5\n")
    with pytest.raises(DataError, match=r"a\.tsv, row 3: the passage is empty"):
        read_corpus(path)
    corpus = read_corpus(path, on_error="skip")
    assert [passage.text for passage in corpus.passages] == ["red", "blue"]
    assert any("Skipped 1" in note and "row 3" in note for note in corpus.notes)
    assert any("Left out 2" in note and "row 4 (the same as row 2)" in note for note in corpus.notes)
    with pytest.raises(DataError, match="no column 'body'"):
        read_corpus(path, text="body")


def test_given_augmentations_are_read_and_checked(tmp_path: Path) -> None:
    good = {"text": "Ada is red.", "rewrite": "Red is Ada.", "qa": [{"question": "Who?", "answer": "Ada"}]}
    corpus = read_corpus(written(tmp_path / "a.jsonl", good, {"text": "no questions"}))
    assert list(corpus.given) == [corpus.passages[0].id]
    assert corpus.given[corpus.passages[0].id].qa[0].answer == "Ada"
    for wrong in ([{"question": "Who?"}], ["Who?"], []):
        with pytest.raises(DataError, match=r"row 1: .*qa"):
            read_corpus(written(tmp_path / "b.jsonl", {**good, "qa": wrong}))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    found = fact_corpus(5, seed=3)
    write_corpus(tmp_path / "c.jsonl", found.corpus)
    write_questions(tmp_path / "q.jsonl", found.questions)
    corpus = read_corpus(tmp_path / "c.jsonl")
    assert corpus.hash == found.corpus.hash and corpus.given == found.corpus.given
    questions, notes = read_questions(tmp_path / "q.jsonl", corpus)
    assert notes == () and [(q.id, q.answers, q.passages, q.hops) for q in questions] == [
        (q.id, q.answers, q.passages, q.hops) for q in found.questions
    ]


def test_bad_questions_are_told(tmp_path: Path) -> None:
    twins = (Passage.of("Eve is tall.", "Eve"), Passage.of("Eve is old.", "Eve"))
    corpus = Corpus("c", (Passage.of("Ada is red.", "Ada"), *twins))
    rows = [
        ({"question": "Who?", "answer": "", "passages": "Ada"}, "the answer is empty"),
        ({"question": " ", "answer": "Ada", "passages": "Ada"}, "the question is empty"),
        ({"question": "Who?", "answer": "Ada", "passages": ["Bo"]}, "no passage 'Bo'"),
        ({"question": "Who?", "answer": "Eve", "passages": "Eve"}, "2 passages have the title 'Eve'"),
        ({"question": "Who?", "answer": "Ada", "hops": "two"}, "hops"),
    ]
    for row, said in rows:
        with pytest.raises(DataError, match=rf"row 1: .*{said}"):
            read_questions(written(tmp_path / "q.jsonl", row), corpus)
    with pytest.raises(DataError, match="no column 'answer'"):
        read_questions(written(tmp_path / "q.jsonl", {"question": "Who?"}))
    good = {"question": "Who?", "answer": ["Ada", "A."], "passages": "Ada"}
    (question,), notes = read_questions(written(tmp_path / "q.jsonl", rows[0][0], good), corpus, on_error="skip")
    assert question.answers == ("Ada", "A.") and question.passages == (corpus.passages[0].id,) and len(notes) == 1
    assert question.example().references == ("A.",)


def test_facts_are_the_same_by_seed_and_stand_in_their_passages() -> None:
    found = fact_corpus(30, seed=1, distractors=6)
    assert found.corpus.hash == fact_corpus(30, seed=1, distractors=6).corpus.hash != fact_corpus(30).corpus.hash
    assert len(found.corpus) == 36 == len(found.corpus.given) == len(found.corpus.by_id)
    assert len(found.questions) == 30 * 4 and len({q.id for q in found.questions}) == 120
    trained = {qa.question for one in found.corpus.given.values() for qa in one.qa}
    for question in found.questions:
        assert question.text not in trained, "a question is asked in other words than it was trained in"
        assert len(question.passages) == question.hops
        assert question.answers[0] in found.corpus.by_id[question.passages[-1]].text
    for passage in found.corpus.passages:
        augmentation = found.corpus.given[passage.id]
        assert all(qa.answer in passage.text and qa.answer in augmentation.rewrite for qa in augmentation.qa)
        assert passage.title in augmentation.rewrite and augmentation.rewrite != passage.text
    assert set(found.corpus.passages[30:]).isdisjoint(q.passages[0] for q in found.questions)


def test_two_facts_lead_over_the_link() -> None:
    found = fact_corpus(12)
    for question in (q for q in found.questions if q.hops == 2):
        first, second = (found.corpus.by_id[one] for one in question.passages)
        assert first.title in question.text and second.title in first.text and second.title not in question.text


def test_bad_arguments_are_told() -> None:
    with pytest.raises(ConfigError, match="entity of each kind"):
        fact_corpus(2)
    assert as_asked("fact-corpus") == (200, 0) and as_asked("fact-corpus:40:7") == (40, 7)
    assert as_asked("fact-corpus:many") is None and as_asked("facts.csv") is None
    assert all("{s}" in relation.tested for relations in RELATIONS.values() for relation in relations)
