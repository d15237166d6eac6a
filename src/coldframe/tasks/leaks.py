"""What is scored must not stand among what can be retrieved, nor have been trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from coldframe.errors import LeakError
from coldframe.tasks.molecules import parent_key
from coldframe.tasks.table import warning
from coldframe.tasks.task import Example, Passage, Task


def check_leaks(task: Task, allow: bool = False) -> Task:
    """Refuse a task whose scored rows were seen before; with ``allow`` it is written into the notes.

    Test rows are compared with training and with validation rows, which both can be retrieved once the method is
    fitted; validation rows with training rows; both with solved exemplars in a store of their own. Rows are equal if
    their keys are. Passages are there to be read: that is no leak, but a question about them that was trained on is.

    Args:
        task: Rows with their keys.
        allow: Note the leak instead of raising.

    Raises:
        LeakError: Naming the rows, unless ``allow``.
    """
    notes = []
    pairs = [("test", "train"), ("test", "validation"), ("validation", "train"), ("test", "about")]
    pairs += [("test", "store"), ("validation", "store")]
    for part, other in pairs:
        entries = (entry for entry in getattr(task, other) or () if not isinstance(entry, Passage))
        scored, seen = getattr(task, part), {example.key: example for example in entries}
        leaked = [(example, seen[example.key]) for example in scored if example.key in seen]
        if not leaked:
            continue
        about_passages = any(isinstance(entry, Passage) for entry in task.store or ())
        problem, fix = (_trained_on if about_passages else _among)(part, other, leaked, len(scored))
        if not allow:
            raise LeakError(problem, fix=f"{fix}, or pass allow_leaks=True to report them instead.")
        notes.append(f"LEAK: {problem}.")
    if task.schema.domain == "molecules":
        notes += _salts(task)
    return dataclasses.replace(task, notes=(*task.notes, *notes))


def _salts(task: Task) -> list[str]:
    """A note on test rows that are a salt, or another charge, of a molecule that can be retrieved."""
    parents = {parent_key(entry.text): entry for entry in task.exemplars if not isinstance(entry, Passage)}
    pairs = [(row, entry) for row in task.test if (entry := parents.get(parent_key(row.text))) and entry.key != row.key]
    if not pairs:
        return []
    shown = ", ".join(f"{row.id} {row.text} = {entry.id} {entry.text}" for row, entry in pairs[:3])
    says = "differ from molecules to learn from in their salt or charge alone"
    return [warning(f"{len(pairs)} of {len(task.test)} test rows {says}: {shown}{', ...' if len(pairs) > 3 else ''}.")]


def _among(part: str, other: str, leaked: Sequence[tuple[Example, Example]], rows: int) -> tuple[str, str]:
    pairs = ", ".join(f"{example.id} = {seen.id}" for example, seen in leaked[:5]) + (
        ", ..." if len(leaked) > 5 else ""
    )
    why = ", whose rows can be retrieved too" if other == "validation" else ""
    return f"{len(leaked)} of {rows} {part} rows are also in {other} ({pairs}){why}", f"Remove them from {other}"


def _trained_on(part: str, other: str, leaked: Sequence[tuple[Example, Example]], rows: int) -> tuple[str, str]:
    shown = ", ".join(f"row {example.row} {example.text[:60]!r}" for example, _ in leaked[:3])
    shown += ", ..." if len(leaked) > 3 else ""
    seen = "are among the validation questions" if other == "validation" else "were trained on"
    fix = "A score on them says nothing about other questions: ask for the same facts in other words"
    return f"{len(leaked)} of {rows} {part} questions {seen} ({shown})", fix
