"""What an adapter of a passage is trained on: its questions, with the passage before them or without."""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeAlias

from coldframe.errors import DataError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Conditioning, Prompt
from coldframe.frozen.sequence_loss import TokenSequence
from coldframe.tasks.corpus import QUESTION, Augmentation, Passage
from coldframe.tasks.task import Template

Form: TypeAlias = Literal["published", "closed-book"]
Loss: TypeAlias = Literal["sequence", "answer"]


@dataclasses.dataclass(frozen=True)
class PassagePrompts:
    r"""Training sequences of a passage.

    ``published``, PRAG's: the first ``ceil(n / 2)`` of n questions come twice, after the passage and after its rewrite,
    the others once and alone; 5 sequences for 3 questions. ``closed-book``: every question once and alone. A passage
    that stands in the prompt can be copied from there, so only the others press it into the weights.

    Args:
        form: See above.
        loss: Count every token of the ``sequence`` (the papers'), or those of the ``answer``.
        full_answers: Train whole sentences where the augmentation has them.
        end: Stands after every answer, so that the model learns to stop; the papers' is ``"."``.
        template: How a question is put, in training and when it is asked.
    """

    form: Form = "closed-book"
    loss: Loss = "answer"
    full_answers: bool = False
    end: str = "\n"
    template: Template = QUESTION

    def of(self, lm: FrozenLM, passage: Passage, augmentation: Augmentation) -> list[TokenSequence]:
        """The sequences, in a fixed order.

        Raises:
            DataError: One of them is longer than the model's context; names the passage.
        """
        found = []
        twice = -(-len(augmentation.qa) // 2) if self.form == "published" else 0
        for place, qa in enumerate(augmentation.qa):
            answer = qa.full_answer if self.full_answers and qa.full_answer else qa.answer
            before = [passage.shown, augmentation.rewrite] if place < twice else [""]
            before = [text for text in before if text or place >= twice]  # a rewrite may be missing
            found += [self._sequence(lm, passage, qa.question, answer, text) for text in before]
        return found

    def prompt(self, question: str) -> Prompt:
        """A question up to its answer."""
        return Prompt(self.template.query(question), self.template.header)

    def block(self, text: str) -> str:
        """A passage as it stands before a question."""
        return text + self.template.separator

    def _sequence(self, lm: FrozenLM, passage: Passage, question: str, answer: str, before: str) -> TokenSequence:
        written = lm.tokenize(f" {answer.strip()}{self.end}")
        contexts = ((self.block(before),),) if before else None
        dropped = lm.dropped_contexts
        try:
            row = lm.rows([self.prompt(question)], Conditioning(contexts=contexts), reserve=len(written))[0]
        except DataError as error:
            raise _too_long(passage, error.got, lm.anatomy.max_positions) from error
        if lm.dropped_contexts > dropped:
            lm.dropped_contexts = dropped
            raise _too_long(passage, f"{len(lm.tokenize(before))} tokens of text", lm.anatomy.max_positions)
        ids = row.shared + row.own
        return TokenSequence(ids + written, 1 if self.loss == "sequence" else len(ids))


def _too_long(passage: Passage, got: object, limit: int) -> DataError:
    where = f"row {passage.row}, " if passage.row else ""
    return DataError(
        f"A passage does not fit into the model's context ({where}{passage.shown[:60]!r})",
        got=got,
        expected=f"at most {limit} tokens with question and answer",
        fix="Cut it into shorter passages, train with form 'closed-book', or skip such passages with --on-error skip.",
    )
