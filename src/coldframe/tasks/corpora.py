"""A corpus as a task: a store of passages, questions about them to train on, questions to be answered."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from coldframe.config import check
from coldframe.errors import ConfigError, nearest
from coldframe.tasks.columns import ID_NAMES
from coldframe.tasks.leaks import check_leaks
from coldframe.tasks.options import Source, TaskConfig
from coldframe.tasks.passages import QUESTIONS, REWRITE, TEXT_NAMES, PassageRows, read_passages
from coldframe.tasks.questions import QUESTION, read_questions
from coldframe.tasks.splits import spared_split
from coldframe.tasks.table import Problems, Table
from coldframe.tasks.task import Example, Passage, Schema, Task, Template
from coldframe.tasks.text_metrics import TEXT_METRICS

NOT_OF_A_CORPUS = ("label", "positive", "words", "test", "test_size", "deduplicate", "max_train", "store")
"""Options that say something about labelled rows."""


def is_corpus(config: TaskConfig, table: Table) -> bool:
    """Whether a table is read as passages: questions are given, it brings some, or it has nothing like a label."""
    if config.questions is not None or QUESTIONS in table.columns:
        return True
    passage_columns = {config.text or "", config.title, REWRITE, *TEXT_NAMES, *ID_NAMES}
    return config.label is None and config.test is None and set(table.columns) <= passage_columns


def build_corpus(source: Source, config: TaskConfig, problems: Problems) -> Task:
    """Passages and questions to a task.

    Args:
        source: The passages, and the questions to be answered.
        config: What the user says.
        problems: Gets the rows that cannot be used.

    Raises:
        ConfigError: An option is about labelled rows.
        DataError: A row cannot be used; names the row.
        LeakError: Test questions are trained on.
    """
    for name in NOT_OF_A_CORPUS:
        if getattr(config, name) is not None:
            fix = "Pass its questions as questions=." if name == "test" else f"Leave out {name!r}."
            raise ConfigError(f"{config.data} is read as a corpus of passages, which has no {name!r}", fix=fix)
    for name, usual in (("domain", "text"), ("kind", "generation")):
        check(getattr(config, name) in ("auto", usual), f"The {name} of a corpus is {usual}", got=getattr(config, name))
    read = read_passages(source.table, problems, config.text, config.title)
    questions: tuple[Example, ...] = ()
    own: tuple[Passage, ...] = ()
    origin = dict(source.table.source)
    if source.questions is not None:
        questions, own = read_questions(source.questions, problems, read.passages, read.names, config.contexts)
        origin |= {f"questions_{key}": value for key, value in source.questions.source.items()}
    task = Task(
        corpus_schema(source.name, config),
        read.questions,
        (),
        questions,
        (*source.notes, *read.notes, *problems.notes()),
        origin,
        config.to_dict(),
        (*read.passages, *own),
        solved=source.solved,
    )
    task = hold_out(task, config.validation_size, config.seed)
    return check_leaks(_described(task, read), config.allow_leaks)


ANSWER_TOKENS = 20
"""Longest answer to a question: those of the usual sets are a few words."""


def corpus_schema(name: str, config: TaskConfig) -> Schema:
    """Questions as they are put to a model, and how answers are scored."""
    metric = config.metric or "token_f1"
    if metric not in TEXT_METRICS:
        raise ConfigError(f"Unknown metric {metric!r} for this kind of task", fix=nearest(metric, TEXT_METRICS))
    template = Template(config.template or QUESTION.body, config.instruction or "", end=config.end)
    return Schema(name, "generation", template=template, metric=metric, max_new_tokens=ANSWER_TOKENS)


def hold_out(task: Task, size: int | float, seed: int) -> Task:
    """The task with validation rows cut anew from all rows to train on; every passage keeps a question."""
    rows = (*task.train, *task.validation)
    if not size or len(rows) < 2:
        return dataclasses.replace(task, train=rows, validation=())
    held = spared_split([row.key for row in rows], [row.gold[:1] for row in rows], size, seed)
    train = tuple(row for row, out in zip(rows, held, strict=True) if not out)
    validation = tuple(row for row, out in zip(rows, held, strict=True) if out)
    return dataclasses.replace(task, train=train, validation=validation)


def _described(task: Task, read: PassageRows) -> Task:
    about = {passage_id for row in (*task.train, *task.validation) for passage_id in row.gold}
    questions = len(task.train) + len(task.validation)
    notes = [f"A corpus of {len(task.store or ()):,} passages; {questions:,} questions about {len(about):,} of them."]
    if not task.test:
        notes.append("No questions to be answered: pass questions='FILE' to measure anything.")
    else:
        sizes = f"{len(task.train):,} train, {len(task.validation):,} validation, {len(task.test):,} test rows"
        cut = "Validation rows were cut from train" if task.validation else "No question was spared for validation"
        notes.append(f"{cut}, seed {task.options['seed']}; {sizes}.")
    return dataclasses.replace(task, notes=(*task.notes, *notes))


def spread(examples: Sequence[Example], count: int) -> tuple[Example, ...]:
    """``count`` of the rows, evenly over their order: the same ones every time.

    Passages have several questions in a row, each of another kind. So where the step is a whole number the place within
    it moves on: else all questions were of one kind.

    >>> rows = [Example(str(i), "x", str(i), str(i)) for i in range(10)]
    >>> [row.text for row in spread(rows, 3)], [row.text for row in spread(rows[:9], 3)]
    (['0', '3', '6'], ['0', '4', '8'])
    """
    if count >= len(examples):
        return tuple(examples)
    step, rest = divmod(len(examples), count)
    return tuple(examples[i * len(examples) // count + (0 if rest else i % step)] for i in range(count))
