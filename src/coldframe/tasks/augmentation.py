"""Passages get questions to train on: written by somebody, kept line by line, and told where that failed."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from coldframe.errors import DataError
from coldframe.progress import Bar, say
from coldframe.storage.files import writing
from coldframe.tasks.corpora import hold_out
from coldframe.tasks.leaks import check_leaks
from coldframe.tasks.passages import question_of_record, question_record
from coldframe.tasks.table import Problems
from coldframe.tasks.task import Example, Passage, Task


@dataclasses.dataclass(frozen=True)
class Augmented:
    """What was written about a passage.

    Attributes:
        passage: With its rewrite, if there is one.
        questions: Rows to train on, whose ``gold`` is the passage.
        problem: Why there are no questions; empty if there are.
    """

    passage: Passage
    questions: tuple[Example, ...] = ()
    problem: str = ""


class Augmenter(Protocol):
    """Rewrites passages and asks about them."""

    @property
    def hash(self) -> str:
        """Names who does it and how: what one wrote is not taken for what another would."""
        ...

    def write(self, passages: Sequence[Passage], report: Callable[[str], None]) -> Iterator[Augmented]:
        """Every passage with its questions, or with the reason why there are none, as they become known."""
        ...


def augment(
    task: Task,
    augmenter: Augmenter,
    path: str | Path,
    *,
    problems: Problems | None = None,
    only: Collection[str] | None = None,
    replace: bool = False,
    ask_again: bool = False,
    quiet: bool = False,
) -> Task:
    """A task whose passages have questions to train on: those that it brought, and written ones for the others.

    What is written is kept line by line, so that an interrupted call goes on. Failures are kept too: else the same
    command would find other passages to train on each time it is run. In a corpus the questions are training rows, from
    which validation rows are cut anew; in a table with passages beside it they are ``Task.about``.

    Args:
        task: Its store holds passages.
        augmenter: Who writes.
        path: A JSON lines file that keeps what was written, under the name of who wrote it.
        problems: Gets the passages without questions; None counts them in a note.
        only: Ids of the passages that need questions; all if None.
        replace: Write questions for passages that brought some, too, in their place.
        ask_again: Also about passages that failed before.
        quiet: No progress.

    Returns:
        The task with more questions, and rewrites in its store. Test questions that were written too are told in
        a note.

    Raises:
        DataError: There are no passages, or none of them got questions; says what was written first.
    """
    passages = [entry for entry in task.store or () if isinstance(entry, Passage)]
    if not passages:
        raise DataError(f"{task.schema.name} has no passages to write questions for", fix="Load a corpus of passages.")
    apart = _apart(task)
    rows = task.about if apart else (*task.train, *task.validation)
    brought = set() if replace else {identity for row in rows for identity in row.gold}
    missing = [p for p in passages if p.id not in brought and (only is None or p.id in only)]
    written = _write(missing, augmenter, Path(path), ask_again, quiet)
    failures = [written[passage.id] for passage in missing if written[passage.id].problem]
    if missing and len(failures) == len(missing) and not brought:
        raise DataError(
            f"None of the {len(missing)} passages got questions; the first: {failures[0].problem}",
            fix="Choose another --augment, or bring questions in the field 'qa'.",
        )
    problems = problems or Problems("skip")
    for failure in failures:
        problems.add(_without_questions(failure))
    new = [question for passage in missing for question in written[passage.id].questions]
    store = tuple(written[entry.id].passage if entry.id in written else entry for entry in task.store or ())
    notes = (
        f"Questions were written for {len(missing) - len(failures)} of {len(missing)} passages.",
        *problems.notes(),
    )
    others = tuple(row for row in rows if not any(identity in written for identity in row.gold))
    task = dataclasses.replace(task, store=store, notes=(*task.notes, *notes))
    if apart:
        task = dataclasses.replace(task, about=(*others, *new))
    else:
        task = dataclasses.replace(task, train=(*others, *new), validation=())
        task = hold_out(task, task.options.get("validation_size", 0), task.options.get("seed", 0))
    return check_leaks(task, allow=True)


def _apart(task: Task) -> bool:
    """Whether questions about the passages are none of the task's own rows: a table with passages beside it."""
    beside = any(task.options.get(name) for name in ("store", "contexts"))
    return beside or bool(task.about) or task.schema.kind == "classification"


def _write(
    passages: Sequence[Passage], augmenter: Augmenter, path: Path, ask_again: bool, quiet: bool
) -> dict[str, Augmented]:
    """What was written about each passage, by id: before, or now."""
    written = _read(path, augmenter.hash, passages)
    if ask_again:
        written = {identity: result for identity, result in written.items() if not result.problem}
    missing = [passage for passage in passages if passage.id not in written]
    if not missing:
        return written
    report = (lambda _: None) if quiet else say
    with writing(path), open(path, "a", encoding="utf-8") as out, Bar(len(missing), "augment", quiet) as bar:
        for result in augmenter.write(missing, report):
            bar.advance(1)
            written[result.passage.id] = result
            out.write(json.dumps(_record(result, augmenter.hash), ensure_ascii=False) + "\n")
            out.flush()
    return written


def _record(result: Augmented, by: str) -> dict[str, Any]:
    record: dict[str, Any] = {"id": result.passage.key, "by": by}
    if result.problem:
        return record | {"failed": result.problem}
    return record | {"rewrite": result.passage.rewrite, "qa": [question_record(row) for row in result.questions]}


def _read(path: Path, by: str, passages: Sequence[Passage]) -> dict[str, Augmented]:
    """What was written before, by the passage's id; a line that a crash cut off is left out."""
    if not path.exists():
        return {}
    by_content: defaultdict[str, list[Passage]] = defaultdict(list)
    for passage in passages:
        by_content[passage.key].append(passage)
    results: dict[str, Augmented] = {}
    text = path.read_text(encoding="utf-8", errors="replace")
    for line in text.split("\n"):
        try:
            record = json.loads(line)
            if record["by"] == by:
                results.update((p.id, _result(p, record)) for p in by_content[record["id"]])
        except (ValueError, KeyError, TypeError, RecursionError, DataError):
            continue
    if text and not text.endswith("\n"):
        with open(path, "a", encoding="utf-8") as out:
            out.write("\n")
    return results


def _result(passage: Passage, record: Mapping[str, Any]) -> Augmented:
    if "failed" in record:
        return Augmented(passage, problem=str(record["failed"]))
    questions = tuple(question_of_record(passage, place, qa) for place, qa in enumerate(record["qa"]))
    return Augmented(dataclasses.replace(passage, rewrite=str(record["rewrite"])), questions)


def _without_questions(failure: Augmented) -> DataError:
    where = f"row {failure.passage.row}, " if failure.passage.row else ""
    return DataError(
        f"A passage has no questions to train on ({where}{failure.passage.text[:40]!r}): {failure.problem}",
        fix="Bring them in the field 'qa', choose another --augment, or leave such passages out with --on-error skip.",
    )
