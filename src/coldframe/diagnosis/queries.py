"""Questions with gold answers and passages: the input of any text pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from coldframe.errors import DataError
from coldframe.tasks.task import Example, Template, text_key

Passages: TypeAlias = tuple[str, ...]


def Query(text: str, answer: str, id: str = "", group: str = "") -> Example:  # a constructor by another name
    """A question with its gold answer, as an :class:`coldframe.tasks.task.Example`.

    Args:
        text: The question, as the retriever gets it.
        answer: What a right answer says.
        id: A name for error messages; its number if empty.
        group: Equal for queries that are not independent (of one document); alone with its text if empty.

    Raises:
        DataError: The question or the answer is empty.

    Example:
        >>> Query("Where does Ada live?", "Rome").target
        'Rome'
    """
    for name, value in (("text", text), ("answer", answer)):
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"A query's {name} is empty", got=repr(value), expected="a text")
    return Example(text, answer, id, text_key(text), group=group)


def as_examples(queries: Iterable[Example | tuple[str, str]]) -> tuple[Example, ...]:
    """Queries as examples; a pair of question and answer is a query too, anything else a DataError."""
    examples = []
    for query in queries:
        if isinstance(query, tuple) and len(query) == 2:
            query = Query(*query)
        if not isinstance(query, Example):
            raise DataError(
                "Queries are examples, or pairs of question and answer",
                got=repr(query)[:80],
                fix="Pass Query(text, answer).",
            )
        examples.append(query)
    return tuple(examples)


def groups_of(examples: Sequence[Example]) -> NDArray[np.int64] | None:
    """Numbers of the groups in order of appearance, ``[n]``; None if every query stands alone."""
    numbers: dict[str, int] = {}
    groups = [numbers.setdefault(example.group or example.key, len(numbers)) for example in examples]
    return np.array(groups, np.int64) if len(numbers) < len(examples) else None


class Case(NamedTuple):
    """A question as a pipeline is asked it: with these passages, most relevant first."""

    text: str
    passages: Passages
    answer: str


def in_prompt(template: Template, passages: Sequence[str]) -> tuple[str, ...]:
    """Passages as they stand between header and question: the most relevant one last."""
    return tuple(map(template.passage, reversed(passages)))


def as_texts(passages: Iterable[str], what: str) -> Passages:
    """Passages as a pipeline gave them; anything but a list of texts is a DataError."""
    if isinstance(passages, str | bytes) or not isinstance(passages, Iterable):
        raise DataError(f"{what} is not a list of texts", got=repr(passages)[:80], expected="a list of str")
    texts = tuple(passages)
    if wrong := [passage for passage in texts if not isinstance(passage, str)]:
        raise DataError(
            f"{what} holds something that is not a text",
            got=f"{type(wrong[0]).__name__}, {str(wrong[0])[:60]!r}",
            expected="a list of str",
            fix="Return the texts, such as [document.page_content for document in documents].",
        )
    return texts
