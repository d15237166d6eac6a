"""``coldframe check``."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from coldframe.cli.options import Flat, TaskFlags
from coldframe.cli.output import print_json
from coldframe.cli.parsing import parse
from coldframe.config import Config, local_path
from coldframe.errors import DataError

if TYPE_CHECKING:
    from coldframe.tasks.task import Task

SHOWN = 10
"""Unusable rows, and classes, that are named one by one."""


@dataclasses.dataclass(frozen=True)
class Check(Config):
    """Read a table as `fit` would, and say what it would do and what looks wrong. No model is loaded.

    What is looked for: separators and quotes, rows that cannot be used, words that may mean a missing value, labels
    that differ only in spelling or join others, classes without a row to test with, repeated rows, equal inputs with
    different labels, salts, leaks. Exit status: 0 nothing looks wrong, 1 something does, 2 nothing could be read.

    For example:
      coldframe check mood.csv
      coldframe check mood.csv --text sentence --label mood --test test.csv --json

    Args:
        json: Print the result as JSON.
    """

    task: Annotated[TaskFlags, Flat] = dataclasses.field(default_factory=TaskFlags)
    json: bool = False


def run(argv: Sequence[str]) -> int:
    """Read, look, say; 1 if something looks wrong."""
    options = parse(Check, "check", argv)
    result = look_at(options.task)
    if options.json:
        print_json(result)
    else:
        _print(result)
    return 1 if result["wrong"] else 0


def look_at(flags: TaskFlags) -> dict[str, Any]:
    """What `fit` would make of a table, and what looks wrong with it.

    Raises:
        ConfigError: A flag does not fit the data.
        DataError: The file cannot be read at all.
    """
    from coldframe.tasks.load import is_builtin, read_task
    from coldframe.tasks.options import TaskConfig
    from coldframe.tasks.table import Problems, looks_wrong

    problems = Problems("skip")
    config = TaskConfig.from_dict({**flags.to_dict(), "on_error": "skip", "allow_leaks": True})
    result: dict[str, Any] = {"data": config.data, "task": None, "notes": [], "wrong": []}
    notes: Sequence[str] = ()
    try:
        task = read_task(config, problems)
        result["task"], notes = _facts(task), task.notes
    except DataError as error:
        named = is_builtin(config.data) or os.path.exists(local_path(config.data))
        if not named or isinstance(error.__cause__, OSError):  # there is no such data, no such file of test rows
            raise
        notes = problems.remarks
        result["wrong"].append(str(error))
    counted = [note for note in problems.notes() if note not in problems.remarks]
    result["notes"] = [note for note in notes if not looks_wrong(note)]
    result["wrong"] += [note for note in notes if looks_wrong(note) and note not in counted]
    result["wrong"] += [str(error) for error in problems.skipped[:SHOWN]]
    if len(problems.skipped) > SHOWN:
        result["wrong"].append(f"{len(problems.skipped) - SHOWN:,} further row(s) cannot be used.")
    if problems.skipped:
        result["notes"].append("fit stops at the first row that cannot be used; --on-error skip leaves such rows out.")
    return result


def _facts(task: Task) -> dict[str, Any]:
    from coldframe.tasks.duplicates import class_balance

    schema = task.schema
    parts = {"train": task.train, "validation": task.validation, "test": task.test}
    balance = {name: class_balance(rows) for name, rows in parts.items()}
    first = next(iter((*task.train, *task.test)), None)
    return {
        "name": schema.name,
        "kind": schema.kind,
        "domain": schema.domain,
        "metric": schema.metric,
        "text": task.options.get("text"),
        "label": task.options.get("label"),
        "rows": {name: len(rows) for name, rows in parts.items()},
        "store": None if task.store is None else len(task.store),
        "labels": {
            label: {"word": schema.word(label)} | {name: counts.get(label, 0) for name, counts in balance.items()}
            for label in schema.labels
        },
        "prompt": "" if first is None else schema.template.header + schema.template.query(first.text),
        "answer": "" if first is None else schema.word(first.target),
    }


def _print(result: dict[str, Any]) -> None:
    if (task := result["task"]) is not None:
        rows = ", ".join(f"{count:,} {name}" for name, count in task["rows"].items())
        print(f"{task['name']}: {task['kind']} of {task['domain']}, {rows} rows, metric {task['metric']}")
        labels = list(task["labels"].items())
        for label, facts in labels[:SHOWN]:
            counts = ", ".join(f"{facts[name]:,} {name}" for name in task["rows"])
            print(f"  {label!r} (answers {facts['word']!r}): {counts}")
        if len(labels) > SHOWN:
            print(f"  and {len(labels) - SHOWN:,} further classes")
    for note in result["notes"]:
        print(f"- {note}")
    if task is not None and task["prompt"]:
        print("\nThe first prompt, and its answer:")
        print("\n".join(f"  | {line}" for line in [*task["prompt"].splitlines(), f"-> {task['answer']}"]))
    print("\nNothing looks wrong." if not result["wrong"] else "\nLooks wrong:")
    for sentence in result["wrong"]:
        print(f"- {sentence.removeprefix('WARNING: ')}")
