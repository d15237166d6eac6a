"""Nothing that is scored stands among what can be retrieved or was trained on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from coldframe.errors import LeakError
from coldframe.tasks import check_leaks, load_task
from coldframe.tasks.task import Example, Passage, Schema, Task


def leaky() -> Task:
    rows = [Example(t, t[0], t, t.casefold(), row=i) for i, t in enumerate(("a1", "b1", "a2", "b2", "A1"), 1)]
    schema = Schema("x", labels=("a", "b", "A"), words=("a", "b", "A"))
    return Task(schema, tuple(rows[:2]), (), tuple(rows[2:]))


def table(path: Path, rows: list[tuple[str, ...]]) -> Path:
    path.write_text("\n".join(",".join(row) for row in [("text", "label", "split")[: len(rows[0])], *rows]) + "\n")
    return path


def test_leaks_are_refused_by_name_unless_allowed() -> None:
    with pytest.raises(LeakError, match=r"1 of 3 test rows are also in train \(A1 = a1\)"):
        check_leaks(leaky())
    assert "LEAK: 1 of 3 test rows" in check_leaks(leaky(), allow=True).notes[0]


def test_validation_rows_can_be_retrieved_and_so_are_compared(tmp_path: Path) -> None:
    rows = [(f"train {i}", "ab"[i % 2], "train") for i in range(20)]
    rows += [(f"held {i}", "ab"[i % 2], part) for part in ("validation", "test") for i in range(10)]
    path = table(tmp_path / "a.csv", rows)
    with pytest.raises(LeakError, match=r"10 of 10 test rows are also in validation .*can be retrieved"):
        load_task(path)
    assert any(note.startswith("LEAK: 10 of 10") for note in load_task(path, allow_leaks=True).notes)


def test_validation_rows_are_not_in_train(tmp_path: Path) -> None:
    rows = [(f"row {i}", "ab"[i % 2], ("train", "test")[i % 4 == 3]) for i in range(20)]
    path = table(tmp_path / "a.csv", [*rows, ("row 0", "a", "validation")])
    with pytest.raises(LeakError, match="1 of 1 validation rows are also in train"):
        load_task(path)


def test_a_leaked_row_is_found_wherever_the_validation_split_puts_it(tmp_path: Path) -> None:
    train = table(tmp_path / "train.csv", [(f"row {i}", "ab"[i % 2]) for i in range(20)])
    test = table(tmp_path / "test.csv", [("ROW  7", "b"), ("new", "a")])
    for seed in range(40):
        with pytest.raises(LeakError, match="1 of 2 test rows"):
            load_task(train, test=test, seed=seed)


def test_questions_that_were_trained_on_are_told(tmp_path: Path) -> None:
    pairs = [("Where does it lie?", "Rome"), ("Where does she live?", "Oslo")]
    corpus = [{"text": f"{a} {i}", "qa": [{"question": q, "answer": a}]} for i, (q, a) in enumerate(pairs)]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(record) + "\n" for record in corpus))
    asked = [{"question": q, "answer": a} for q, a in pairs] + [{"question": "Who?", "answer": "She"}]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(record) + "\n" for record in asked))
    with pytest.raises(LeakError, match=r"2 of 3 test questions were trained on \(row 1 'Where does it lie\?'"):
        load_task(tmp_path / "c.jsonl", questions=tmp_path / "q.jsonl")
    task = load_task(tmp_path / "c.jsonl", questions=tmp_path / "q.jsonl", allow_leaks=True)
    assert any(note.startswith("LEAK: 2 of 3 test questions were trained on") for note in task.notes)


def test_solved_exemplars_of_a_store_are_compared_too() -> None:
    rows = [Example(f"text {i}", "yes" if i % 2 else "no", f"r{i}", f"k{i}", row=i + 1) for i in range(6)]
    schema = Schema("t", labels=("no", "yes"), words=("no", "yes"), metric="accuracy")
    task = Task(schema, tuple(rows[:2]), (), tuple(rows[2:4]), store=(rows[3], rows[5]))
    with pytest.raises(LeakError, match=r"1 of 2 test rows are also in store \(r3 = r3\)"):
        check_leaks(task)
    passages = dataclasses.replace(task, store=(Passage.of("text 3"),))
    assert check_leaks(passages).notes == ()
