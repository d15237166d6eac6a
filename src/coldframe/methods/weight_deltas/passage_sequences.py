"""What an adapter of a passage is trained on: questions about it, with the passage before them or without."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, TypeAlias

from coldframe.errors import DataError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Conditioning
from coldframe.frozen.sequence_loss import TokenSequence
from coldframe.methods.base import prompts
from coldframe.tasks.task import Example, Passage, Schema, Task, content_hash

Form: TypeAlias = Literal["published", "closed-book"]
Loss: TypeAlias = Literal["sequence", "answer"]


@dataclasses.dataclass(frozen=True)
class PassageSequences:
    r"""Training sequences of a passage.

    ``published``, PRAG's: the first ``ceil(n / 2)`` of n questions come twice, after the passage and after its rewrite,
    the others once and alone; 5 sequences for 3 questions. ``closed-book``: every question once and alone. A passage
    that stands in the prompt can be copied from there, so only the others press it into the weights.

    Args:
        schema: How a question is put, and what ends its answer (the papers' is ``"."``).
        form: See above.
        loss: Count every token of the ``sequence`` (the papers'), or those of the ``answer``.
        full_answers: Train whole sentences where the questions have them.
    """

    schema: Schema
    form: Form = "closed-book"
    loss: Loss = "answer"
    full_answers: bool = False

    def of(self, lm: FrozenLM, passage: Passage, questions: Sequence[Example]) -> list[TokenSequence]:
        """The sequences, in a fixed order.

        Raises:
            DataError: There is no question, or a sequence is longer than the model's context; names the passage.
        """
        if not questions:
            raise DataError(
                f"{where(passage)} has no questions to learn from",
                fix="Bring them with the corpus (field qa), have some written (--augment), or pass --on-error skip.",
            )
        sequences = []
        twice = -(-len(questions) // 2) if self.form == "published" else 0
        versions = list(filter(None, (passage.text, passage.rewrite)))  # a rewrite may be missing
        for place, question in enumerate(questions):
            answer = question.full_target if self.full_answers and question.full_target else question.target
            contexts = versions if place < twice else [""]
            sequences += [self._sequence(lm, passage, question.text, answer, context) for context in contexts]
        return sequences

    def _sequence(self, lm: FrozenLM, passage: Passage, question: str, answer: str, context: str) -> TokenSequence:
        template = self.schema.template
        answer_ids = lm.answer_tokens(template.answer(answer.strip()), template.end)
        contexts = ((template.passage(context),),) if context else None
        dropped = lm.dropped_contexts
        try:
            row = lm.rows(prompts(self.schema, [question]), Conditioning(contexts=contexts), reserve=len(answer_ids))[0]
        except DataError as error:
            raise _too_long(passage, error.got, lm.max_positions) from error
        if lm.dropped_contexts > dropped:
            lm.dropped_contexts = dropped
            raise _too_long(passage, f"{len(lm.tokenize(context))} tokens of text", lm.max_positions)
        ids = row.shared + row.own
        return TokenSequence(ids + answer_ids, 1 if self.loss == "sequence" else len(ids))


def questions_by_passage(task: Task) -> dict[str, list[Example]]:
    """The questions about each passage of a task's store, by passage id, in their order.

    They are ``task.about``, or the training and validation rows: nothing is chosen by the latter where the last epoch
    is taken. A question that takes several passages to answer teaches none of them.
    """
    rows = task.about or (*task.train, *task.validation)
    questions: defaultdict[str, list[Example]] = defaultdict(list)
    for example in sorted(rows, key=lambda example: (example.row, example.id)):
        if len(example.gold) == 1:
            questions[example.gold[0]].append(example)
    return dict(questions)


def lesson_hash(passage: Passage, questions: Sequence[Example]) -> str:
    """Names all that a passage's adapter is trained on; its id may be its user's, and says nothing."""
    parts = (part for question in questions for part in (question.text, question.target, question.full_target))
    return content_hash(passage.text, passage.rewrite, *parts)


def where(passage: Passage) -> str:
    """A passage in an error message."""
    return f"The passage in row {passage.row}" if passage.row else f"The passage {passage.text[:40]!r}"


def _too_long(passage: Passage, length: object, limit: int) -> DataError:
    return DataError(
        f"{where(passage)} does not fit into the model's context",
        got=length,
        expected=f"at most {limit} tokens with question and answer",
        fix="Cut it into shorter passages, train with form 'closed-book', or skip such passages with --on-error skip.",
    )
