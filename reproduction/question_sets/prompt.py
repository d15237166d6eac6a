"""How a question with passages is put to a model, and what is done when that is too long."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from coldframe.errors import DataError
from coldframe.tasks.task import Example, Passage

INSTRUCTION = "Answer the question from the documents below; not all of them matter. Write only a short answer."
ANSWER = "Answer:"
_LEAST = 16  # tokens of a passage below which cutting leaves nothing to read


@dataclasses.dataclass(frozen=True)
class PromptText:
    """A question as a model reads it.

    Attributes:
        text: The prompt, up to where the answer begins.
        tokens: Its length.
        cut: Passages that were shortened.
    """

    text: str
    tokens: int
    cut: int


class QAPrompt:
    """Instruction, numbered documents in their order, question, ``Answer:``.

    The structure is that of Liu et al. 2023 (lost in the middle), arXiv 2307.03172; a document's number says its place.
    With a chat template ``Answer:`` begins the model's turn: left to begin it itself, a model says a sentence about
    the documents, and the loss of a short answer measures that form and little else.

    A prompt that is longer than ``max_tokens`` has its longest passages cut at their ends to one common length, so
    that every document keeps its place.

    Args:
        tokenize: Token ids of a piece of text, without special tokens.
        max_tokens: Longest prompt.
        chat: A chat template, from the user's turn to the text up to where the model's begins; None for plain text.
        instruction: Stands first.

    Example:
        >>> question = Example("Where is it?", "Rome", "q", "q")
        >>> passages = [Passage.of("It is in Rome.", "It")]
        >>> print(QAPrompt(str.split, 100, instruction="Answer.")(question, passages).text)
        Answer.
        <BLANKLINE>
        Document 1 (It): It is in Rome.
        <BLANKLINE>
        Question: Where is it?
        Answer:
    """

    def __init__(
        self,
        tokenize: Callable[[str], Sequence[Any]],
        max_tokens: int,
        chat: Callable[[str], str] | None = None,
        instruction: str = INSTRUCTION,
    ) -> None:
        self.tokenize, self.max_tokens, self.chat, self.instruction = tokenize, max_tokens, chat, instruction

    def __call__(self, question: Example, passages: Sequence[Passage]) -> PromptText:
        """The prompt.

        Args:
            question: The row.
            passages: In the order in which they are shown.

        Raises:
            DataError: If it is too long although hardly anything is left of the passages.
        """
        text = whole = self._text(question, passages)
        tokens = len(self.tokenize(text))
        if tokens <= self.max_tokens:
            return PromptText(text, tokens, 0)
        sizes = [len(self.tokenize(passage.body)) for passage in passages]
        room = self.max_tokens - (tokens - sum(sizes))
        while (limit := _common_limit(sizes, room)) >= min(_LEAST, max(sizes)):
            shorter = [
                passage if size <= limit else Passage.of(_beginning(passage.body, limit, size), passage.title)
                for passage, size in zip(passages, sizes, strict=True)
            ]
            text = self._text(question, shorter)
            if (tokens := len(self.tokenize(text))) <= self.max_tokens:
                cut = sum(a.body != b.body for a, b in zip(shorter, passages, strict=True))
                return PromptText(text, tokens, cut)
            room -= max(1, tokens - self.max_tokens)
        raise DataError(
            f"The question {question.id} with {len(passages)} documents is too long",
            got=f"{len(self.tokenize(whole))} tokens",
            expected=f"at most {self.max_tokens}, with {_LEAST} tokens or more of every document",
            fix="Take fewer documents, or a model with a longer context.",
        )

    def _text(self, question: Example, passages: Sequence[Passage]) -> str:
        documents = [
            f"Document {i} ({passage.title}): {passage.body}" if passage.title else f"Document {i}: {passage.body}"
            for i, passage in enumerate(passages, 1)
        ]
        parts = [self.instruction, "\n".join(documents), f"Question: {question.text}"]
        text = "\n\n".join(part for part in parts if part)
        return f"{text}\n{ANSWER}" if self.chat is None else self.chat(text) + ANSWER


def _beginning(text: str, limit: int, size: int) -> str:
    """The share ``limit / size`` of a text's words; of its characters, where it has too few blanks for that.

    >>> _beginning("one two three four", 3, 6), _beginning("日本語の文章", 3, 6)
    ('one two', '日本語')
    """
    words = text.split(" ")
    return " ".join(words[: len(words) * limit // size]) or text[: len(text) * limit // size]


def _common_limit(sizes: Sequence[int], room: int) -> int:
    """The greatest limit under which ``sum(min(size, limit))`` is at most ``room``; negative if there is none.

    >>> _common_limit([10, 2, 9], 14), _common_limit([1, 1], 50)
    (6, 1)
    """
    left, rest = room, sorted(sizes)
    for i, size in enumerate(rest):
        share = left // (len(rest) - i)
        if size > share:
            return share
        left -= size
    return rest[-1]
