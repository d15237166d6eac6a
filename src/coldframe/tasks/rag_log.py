"""Logs of retrieval pipelines: questions, what was retrieved for them, right answers and written ones."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from coldframe.config import Config
from coldframe.errors import DataError
from coldframe.tasks.cells import as_text
from coldframe.tasks.contexts import decoded, passages_of
from coldframe.tasks.memory import table_in_memory
from coldframe.tasks.rows import read_table
from coldframe.tasks.table import OnError, Problems, Row, Table, located

Role: TypeAlias = Literal["question", "contexts", "gold", "written", "gold_contexts", "id", "group"]

#: Column names of each role, as ragas, deepeval, LangChain, LlamaIndex and hand-made logs call them, the surest first.
NAMES: Mapping[Role, tuple[str, ...]] = {
    "question": ("question", "user_input", "query", "input", "query_str", "prompt"),
    "contexts": (
        "retrieved_contexts",
        "retrieval_context",
        "contexts",
        "source_nodes",
        "source_documents",
        "retrieved_documents",
        "documents",
        "passages",
        "docs",
        "context",
    ),
    "gold": (
        "ground_truth",
        "ground_truths",
        "reference",
        "expected_output",
        "reference_answer",
        "expected_answer",
        "gold_answer",
        "golden_answers",
        "answers",
        "gold",
        "target",
    ),
    "written": ("response", "actual_output", "answer", "result", "output", "generated_answer", "prediction"),
    "gold_contexts": (
        "reference_contexts",
        "ground_truth_contexts",
        "gold_contexts",
        "gold_passages",
        "expected_contexts",
        "context",
    ),
    "id": ("id", "question_id", "query_id", "_id"),
    "group": ("group",),
}

_ROLES: Mapping[Role, str] = {
    "question": "the question",
    "contexts": "what was retrieved",
    "gold": "the right answer",
    "written": "the answer that the pipeline wrote",
    "gold_contexts": "the passages that hold the answer",
    "id": "the row's name",
    "group": "the group of the question",
}


#: How texts of lists begin that other programs write: of numpy and Python, of documents, of mappings.
_LISTS = ("['", '["', "[Document(", "[NodeWithScore(", "[TextNode(", "[{")


@dataclasses.dataclass(frozen=True)
class LogColumns(Config):
    """Columns of a log, where their names are not among those that :data:`NAMES` knows.

    Args:
        question: What was asked.
        contexts: What was retrieved: a list of texts, or of mappings with a text.
        gold: The right answer, or a list of right answers.
        written: The answer that the pipeline wrote.
        gold_contexts: The passages that hold the answer.
    """

    section = "log"

    question: str | None = None
    contexts: str | None = None
    gold: str | None = None
    written: str | None = None
    gold_contexts: str | None = None


@dataclasses.dataclass(frozen=True)
class LogRow:
    """A question with what the pipeline retrieved for it.

    Attributes:
        question: As it was asked.
        passages: As they were retrieved, most relevant first.
        answers: The right answers, or the written one where the log has no right ones.
        written: What the pipeline wrote; empty if the log does not say.
        gold: The passages that hold the answer; empty if the log does not say.
        id: The row's name in the log, or its number.
        group: Equal for questions that are not independent; empty if the log does not say.
    """

    question: str
    passages: tuple[str, ...]
    answers: tuple[str, ...]
    written: str = ""
    gold: tuple[str, ...] = ()
    id: str = ""
    group: str = ""


@dataclasses.dataclass(frozen=True)
class RagLog:
    """A log that was read.

    Attributes:
        name: Of the file.
        rows: At least one.
        columns: The column that was taken for each role.
        is_gold: Whether the answers are right ones; otherwise they are what the pipeline wrote.
        notes: What was taken for what, and what was left out, in sentences.
    """

    name: str
    rows: tuple[LogRow, ...]
    columns: Mapping[Role, str]
    is_gold: bool
    notes: tuple[str, ...]


def read_log(
    data: str | Path | Iterable[Mapping[str, Any]],
    columns: LogColumns | Mapping[str, str | None] | None = None,
    *,
    on_error: OnError = "raise",
) -> RagLog:
    """Read a log of a retrieval pipeline as people keep it.

    Names that ragas, deepeval, LangChain and LlamaIndex use are known, see :data:`NAMES`; passages may be texts,
    mappings with a text (``page_content``, ``text``, ``content``), or nodes with one. ``answer``, ``response`` and
    ``actual_output`` are what the pipeline wrote, not what is right.

    Args:
        data: A file (JSONL, JSON, CSV, TSV, Parquet, Excel), or rows in memory: mappings, a DataFrame, a Dataset.
        columns: Columns with other names.
        on_error: Stop at the first row that cannot be used, or skip such rows and count them.

    Raises:
        DataError: There is no question, nothing retrieved or no answer; or a row cannot be used (names it).

    Example:
        >>> rows = [{"user_input": "Where is Ada?", "retrieved_contexts": ["Ada is in Rome."], "reference": "Rome"}]
        >>> log = read_log(rows)
        >>> log.rows[0].passages, log.rows[0].answers, log.columns["gold"]
        (('Ada is in Rome.',), ('Rome',), 'reference')
    """
    problems = Problems(on_error)
    table = read_table(data, problems) if isinstance(data, str | Path) else table_in_memory(data, "log")
    chosen = columns if isinstance(columns, LogColumns) else LogColumns.from_dict(dict(columns or {}))
    named: dict[Role, str | None] = {
        "question": chosen.question,
        "contexts": chosen.contexts,
        "gold": chosen.gold,
        "written": chosen.written,
        "gold_contexts": chosen.gold_contexts,
    }
    if repeated := [name for name, count in Counter(filter(None, named.values())).items() if count > 1]:
        raise DataError("A column cannot be two things", got=repeated[0], fix="Name another one.")
    roles = _columns(table, {role: table.require(name) for role, name in named.items() if name})
    target: Role = "gold" if "gold" in roles else "written"
    if target not in roles:
        raise DataError(
            f"{table.name} holds no answers",
            got=", ".join(table.columns),
            expected=f"right answers ({_some('gold')}) or written ones ({_some('written')})",
            fix="Name the column: --gold COLUMN.",
        )
    rows, without = [], 0
    for row in table.rows:
        try:
            answers = tuple(filter(None, map(as_text, _listed(row.values.get(roles[target])))))
            if not answers and target == "gold":
                without += 1
                continue
            rows.append(_row(row, roles, answers))
        except DataError as error:
            problems.add(located(table, row, error))
    if not rows:
        raise DataError(f"{table.name} has no usable row", fix="Look at one of its rows." if without == 0 else None)
    taken = ", ".join(f"{name!r} as {_ROLES[role]}" for role, name in roles.items() if role not in ("id", "group"))
    notes = [f"Took {taken}.", *problems.notes()]
    if without:
        notes.append(f"{without} rows have no right answer and are left out.")
    if target == "written":
        notes.append(
            "The log has no right answers, so the answers that the pipeline wrote stand in their place: the verdict "
            "says whether retrieval is used, not whether the answers are correct."
        )
    return RagLog(table.name, tuple(rows), roles, target == "gold", tuple(notes))


def _columns(table: Table, roles: dict[Role, str]) -> dict[Role, str]:
    """The column of each role; those that are named come first, and none has two roles."""
    for role, names in NAMES.items():
        free = [name for name in names if name in table.columns and name not in roles.values()]
        free = [name for name in free if any(_says(row.values.get(name)) for row in table.rows)] or free
        if role not in roles and free:
            roles[role] = free[0]
    required: tuple[Role, ...] = ("question", "contexts")
    for needed in required:
        if needed not in roles:
            flag = needed.replace("_", "-")
            raise DataError(
                f"{table.name} does not say which column holds {_ROLES[needed]}",
                got=", ".join(table.columns),
                expected=f"a column such as {_some(needed)}",
                fix=f"Name it: --{flag} COLUMN.",
            )
    return {role: roles[role] for role in NAMES if role in roles}


def _some(role: Role) -> str:
    return ", ".join(NAMES[role][:4])


def _row(row: Row, roles: Mapping[Role, str], answers: tuple[str, ...]) -> LogRow:
    def value(role: Role) -> Any:
        return row.values.get(roles[role]) if role in roles else None

    question = value("question")
    if isinstance(decoded(question), list):
        raise DataError(
            "the question is a conversation",
            got=f"a list of {len(decoded(question))} messages",
            expected="a text",
            fix="Keep the last question of each conversation as a text.",
        )
    question = as_text(question)
    if not question:
        raise DataError("the question is empty")
    if not answers:
        raise DataError("the answer is empty")
    passages, gold = passages_of(_filled(value("contexts"))), passages_of(_filled(value("gold_contexts")))
    return LogRow(
        question,
        tuple(passage.text for passage in passages),
        answers,
        as_text(value("written")),
        tuple(passage.text for passage in gold),
        as_text(value("id")) or str(row.number),
        as_text(value("group")),
    )


def _listed(value: Any) -> Sequence[Any]:
    """A cell as a list: JSON of one is one, and a single value is a list of one."""
    whole, value = value, decoded(value)
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        return []
    if isinstance(value, str) and value.lstrip().startswith(_LISTS):
        raise DataError(
            "a list was written in a way that cannot be read back",
            got=value[:60],
            expected="a list in JSON",
            fix="Write the log as JSONL, or the column with json.dumps.",
        )
    return value if isinstance(value, list) else [whole]  # JSON of anything else may be a text


def _says(value: Any) -> bool:
    """Whether there is anything in a cell."""
    return value is not None and (isinstance(value, list) or bool(value == value and str(value).strip()))


def _filled(value: Any) -> list[Any]:
    """The passages of a cell that say anything."""
    return [item for item in _listed(value) if item is not None and item == item and str(item).strip()]
