"""Whoever follows instructions writes passages in other words and asks about them; what it writes is read."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from coldframe.errors import ColdframeError, DataError
from coldframe.tasks.augmentation import Augmented
from coldframe.tasks.cells import as_text
from coldframe.tasks.passages import question_about
from coldframe.tasks.task import Passage

QUESTIONS = 3
"""Questions per passage, the papers' number."""

REWRITE = (
    "Write the passage below anew in other words. Keep every name, number and fact. Reply with the new passage only."
    "\n\nPassage: {passage}"
)
ASK = (
    "Write {count} different questions that the passage below answers. Reply with a JSON list of {count} objects with "
    'the fields "question", "answer" (a few words) and "full_answer" (a sentence).\n\nPassage: {passage}'
)

LIST_END = ("]",)
"""What a model writes after the list is read by nobody, and may be long."""

MAX_WRITTEN = 50_000
"""Longest answer that is looked at, in characters."""

_MAX_TRIES = 500  # objects that turn out to be none: more are no list of questions
_QUESTION = re.compile(r"(?:Question|Q)[ \d]*[:.](.*)")
_ANSWER = re.compile(r"\W*(?:Answer|A)[ \d]*[:.](.*)")

Write = Callable[[Sequence[str], int, Sequence[str]], Sequence[str | ColdframeError]]
"""Instructions, a seed and the texts that end an answer to answers; an error stands where one was refused."""


class QuestionWriter:
    """An augmenter that gives instructions and reads the answers.

    Args:
        write: Who follows them.
        hash: Names who does it and how.
        retries: Further attempts where an answer cannot be read, each with another seed.
        rewrites: Also have passages written in other words; training in the form ``closed-book`` does not read that,
            and it takes a good part of the time.
        batch_size: Passages at a time.

    Example:
        >>> answer = '[' + ', '.join('{"question": "Q%d?", "answer": "A"}' % i for i in range(3)) + ']'
        >>> writer = QuestionWriter(lambda texts, seed, stop: [answer] * len(texts), "me", rewrites=False)
        >>> [len(result.questions) for result in writer.write([Passage.of("It is red.")], print)]
        [3]
    """

    def __init__(
        self, write: Write, hash: str, *, retries: int = 5, rewrites: bool = True, batch_size: int = 16
    ) -> None:
        self._write, self.hash = write, hash
        self.retries, self.rewrites, self.batch_size = retries, rewrites, batch_size

    def write(self, passages: Sequence[Passage], report: Callable[[str], None]) -> Iterator[Augmented]:
        """In batches; when all were asked, those whose answers cannot be read are asked again, together."""
        drafts = [_Draft(passage, rewrite="" if self.rewrites else None) for passage in passages]
        for attempt in range(self.retries + 1):
            unread: list[_Draft] = []
            for start in range(0, len(drafts), self.batch_size):
                batch, seed = drafts[start : start + self.batch_size], 1_000_003 * attempt + start
                self._rewrite([draft for draft in batch if draft.rewrite == ""], seed)
                self._ask([draft for draft in batch if not draft.questions and not draft.problem], seed)
                for draft in batch:
                    if draft.problem or (draft.questions and draft.rewrite != ""):
                        yield draft.result()
                    else:
                        unread.append(draft)
            if len(unread) == len(passages) and not attempt and self.retries:
                report(f"none of {len(unread)} answers could be read; {unread[0].unread(1)}; asking again")
            drafts = unread
        for draft in drafts:
            draft.problem = draft.unread(self.retries + 1)
            yield draft.result()

    def _rewrite(self, drafts: Sequence[_Draft], seed: int) -> None:
        instructions = [REWRITE.format(passage=draft.passage.text) for draft in drafts]
        for draft, answer in zip(drafts, self._answers(instructions, seed), strict=True):
            if isinstance(answer, ColdframeError):
                draft.problem = str(answer)
            else:
                draft.rewrite = answer.strip()

    def _ask(self, drafts: Sequence[_Draft], seed: int) -> None:
        instructions = [ASK.format(count=QUESTIONS, passage=draft.passage.text) for draft in drafts]
        for draft, answer in zip(drafts, self._answers(instructions, seed, LIST_END), strict=True):
            if isinstance(answer, ColdframeError):
                draft.problem = str(answer)
            else:
                draft.answer = answer
                if len(read := read_questions_in(answer)) >= QUESTIONS:
                    draft.questions = read[:QUESTIONS]

    def _answers(
        self, instructions: Sequence[str], seed: int, stop: Sequence[str] = ()
    ) -> Sequence[str | ColdframeError]:
        return self._write(instructions, seed, stop) if instructions else []


class WrittenQuestion(NamedTuple):
    """A question, its short answer, and the answer as a sentence (may be empty)."""

    question: str
    answer: str
    full_answer: str = ""


@dataclasses.dataclass
class _Draft:
    """What is there of a passage so far; the rewrite is None where none is wanted."""

    passage: Passage
    rewrite: str | None
    questions: tuple[WrittenQuestion, ...] = ()
    answer: str = ""
    problem: str = ""

    def unread(self, attempts: int) -> str:
        """Why nothing came of it."""
        if self.questions:
            return f"no rewrite in {attempts} answers"
        return f"no {QUESTIONS} questions could be read in {attempts} answers; the last began {self.answer[:60]!r}"

    def result(self) -> Augmented:
        """What came of it."""
        if self.problem:
            return Augmented(self.passage, problem=self.problem)
        passage = dataclasses.replace(self.passage, rewrite=self.rewrite or "")
        rows = [question_about(passage, i, q, [answer], full) for i, (q, answer, full) in enumerate(self.questions)]
        return Augmented(passage, tuple(rows))


def read_questions_in(text: str) -> tuple[WrittenQuestion, ...]:
    r"""Questions with answers out of what a model wrote: JSON objects wherever they stand, else lines.

    Time grows with the length of the text, of which at most ``MAX_WRITTEN`` characters are looked at.

    >>> read_questions_in('Sure! ```json\n[{"question": "Who?", "answer": "Ada", "full_answer": "Ada is."}, {"que')
    (WrittenQuestion(question='Who?', answer='Ada', full_answer='Ada is.'),)
    >>> read_questions_in("1. Question: Who?\nAnswer: Ada")
    (WrittenQuestion(question='Who?', answer='Ada', full_answer=''),)
    """
    text = text[:MAX_WRITTEN]
    questions: dict[str, WrittenQuestion] = {}
    for question in [*_in_json(text)] or _in_lines(text):
        questions.setdefault(question.question, question)
    return tuple(questions.values())


def _in_json(text: str) -> Iterator[WrittenQuestion]:
    decoder, place = json.JSONDecoder(strict=False), text.find("{")
    for _ in range(_MAX_TRIES):
        if place < 0:
            return
        try:
            value, end = decoder.raw_decode(text, place)
        except RecursionError:
            return
        except ValueError:
            end, value = place + 1, None
        question = _question(value)
        if question is not None:
            yield question
        place = text.find("{", end if question is not None else place + 1)


def _in_lines(text: str) -> Iterator[WrittenQuestion]:
    question = ""
    for line in filter(str.strip, text.split("\n")):
        if question and (match := _ANSWER.match(line)) and (answer := match[1].strip(" *\r\t")):
            yield WrittenQuestion(question, answer)
        match = _QUESTION.search(line)
        question = match[1].strip(" *\r\t") if match else ""


def _question(value: object) -> WrittenQuestion | None:
    if not isinstance(value, dict):
        return None
    try:
        question, answer, full = (as_text(value.get(key)) for key in ("question", "answer", "full_answer"))
    except DataError:
        return None
    return WrittenQuestion(question, answer, full) if question and answer else None
