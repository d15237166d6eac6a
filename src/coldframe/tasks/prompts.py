"""What stands before a question whatever it is: an instruction, and other questions with their answers."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np

from coldframe.tasks.task import Passage, Schema, Solved, Task

USUAL_SOLVED = 2
"""Solved examples before passages, unless another number is asked for."""


def one_of(words: Sequence[str]) -> str:
    """The instruction of a classification task.

    >>> one_of(["No", "Yes"])
    'Answer with one of: No, Yes.'
    """
    return f"Answer with one of: {', '.join(words)}."


def instruction_of(task: Task) -> str:
    """An instruction that the task's kind makes."""
    if task.schema.kind == "classification":
        return one_of(task.schema.words)
    passages = _has_passages(task)
    return "Answer the question in a few words, using the passage." if passages else "Answer in a few words."


def with_instruction(task: Task, instruction: str | None) -> Schema:
    """The task's schema with another instruction.

    Args:
        task: Its schema and what it retrieves from.
        instruction: The sentence; ``"auto"`` for one that the task's kind makes, ``""`` for none, None for the task's.
    """
    if instruction is None:
        return task.schema
    if instruction == "auto":
        instruction = instruction_of(task)
    return dataclasses.replace(task.schema, template=dataclasses.replace(task.schema.template, instruction=instruction))


def with_solved(task: Task, count: int | None, seed: int) -> Schema:
    """The task's schema with solved examples.

    Args:
        task: Whose ``solved`` they are drawn from; from its training rows if it has none.
        count: At most so many. None: 2 where passages are retrieved, which have no answers of their own, else none.
        seed: Of the draw.
    """
    if count is None:
        count = USUAL_SOLVED if _has_passages(task) else 0
    return dataclasses.replace(task.schema, solved=drawn(task.solved or solved_rows(task), count, seed))


def solved_rows(task: Task) -> tuple[Solved, ...]:
    """Training rows as solved examples, with the passages that they are about where passages are retrieved.

    No row to be scored is among them, and none about a passage that a validation or a test row is about.
    """
    scored = (*task.validation, *task.test)
    keys = {row.key for row in scored}
    rows = [row for row in task.train if row.key not in keys]
    if not _has_passages(task):
        return tuple((row.text, row.target) for row in rows)
    passages = {entry.id: entry.text for entry in task.store or () if isinstance(entry, Passage)}
    taken = {name for row in scored for name in (*row.gold, *(row.contexts or ()))}
    solved = []
    for row in rows:
        names = row.gold or row.contexts or ()
        if names and passages.keys() >= {*names} and not taken & {*names}:
            solved.append((row.text, row.target, *(passages[name] for name in names)))
    return tuple(solved)


def drawn(solved: Sequence[Solved], count: int, seed: int) -> tuple[Solved, ...]:
    """Some of the solved examples: other passages and other answers first, else at random.

    >>> drawn([("a?", "Yes"), ("b?", "Yes"), ("c?", "No")], 2, seed=0)
    (('c?', 'No'), ('b?', 'Yes'))
    """
    rest = [solved[i] for i in np.random.default_rng([seed, 4]).permutation(len(solved))]
    chosen: list[Solved] = []
    answers: Counter[str] = Counter()
    passages: Counter[str] = Counter()
    while rest and len(chosen) < count:
        best = min(rest, key=lambda s: (max((passages[text] for text in s[2:]), default=0), answers[s[1]]))
        rest.remove(best)
        chosen.append(best)
        answers[best[1]] += 1
        passages.update(best[2:])
    return tuple(chosen)


def _has_passages(task: Task) -> bool:
    return any(isinstance(entry, Passage) for entry in task.store or ())
