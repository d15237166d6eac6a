"""Solved examples and instructions: what they are drawn from, and what never gets into them."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest

from coldframe.tasks import load_task
from coldframe.tasks.prompts import drawn, instruction_of, solved_rows, with_instruction, with_solved
from coldframe.tasks.task import Example, Passage, Schema, Task

STORE = tuple(Passage.of(f"The colour of {name} is {name}ish.", name, id=name) for name in "abcdef")
WRITE = Schema("t", "generation", metric="token_f1")


def question(name: str, about: str, target: str = "x") -> Example:
    return Example(f"What is {name}?", target, name, name, gold=(about,))


def corpus(test: str = "a", validation: str = "b") -> Task:
    train = tuple(question(f"train {name} {i}", name, f"{name}{i}") for name in "abcdef" for i in range(2))
    ask, choose = (tuple(question(f"other {name}", name) for name in names) for names in (test, validation))
    return Task(WRITE, train, choose, ask, store=STORE)


def test_no_solved_example_is_about_a_passage_that_is_asked_about() -> None:
    solved = solved_rows(corpus())
    assert Counter(entry[2] for entry in solved) == dict.fromkeys((entry.text for entry in STORE[2:]), 2)
    assert solved[0] == ("What is train c 0?", "c0", "c: The colour of c is cish.")
    assert solved_rows(corpus(test="abcdef")) == ()
    twin = dataclasses.replace(corpus(), test=(dataclasses.replace(question("t", "a"), key="train c 0"),))
    assert "What is train c 0?" not in {entry[0] for entry in solved_rows(twin)}


def test_rows_whose_passages_are_not_known_are_no_solved_examples() -> None:
    task = corpus()
    unknown = tuple(dataclasses.replace(row, gold=()) for row in task.train)
    assert solved_rows(dataclasses.replace(task, train=unknown)) == ()
    came_with = tuple(dataclasses.replace(row, contexts=row.gold * 1, gold=()) for row in task.train)
    assert solved_rows(dataclasses.replace(task, train=came_with)) == solved_rows(task)


def test_they_are_drawn_by_a_seed_from_different_passages() -> None:
    schemas = [with_solved(corpus(), 4, seed).solved for seed in (0, 0, 1)]
    assert schemas[0] == schemas[1] != schemas[2]
    assert len({entry[2] for entry in schemas[0]}) == 4
    assert len(with_solved(corpus(), None, 0).solved) == 2
    assert len(with_solved(corpus(), 99, 0).solved) == 8  # all that there are


def test_labels_take_turns() -> None:
    rows = [(f"{i}", "Yes" if i else "No") for i in range(20)]
    assert Counter(target for _, target in drawn(rows, 2, seed=3)) == {"Yes": 1, "No": 1}


def test_where_exemplars_are_solved_themselves_there_are_none_unless_asked_for() -> None:
    schema = Schema("t", labels=("No", "Yes"), words=("No", "Yes"))
    rows = tuple(Example(f"row {i}", ("No", "Yes")[i % 2], f"{i}", f"{i}") for i in range(8))
    task = Task(schema, rows[:4], rows[4:6], rows[6:])
    assert with_solved(task, None, 0).solved == ()
    solved = with_solved(task, 2, 0).solved
    assert {*solved} < {(row.text, row.target) for row in task.train} and {s[1] for s in solved} == {"No", "Yes"}


def test_a_schema_renders_them_with_their_passages_and_keeps_them() -> None:
    schema = WRITE.replace(solved=[["Which?", "that", "first", "second"]])
    assert schema.solved_example(schema.solved[0], 1) == "first\n\nInput: Which?\nLabel: that\n\n"
    assert schema.solved_example(schema.solved[0], 5) == "second\n\nfirst\n\nInput: Which?\nLabel: that\n\n"
    assert Schema.from_dict(schema.to_dict()) == schema


def test_instructions() -> None:
    assert instruction_of(corpus()) == "Answer the question in a few words, using the passage."
    assert instruction_of(dataclasses.replace(corpus(), store=None)) == "Answer in a few words."
    task = Task(Schema("t", labels=("0", "1"), words=("No", "Yes")), (), (), ())
    assert with_instruction(task, "auto").template.header == "Answer with one of: No, Yes.\n\n"
    instructed = dataclasses.replace(task, schema=with_instruction(task, "Say it."))
    assert with_instruction(instructed, None).template.instruction == "Say it."
    assert with_instruction(instructed, "").template.header == ""


@pytest.mark.parametrize("name", ["fact-corpus:9", "fact-corpus:9:4"])
def test_the_fact_corpus_has_solved_examples_of_another_seed(name: str) -> None:
    task, seed = load_task(name), 4 if name.endswith("4") else 0
    other = load_task(f"fact-corpus:9:{seed + 1}")
    assert len(task.solved) == 27
    passages = {entry.text for entry in other.store or ()}
    assert {entry[2] for entry in task.solved} == passages
    assert not passages & {entry.text for entry in task.store or ()}
    questions = {(row.text, row.target) for row in (*other.train, *other.validation)}
    assert {(entry[0], entry[1]) for entry in task.solved} == questions
    assert not {entry[0] for entry in task.solved} & {row.text for row in task.test}


def test_claims_are_solved_beside_the_passage_that_decides_them() -> None:
    task = load_task("fact-claims:9")
    passages = {entry.text for entry in load_task("fact-corpus:9:1").store or ()}
    assert len(task.solved) == 27 and {entry[2] for entry in task.solved} == passages
    assert {entry[1] for entry in task.solved} == {"false", "true"}
    assert all(
        any(word in entry[2] for word in entry[0].rstrip(".").split() if word[0].isupper()) for entry in task.solved
    )
    assert {entry[1] for entry in with_solved(task, 2, 0).solved} == {"false", "true"}
