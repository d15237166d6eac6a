"""Questions with many documents: the gold one where it was asked for, no answer anywhere else, the same every time."""

from __future__ import annotations

from pathlib import Path

import pytest
from reproduction.multi_document_qa import build, draw, load, main
from reproduction.questions import Passage, Question, answered_by, read_questions
from tests.reproduction.support import write_data

from coldframe.errors import ColdframeError, DataError


def test_gold_stands_where_it_should_and_nothing_else_answers(tmp_path: Path) -> None:
    questions, pool = load(write_data(tmp_path))
    built = build(questions, pool, documents=5, gold=(0, 2, 4), seed=3)
    assert len(built) == 3 * len(questions)
    by_group: dict[str, list[Question]] = {}
    for one in built:
        assert one.gold is not None and len(one.passages) == 5
        assert [answered_by(passage, one.answers) for passage in one.passages] == [i == one.gold for i in range(5)]
        assert one.passages[one.gold] in [q.passages[0] for q in questions if q.id == one.group]
        assert len(set(one.passages)) == 5
        by_group.setdefault(one.group, []).append(one)
    for rows in by_group.values():
        assert [one.gold for one in rows] == [0, 2, 4] and len({one.id for one in rows}) == 3
        others = {tuple(p for i, p in enumerate(one.passages) if i != one.gold) for one in rows}
        assert len(others) == 1  # only the gold passage moves


def test_distractors_are_the_ones_most_like_the_question(tmp_path: Path) -> None:
    questions, pool = load(write_data(tmp_path))
    for one in build(questions, pool, documents=3, gold=(0,)):
        town = one.question.split()[-1]
        assert {passage.title for passage in one.passages[1:]} == {f"About {town}"}


def test_the_seed_decides_and_a_larger_draw_holds_the_smaller(tmp_path: Path) -> None:
    questions, pool = load(write_data(tmp_path))
    assert build(questions, pool, documents=4, gold=(1,), seed=1) == build(
        questions, pool, documents=4, gold=(1,), seed=1
    )
    assert build(questions, pool, documents=4, gold=(1,), seed=1) != build(
        questions, pool, documents=4, gold=(1,), seed=2
    )
    few, many = (build(questions, pool, documents=4, gold=(1,), count=count) for count in (3, 6))
    assert many[:3] == few
    assert draw([1, 2, 3], None, 0) == [1, 2, 3]


def test_the_command_writes_what_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_data(tmp_path / "data"), tmp_path / "mdqa.jsonl"
    main([str(data), str(out), "--documents", "3", "--gold", "0", "2", "--questions", "4"])
    assert "wrote 8 questions with 3 documents" in capsys.readouterr().out
    assert read_questions(out) == build(*load(data), documents=3, gold=(0, 2), count=4)


def test_bad_input(tmp_path: Path) -> None:
    questions, pool = load(write_data(tmp_path))
    with pytest.raises(ColdframeError, match="place of the gold"):
        build(questions, pool, documents=3, gold=(3,))
    with pytest.raises(ColdframeError, match="distractor"):
        build(questions, pool, documents=1, gold=(0,))
    with pytest.raises(DataError, match="too few passages"):
        build(questions, pool[:2], documents=5, gold=(0,))
    with pytest.raises(DataError, match="no gold passage"):
        build([Question("q", "who", ("x",), (Passage("", "x"),))], pool, documents=3, gold=(0,))
    with pytest.raises(DataError, match="Cannot read"):
        load(tmp_path / "nothing")


@pytest.mark.slow
def test_on_the_shared_data(shared_data: Path) -> None:
    questions, pool = load(shared_data)
    built = build(questions, pool, documents=10, gold=(0, 4, 9), count=5)
    assert len(built) == 15 and all(answered_by(one.passages[one.gold or 0], one.answers) for one in built)
    for one in built:
        assert not any(answered_by(p, one.answers) for i, p in enumerate(one.passages) if i != one.gold)
