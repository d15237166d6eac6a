"""Augmentations: read from what is written, kept, asked again, and told where they fail."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from coldframe.errors import ColdframeError, DataError
from coldframe.tasks import load_task
from coldframe.tasks.augmentation import augment
from coldframe.tasks.question_writer import QuestionWriter, read_questions_in
from coldframe.tasks.table import Problems
from coldframe.tasks.task import Example, Passage, Task

QAS = [{"question": f"Q{i}?", "answer": f"A{i}", "full_answer": f"It is A{i}."} for i in range(3)]
GOOD, BAD = json.dumps(QAS), "no"


class Script:
    """What is written, answer by answer."""

    def __init__(self, *answers: str) -> None:
        self.answers, self.calls, self.seeds = list(answers), 0, list[int]()

    def __call__(self, instructions: Sequence[str], seed: int, stop: Sequence[str]) -> list[str | ColdframeError]:
        self.calls += 1
        self.seeds.append(seed)
        return [self.answers.pop(0) for _ in instructions]


def bare(count: int, tmp_path: Path) -> Task:
    """A corpus of so many passages without questions."""
    lines = [json.dumps({"title": f"Ball {i}", "text": f"It is red {i}."}) + "\n" for i in range(count)]
    (tmp_path / "corpus.jsonl").write_text("".join(lines))
    return load_task(tmp_path / "corpus.jsonl", validation_size=0)


def about(task: Task, row: int) -> list[Example]:
    assert task.store is not None
    return [example for example in task.train if example.gold == (task.store[row].id,)]


def rewrite_of(task: Task, row: int) -> str:
    assert task.store is not None
    entry = task.store[row]
    assert isinstance(entry, Passage)
    return entry.rewrite


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (GOOD, 3),
        ("Here you are:\n```json\n" + json.dumps(QAS, indent=2) + "\n```\nGood luck!", 3),
        ('{"questions": ' + GOOD + "}", 3),
        (GOOD[:-40], 2),
        (
            '[{"question": "Q?", "answer": 7}, {"question": "", "answer": "x"}, {"question": "Q?", "answer": "again"}]',
            1,
        ),
        ('{broken {"question": "Q?", "answer": "A"}', 1),
        ("Q1: Who?\nA1: Ada\n\nQ2: Where?\nA2: Rome\n", 2),
        ("**Question:** Who?\n\n**Answer:** Ada", 1),
        ("I cannot do that.", 0),
        ("", 0),
        ('[{"question": ["Q"], "answer": {"a": 1}}]', 0),
    ],
)
def test_what_can_be_read_is_read(text: str, count: int) -> None:
    questions = read_questions_in(text)
    assert len(questions) == count and all(question.question and question.answer for question in questions)


def test_the_first_of_equal_questions_stays_in_its_place() -> None:
    text = json.dumps([{"question": q, "answer": a} for q, a in (("one?", "1"), ("two?", "2"), ("one?", "3"))])
    assert [(q.question, q.answer) for q in read_questions_in(text)] == [("one?", "1"), ("two?", "2")]


@pytest.mark.parametrize(
    "text",
    [
        "Q: a" + "\n" * 1_600 + "x",
        "Q: a\n" * 20_000,
        "Q: " + " " * 100_000 + "\nA:",
        '{"a":' * 3_000,
        '{"a' * 40_000,
        "{" * 100_000,
    ],
)
def test_reading_takes_no_longer_than_the_text(text: str) -> None:
    started = time.perf_counter()
    assert read_questions_in(text) == ()
    assert time.perf_counter() - started < 2


def test_passages_get_questions_and_rewrites(tmp_path: Path) -> None:
    task = bare(2, tmp_path)
    task = augment(
        task, QuestionWriter(Script("new 0", "new 1", GOOD, GOOD), "me"), tmp_path / "kept.jsonl", quiet=True
    )
    assert [rewrite_of(task, row) for row in (0, 1)] == ["new 0", "new 1"]
    assert [row.text for row in about(task, 0)] == ["Q0?", "Q1?", "Q2?"] and len(task.train) == 6
    first = about(task, 1)[0]
    assert (first.target, first.full_target, first.row) == ("A0", "It is A0.", 2)
    assert len({row.id for row in task.train}) == 6
    assert any("2 of 2 passages" in note for note in task.notes)


def test_who_fails_is_asked_again_and_told(tmp_path: Path) -> None:
    task, path = bare(2, tmp_path), tmp_path / "kept.jsonl"
    script, problems = Script("new 0", "new 1", BAD, GOOD, BAD, BAD), Problems("skip")
    augmented = augment(task, QuestionWriter(script, "me", retries=2), path, problems=problems, quiet=True)
    assert len(augmented.train) == 3 and about(augmented, 0) == []
    (problem,) = problems.skipped
    assert "row 1" in str(problem) and "3 answers" in str(problem) and "'no'" in str(problem)
    assert len(set(script.seeds)) == 3, "another seed for every attempt"
    # Neither is asked again, or the same command would find other rows; the one that failed is, if it is wished.
    nobody = Script()
    assert augment(task, QuestionWriter(nobody, "me"), path, quiet=True).train == augmented.train and not nobody.calls
    with pytest.raises(DataError, match=r"row 1, 'Ball 0: It is red 0\.'"):
        augment(task, QuestionWriter(nobody, "me"), path, problems=Problems("raise"), quiet=True)
    again = augment(task, QuestionWriter(Script("new 0", GOOD), "me"), path, ask_again=True, quiet=True)
    assert len(again.train) == 6


def test_what_cannot_be_read_is_asked_again_when_all_were_asked(tmp_path: Path) -> None:
    script = Script(BAD, GOOD, BAD, GOOD, GOOD, GOOD)  # four passages in two batches, then the two that failed in one
    writer = QuestionWriter(script, "me", rewrites=False, batch_size=2)
    task = augment(bare(4, tmp_path), writer, tmp_path / "kept.jsonl", quiet=True)
    assert len(task.train) == 12 and script.calls == 3 and not script.answers
    assert {rewrite_of(task, row) for row in range(4)} == {""}


def test_a_line_that_a_crash_cut_off_is_written_again(tmp_path: Path) -> None:
    task, path = bare(4, tmp_path), tmp_path / "kept.jsonl"
    whole = augment(task, QuestionWriter(Script(*"abcd", *[GOOD] * 4), "me"), path, quiet=True)
    path.write_text(path.read_text()[:-30])
    assert augment(task, QuestionWriter(Script("d", GOOD), "me"), path, quiet=True) == whole
    assert augment(task, QuestionWriter(Script(), "me"), path, quiet=True) == whole
    # What one wrote is not taken for what another would.
    other = augment(task, QuestionWriter(Script(*"efgh", *[GOOD] * 4), "you"), path, quiet=True)
    assert [rewrite_of(other, row) for row in range(4)] == list("efgh")


def test_questions_that_came_along_stay_unless_they_are_replaced(tmp_path: Path) -> None:
    task = load_task("fact-corpus:4", validation_size=0)
    nobody = Script()
    assert augment(task, QuestionWriter(nobody, "me"), tmp_path / "a", quiet=True).train == task.train
    assert not nobody.calls and not (tmp_path / "a").exists()
    script = Script("new", GOOD)
    assert task.store is not None
    identity = task.store[1].id
    writer = QuestionWriter(script, "me")
    replaced = augment(task, writer, tmp_path / "a", only={identity}, replace=True, quiet=True)
    assert [row.text for row in about(replaced, 1)] == ["Q0?", "Q1?", "Q2?"] and rewrite_of(replaced, 1) == "new"
    assert about(replaced, 0) == about(task, 0) and rewrite_of(replaced, 0) == rewrite_of(task, 0)


def test_validation_rows_are_cut_from_written_questions_too(tmp_path: Path) -> None:
    bare(4, tmp_path)
    task = load_task(tmp_path / "corpus.jsonl", validation_size=0.25)
    task = augment(task, QuestionWriter(lambda texts, *_: [GOOD.replace("Q", text[-8:]) for text in texts], "me"),
                   tmp_path / "kept", quiet=True)  # fmt: skip
    assert len(task.train) == 9 and len(task.validation) == 3


def test_where_nothing_can_be_read_the_first_answer_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = QuestionWriter(lambda texts, *_: ["As a small model"] * len(texts), "me", rewrites=False, retries=1)
    with pytest.raises(DataError, match=r"None of the 3 passages got questions.*2 answers.*'As a small model'"):
        augment(bare(3, tmp_path), writer, tmp_path / "kept")
    assert "none of 3 answers could be read" in capsys.readouterr().err, "told while it goes on"


def test_a_refusal_is_told_and_the_next_is_asked(tmp_path: Path) -> None:
    def write(instructions: Sequence[str], seed: int, stop: Sequence[str]) -> list[str | ColdframeError]:
        return [ColdframeError("not this one") if "red 1" in text else GOOD for text in instructions]

    problems = Problems("skip")
    task = augment(bare(3, tmp_path), QuestionWriter(write, "me"), tmp_path / "kept", problems=problems, quiet=True)
    assert len(task.train) == 6 and "not this one" in str(problems.skipped[0])


def test_test_questions_that_are_written_too_are_told(tmp_path: Path) -> None:
    task = bare(2, tmp_path)
    (tmp_path / "q.jsonl").write_text('{"question": "Q0?", "answer": "A0"}\n')
    task = load_task(tmp_path / "corpus.jsonl", questions=tmp_path / "q.jsonl", validation_size=0)
    writer = QuestionWriter(lambda texts, *_: [GOOD] * len(texts), "me", rewrites=False)
    assert any(note.startswith("LEAK") for note in augment(task, writer, tmp_path / "kept", quiet=True).notes)


def test_questions_about_passages_beside_a_table_are_none_of_its_rows(tmp_path: Path) -> None:
    bare(2, tmp_path)
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"row {i},{'ab'[i % 2]}\n" for i in range(20)))
    task = load_task(tmp_path / "a.csv", store=tmp_path / "corpus.jsonl")
    writer = QuestionWriter(lambda texts, *_: [GOOD] * len(texts), "me", rewrites=False)
    augmented = augment(task, writer, tmp_path / "kept", quiet=True)
    assert augmented.train == task.train and augmented.validation == task.validation and len(augmented.about) == 6
    brought = load_task(tmp_path / "a.csv", store="fact-corpus:3")
    assert len(brought.about) == 9 and {row.gold[0] for row in brought.about} == {e.id for e in brought.store or ()}


def test_a_table_has_no_passages_to_ask_about(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"row {i},{'ab'[i % 2]}\n" for i in range(20)))
    with pytest.raises(DataError, match="no passages to write questions for"):
        augment(load_task(tmp_path / "a.csv"), QuestionWriter(Script(), "me"), tmp_path / "kept")
