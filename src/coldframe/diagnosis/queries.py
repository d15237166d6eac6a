"""Questions with gold answers and passages beside them: what any text pipeline can be asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

from coldframe.errors import DataError
from coldframe.tasks.task import Template

Passages: TypeAlias = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Query:
    """A question with its gold answer.

    Args:
        text: The question, as the retriever gets it.
        answer: What a right answer says.
        id: A name for error messages; its number if empty.
        group: Equal for queries that are not independent (of one document); alone in its group if empty.
    """

    text: str
    answer: str
    id: str = ""
    group: str = ""

    def __post_init__(self) -> None:
        for name, value in (("text", self.text), ("answer", self.answer)):
            if not isinstance(value, str) or not value.strip():
                raise DataError(f"A query's {name} is empty", got=repr(value), expected="a text")


class Case(NamedTuple):
    """A question as a pipeline is asked it: with these passages, most relevant first."""

    text: str
    passages: Passages
    answer: str


def in_prompt(template: Template, passages: Sequence[str]) -> tuple[str, ...]:
    """Passages as they stand between header and question: the most relevant one last."""
    return tuple(passage + template.separator for passage in reversed(passages))


def as_texts(found: Iterable[str], what: str) -> Passages:
    """Passages as a pipeline gave them, checked.

    Raises:
        DataError: It is one text, no list, or a list of something else.
    """
    if isinstance(found, str | bytes) or not isinstance(found, Iterable):
        raise DataError(f"{what} is not a list of texts", got=repr(found)[:80], expected="a list of str")
    passages = tuple(found)
    if wrong := [passage for passage in passages if not isinstance(passage, str)]:
        raise DataError(
            f"{what} holds something that is not a text",
            got=f"{type(wrong[0]).__name__}, {str(wrong[0])[:60]!r}",
            expected="a list of str",
            fix="Return the texts, such as [document.page_content for document in found].",
        )
    return passages
